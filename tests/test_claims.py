"""Every claim of the ledger is computed, and every mutation of it must break it."""

import importlib
import inspect
import re

import numpy as np
import pytest
from scipy.stats import beta as beta_distribution

from analysis.dossier import evidence, ledger, mutations
from analysis.fernando2024.dossier import DOSSIER
from tradeoff.checkout import ROOT
from tradeoff.errors import InputError
from tradeoff.theory.checked import Checked

CLAIMS = ledger.claims(DOSSIER.folder / "claims.toml")
CONVEX = {DOSSIER.dotted(name) for name in DOSSIER.figures}


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({claim.code.split(":")[0] for claim in CLAIMS}))
def test_claims_hold_and_their_mutations_break_them(module):
    """One test per module, so that claims and mutations share their computations."""
    wrong = []
    for claim in (c for c in CLAIMS if c.code.startswith(f"{module}:")):
        checked = claim.check(fast=True)
        assert isinstance(checked, Checked)
        assert checked.kind in ledger.RELATIONS.get(claim.kind, (checked.kind,)), claim.id
        if not checked.holds:
            wrong.append(f"{claim.id} fails (slack {checked.slack:.3g})")
        for name in claim.mutations:
            broken = claim.check(fast=True, mutation=name)
            if broken.holds:
                wrong.append(f"{claim.id} survives {name!r} (slack {broken.slack:.3g})")
    assert wrong == []


def test_every_claim_has_a_mutation():
    assert [claim.id for claim in CLAIMS if not claim.mutations] == []


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_finding_rests_on_many_instances_or_seeds(claim):
    """Findings on the convex laboratory hold over at least 20 instances, with an interval."""
    if claim.kind == "finding" and claim.code.split(":")[0] in CONVEX:
        assert re.search(r"(\d+) seeded instances", claim.over), claim.over
        assert int(re.search(r"(\d+) seeded", claim.over)[1]) >= evidence.INSTANCES
        assert "interval" in claim.tolerance or "equivalence" in claim.tolerance


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_an_unknown_mutation_is_bad_input(claim):
    with pytest.raises(InputError, match="no such mutation"):
        claim.check(fast=True, mutation="no-such-mutation")
    if claim.mutations:
        module, name = claim.code.split(":")
        function = getattr(importlib.import_module(module), name)
        assert list(inspect.signature(function).parameters) == ["fast", "mutation"]
        with pytest.raises(InputError, match="no such mutation"):
            function(fast=True, mutation="no-such-mutation")


def test_every_claim_function_is_in_the_ledger():
    listed = {claim.code for claim in CLAIMS}
    for path in sorted(DOSSIER.home.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        functions = re.findall(r"^def (claim_\w+)", path.read_text("utf-8"), re.MULTILINE)
        assert {f"{name}:{function}" for function in functions} <= listed


def test_a_false_statement_fails():
    assert not Checked(2.0, 1.0, "upper").holds
    assert not Checked(float("nan"), 1.0, "upper").holds
    assert not Checked([1.0, 2.0], [1.0, 2.1], "exact").holds
    assert not Checked(np.zeros(0), np.zeros(0), "upper").holds
    assert "FAILS" in repr(Checked(np.zeros(0), np.zeros(0), "upper"))
    assert Checked([1.0, 2.0], [0.5, 2.0], "lower").slack == 0.0


@pytest.mark.parametrize(
    ("measured", "bound", "kind", "field"),
    [(1.0, 2.0, "under", "kind"), ([1.0, 2.0], [1.0, 2.0, 3.0], "upper", "bound")],
)
def test_a_statement_that_cannot_be_checked_is_bad_input(measured, bound, kind, field):
    statement = object.__new__(Checked)
    with pytest.raises(InputError) as caught:  # past the tests' own check of types
        Checked.__init__.__wrapped__(statement, measured, bound, kind)
    assert caught.value.field == field


ENTRY = """
[[claim]]
id = "one"
statement = "s"
over = "one instance"
source = "ours"
kind = "{kind}"
code = "analysis.fernando2024.convex.scores:claim"
reads = "{reads}"
mutations = {mutations}
{extra}
"""


def entry(kind="upper", reads="computed", names='["coin"]', extra='tolerance = "0"'):
    return ENTRY.format(kind=kind, reads=reads, mutations=names, extra=extra)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (entry(extra=""), "tolerance"),
        (entry(kind="maybe"), "kind"),
        (entry(reads="guessed"), "reads"),
        (entry(names='["coin", "coin"]'), "mutations"),
        (entry() * 2, "id"),
    ],
)
def test_a_malformed_ledger_names_the_entry(tmp_path, text, field):
    path = tmp_path / "claims.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"claims\.toml.*row") as caught:
        ledger.claims(path)
    assert caught.value.field == field


def test_the_summary_counts_every_sort():
    rows = [
        {"kind": kind, "reads": reads, "holds": holds}
        for kind, reads, holds in (
            ("identity", "computed", True),
            ("certificate", "computed", True),
            ("upper", "computed", True),
            ("finding", "stored", False),
            ("against", "stored", True),
        )
    ]
    assert ledger.summary(rows) == (
        "2 identities and certificates, 1 bound, 1 finding, 0 regressions, 1 against us; "
        "3 computed now, 2 from stored runs; 1 claim fails"
    )
    assert ledger.counts(rows)["total"] == len(rows)


def test_mutants_replace_the_honest_value():
    wrong = mutations.wrong_methods(0.25)
    assert mutations.mutate(None, "right", wrong) == "right"
    assert mutations.mutate("wrong-probability", "right", wrong).lam == 0.75
    with pytest.raises(InputError, match=r"It has: .*sft-then-dpo"):
        mutations.mutate("typo", "right", wrong)
    assert mutations.swapped((1, 2)) == (2, 1)


def test_a_share_is_exact_and_needs_instances():
    # Clopper and Pearson's interval of 20 of 20 is 0.025 ** (1 / 20) to 1.
    assert float(evidence.share([True] * 20).low) == pytest.approx(0.025 ** (1 / 20))
    assert float(evidence.share([False] * 20).high) == pytest.approx(1 - 0.025 ** (1 / 20))
    assert evidence.holds_on([True] * 20).holds
    assert not evidence.holds_on([True] * 17 + [False] * 3).holds
    with pytest.raises(InputError, match="too few instances"):
        evidence.holds_on([True] * 19)
    with pytest.raises(InputError, match="no instances"):
        evidence.share([])


def test_fewer_is_the_other_end_of_the_interval():
    held = [True] * 3 + [False] * 21
    found = evidence.holds_on_fewer(held, 0.5)
    assert found.holds
    assert float(found.measured) == pytest.approx(float(evidence.share(held).high))
    assert not evidence.holds_on_fewer([True] * 12 + [False] * 12, 0.5).holds


def test_absence_needs_a_margin_that_the_interval_respects():
    near = np.linspace(-1, 1, 21)
    assert evidence.equivalent(near, 0.5).holds
    assert not evidence.equivalent(near, 0.1).holds  # Not significant, although the mean is 0.
    assert not evidence.equivalent(near + 0.6, 0.5).holds


def test_cells_of_one_unit_count_once():
    # 0.025 ** (1 / 13) and, for 10 of 13, the quantile of a Beta(10, 4) distribution.
    all_held = evidence.holds_on_units(np.ones((13, 5), dtype=bool))
    assert float(all_held.measured) == pytest.approx(0.025 ** (1 / 13))
    some = np.ones((13, 2), dtype=bool)
    some[:3, 0] = False  # A half of the cells of a unit is not most.
    found = evidence.holds_on_units(some, 0.5)
    assert not found.holds
    assert float(found.measured) == pytest.approx(beta_distribution.ppf(0.025, 10, 4))
    assert (found.constants["units"], found.constants["of units"]) == (10, 13)
    assert evidence.holds_on(some, 0.5).holds  # as if all cells were independent
    few = np.repeat([[True, True, True, True, False]], 12, axis=0)
    assert evidence.holds_on_units(few, 0.8).holds
    assert not evidence.holds_on_units(few, 0.9).holds
    with pytest.raises(InputError, match="too few units"):
        evidence.holds_on_units(np.ones((5, 8), dtype=bool))
