"""The arena's dossier: its fast form runs, and its stored claims can fail."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.arena import stored
from analysis.arena.answers import answers
from analysis.arena.boards import (
    board,
    language,
    matched,
    policies,
    scenarios,
    scenarios_networks,
    text,
)
from analysis.arena.dossier import DOSSIER
from analysis.arena.pictures import families, kinds, third, third_networks, transfer
from analysis.arena.tables import all_tables
from analysis.dossier import ledger, report, runner
from tradeoff.arena import network_runs
from tradeoff.arena.ranks import critical_difference, friedman, rank_table
from tradeoff.arena.scenarios import SCENARIOS, scenario
from tradeoff.records import read_json

CLAIMS = ledger.claims(DOSSIER.folder / ledger.LEDGER)
VERDICTS = DOSSIER.folder / "results" / "claims.json"


@pytest.mark.slow
def test_the_fast_form_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (board, policies, language, text, scenarios_networks):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "runs" / module.__name__)
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    # Least losses under a short budget: what they are worth is not what this test is about.
    monkeypatch.setattr(network_runs, "LONGER", 0.25)
    monkeypatch.setattr(network_runs, "least_losses", cache(network_runs.least_losses.__wrapped__))
    for name in DOSSIER.studies:
        assert runner.run(DOSSIER, name, tmp_path, fast=True).fresh
    numbers = read_json(tmp_path / "results" / "board.json")["numbers"]
    assert numbers["problems"] == list(board.FAST_PROBLEMS)
    assert set(board.FAST_METHODS) < set(numbers["methods"])
    found = stored.means(numbers, "regret")
    assert (found.to_numpy() > 0).all()
    assert stored.wins(numbers, "mix").loc["mix"].tolist() == [0, 0]
    assert len(all_tables({"board": numbers})["board"]) == len(numbers["methods"])
    assert answers({"board": numbers})["first"][0]["name"] in numbers["methods"]
    for module in (
        board,
        policies,
        language,
        text,
        kinds,
        families,
        third,
        third_networks,
        transfer,
    ):
        shown = read_json(tmp_path / "results" / f"{module.__name__.rpartition('.')[2]}.json")
        assert "{" not in module.CAPTION.format(**module.words(shown["numbers"]))


def test_a_dossier_without_a_board_says_so() -> None:
    assert all_tables({}) == {}
    assert answers({}) == {}
    text = report.render(DOSSIER, ("sections/method.md.j2",), {"results": {}})
    assert "has not run yet" in text


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_verdicts_are_those_of_the_stored_board_and_mutations_break_them(claim: Any) -> None:
    kept = {each["id"]: each for each in ledger.verdicts(VERDICTS)}
    found = claim.check()
    assert found.holds == kept[claim.id]["holds"]
    for mutation in claim.mutations:
        assert not claim.check(mutation=mutation).holds, mutation


def test_the_stored_board_is_whole() -> None:
    numbers = stored.shown()
    shape = len(numbers["methods"]), len(numbers["problems"]), len(numbers["lams"])
    assert stored.array(numbers["cells"]["regret"]).shape == shape
    assert numbers["replicas"] >= 20
    assert numbers["friedman_p"] == pytest.approx(
        friedman(stored.means(numbers, "regret")), rel=0.5
    )
    assert numbers["critical_difference"] == pytest.approx(critical_difference(*shape[:2]))
    ranks = rank_table(stored.means(numbers, "regret"))["rank"]
    assert ranks.mean() == pytest.approx((shape[0] + 1) / 2)


def test_numbers_that_are_stored_as_texts_come_back() -> None:
    numbers = np.random.default_rng(0).normal(size=(3, 2, 4)) * 10.0 ** np.arange(-8, 8, 4)
    numbers[0, 0, 0] = np.nan
    kept = stored.texts(numbers)
    assert np.shape(kept) == (3, 2)
    np.testing.assert_allclose(stored.array(kept), numbers, rtol=5e-4)
    assert stored.texts(stored.array(kept)) == kept


def test_the_stored_board_has_every_cell() -> None:
    numbers = stored.shown()
    counts = len(numbers["methods"]), len(numbers["problems"]), len(numbers["lams"])
    assert numbers["runs"] == np.prod(counts) * numbers["replicas"]
    for score in numbers["cells"]:
        assert np.isfinite(stored.cells(numbers, score).to_numpy()).all()
    for score in (*numbers["means"], "coverage"):
        assert np.isfinite(stored.means(numbers, score).to_numpy()).all()
    for score, found in numbers["differences"].items():
        for baseline in found:
            table = stored.differences(numbers, baseline, score).set_index("name")
            assert table["p"].isna().sum() == counts[1] == table.loc[baseline, "p"].isna().sum()
            assert np.isfinite(table[["difference", "half_width"]].to_numpy()).all()


def test_quantiles_are_those_of_the_books() -> None:
    # Demsar (2006), table 5a: studentized range over sqrt(2) at 5 %.
    for methods, quantile in ((2, 1.960), (5, 2.728), (10, 3.164)):
        found = critical_difference(methods, 1) / np.sqrt(methods * (methods + 1) / 6)
        assert found == pytest.approx(quantile, abs=1e-3)


@pytest.mark.slow
def test_losses_on_equal_terms_are_whole() -> None:
    numbers, whole = stored.of("matched"), stored.shown()
    names = ["mix", *stored.of_slot(whole, "preference")]
    assert ["mix", *numbers["losses"]] == names
    for terms in matched.TERMS:
        found = numbers[terms]
        assert (found["methods"], found["problems"]) == (names, whole["problems"])
        for score in matched.SCORES:
            assert np.isfinite(stored.cells(found, score).to_numpy()).all()
        # Mix runs as it does on the whole board.
        own, there = (stored.cells(each, "regret").loc["mix"] for each in (found, whole))
        np.testing.assert_array_equal(own, there)
    said = answers({"board": whole, "matched": numbers})["terms"]
    assert said["losses"] == len(names) - 1
    groups = {"grpo", "egpo", "semantic_reward", "srft_own"}
    assert set(said["without_beta"]) == {"expected_reward", "slic", "orpo", *groups}
    table = all_tables({"board": whole, "matched": numbers})["losses"].set_index("name")
    assert table.loc["sigmoid", "regret: β, pull"].startswith("0 ±")
    assert table.loc["adpo", "takes"] == "τ = 1/β"


def test_scenarios_are_whole() -> None:
    numbers = stored.of("scenarios")
    assert set(numbers["scenarios"]) == set(SCENARIOS)
    assert numbers["seeds"] >= 20
    for kind, skills in numbers["skills"].items():
        assert set(skills) == set(scenario(kind).skills)
        for name in skills:
            before, after = scenarios.skill(numbers, kind, name)
            assert after.shape == (len(numbers["methods"]), numbers["seeds"])
            assert ((after >= 0) & (after <= 1)).all().all()
            assert before[0] == pytest.approx(scenario(kind).before[name], rel=1e-3)
    table = all_tables({"board": stored.shown(), "scenarios": numbers})["skills"]
    assert len(table) == sum(map(len, numbers["skills"].values()))
