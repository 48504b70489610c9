"""The table of the literature agrees with the catalogue, and gives a reason for what is missing."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

from tradeoff.arena.scenarios import SCENARIOS
from tradeoff.checkout import ROOT
from tradeoff.methods import find, names
from tradeoff.methods.cards import MARKS, Card, cards
from tradeoff.methods.presets import PRESETS
from tradeoff.parts import SCALES, load

OUTSIDE = {
    # Methods of ours or of common use, without a row in the table.
    "sft-dpo", "dpo-sft", "rounds", "constrained", "longest", "balanced_lengths", "by_margin",
    "subsample", "top_gradient", "gradient_memory", "sigmoid_norm", "f_dpo", "forward_dpo",
    "apo_down", "aot_unpaired", "chord", "dualproj", "tail_average", "slerp",
    "grpo", "srft_demonstrations", "srft_own",
}  # fmt: skip


def test_every_row_is_held_or_says_why_not() -> None:
    assert len(cards()) == 176
    for card in cards():
        assert bool(card.method) != bool(card.reason), card.id
        assert card.name
        assert card.source
        assert card.mark in MARKS
    assert sum(bool(card.method) for card in cards()) >= 140
    counts = Counter(card.id for card in cards())
    assert set(counts.values()) == {1}
    assert Counter(card.id[0] for card in cards()) == {"S": 58, "G": 32, "J": 52, "C": 25, "X": 9}


def test_every_name_of_the_catalogue_is_in_the_table() -> None:
    held = {card.method for card in cards() if card.method}
    assert held <= set(names())
    assert set(names()) - held == OUTSIDE


@pytest.mark.parametrize("card", [c for c in cards() if c.method], ids=lambda card: card.id)
def test_a_row_that_is_held_runs_somewhere_and_has_its_mark(card: Card) -> None:
    reasons = card.scales()
    assert set(reasons) == set(SCALES)
    assert None in reasons.values()
    if card.method in PRESETS:  # The table says this of the method.
        return
    method = find(card.method)
    parts = (method.schedule, *method.changed().values())
    said = " ".join(type(part).__doc__ or "" for part in parts)
    assert {"B": "second-hand", "C": "abstract"}.get(card.mark, "") in said, card.id


MEASURES = [card for card in cards() if card.measure]


def test_metrics_are_measures_and_scenarios_are_problems() -> None:
    kinds = {"metric": lambda card: card.measure, "scenario": lambda card: card.scenario}
    for card in cards():
        if card.kind in kinds and card.id != "S30":  # S30 writes its own rows.
            assert kinds[card.kind](card) or card.method, card.id
        assert not (card.method and (card.measure or card.scenario)), card.id
    assert {"S05", "S15", "S43", "S45", "S48", "G26"} <= {card.id for card in MEASURES}


@pytest.mark.parametrize("card", MEASURES, ids=lambda card: card.id)
def test_a_row_that_is_a_measure_has_its_function(card: Card) -> None:
    found = load(card.measure)
    assert callable(found)
    assert inspect.getdoc(found)
    module = card.measure.partition(":")[0]
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    assert f"::: {module}\n" in pages


def test_rows_that_are_problems_name_those_of_the_arena() -> None:
    named = {card.id: card.scenarios for card in cards() if card.scenario}
    assert named["S23"] == ("trigger", "trigger-apart")
    assert set(named) == {"S06", "S23", "S31", "S47"}
    for id_, names_ in named.items():
        assert set(names_) <= set(SCENARIOS), id_


def test_rows_that_are_not_held_run_nowhere() -> None:
    card = next(card for card in cards() if not card.method)
    assert set(card.scales().values()) == {card.reason}
