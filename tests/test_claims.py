"""Every claim of the ledger is computed; a claim that stops holding fails here."""

import importlib

import pytest

from analysis import ledger
from tradeoff.checkout import ROOT
from tradeoff.errors import InputError
from tradeoff.theory.checked import Checked

CLAIMS = ledger.claims()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_claim_holds(claim):
    checked = claim.check(fast=True)
    assert isinstance(checked, Checked)
    assert checked.holds, f"{claim.statement} (slack {checked.slack:.3g})"
    if claim.kind != "trend":
        assert checked.kind == claim.kind


def test_every_claim_function_is_in_the_ledger():
    listed = {claim.code for claim in CLAIMS}
    for path in sorted((ROOT / "analysis").glob("*.py")):
        module = importlib.import_module(f"analysis.{path.stem}")
        functions = {f"analysis.{path.stem}:{n}" for n in vars(module) if n.startswith("claim_")}
        assert functions <= listed, functions - listed


def test_a_false_statement_fails():
    assert not Checked(2.0, 1.0, "upper").holds
    assert not Checked(float("nan"), 1.0, "upper").holds
    assert not Checked([1.0, 2.0], [1.0, 2.1], "exact").holds
    assert Checked([1.0, 2.0], [0.5, 2.0], "lower").slack == 0.0


ENTRY = """
[[claim]]
id = "one"
statement = "s"
source = "ours"
kind = "{kind}"
code = "analysis.scores:claim"
{extra}
"""


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (ENTRY.format(kind="upper", extra=""), "tolerance"),
        (ENTRY.format(kind="maybe", extra='tolerance = "0"'), "kind"),
        (ENTRY.format(kind="upper", extra='tolerance = "0"') * 2, "id"),
    ],
)
def test_a_malformed_ledger_names_the_entry(tmp_path, text, field):
    path = tmp_path / "claims.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"claims\.toml.*row") as caught:
        ledger.claims(path)
    assert caught.value.field == field
