"""The table of the literature agrees with the catalogue, and gives a reason for what is missing."""

from __future__ import annotations

from collections import Counter

import pytest

from tradeoff.methods import find, names
from tradeoff.methods.cards import MARKS, Card, cards
from tradeoff.methods.presets import PRESETS
from tradeoff.parts import SCALES

OUTSIDE = {
    # Methods of ours or of common use, without a row in the table.
    "sft-dpo", "dpo-sft", "rounds", "constrained", "longest", "balanced_lengths", "by_margin",
    "subsample", "top_gradient", "gradient_memory", "sigmoid_norm", "f_dpo", "forward_dpo",
    "apo_down", "aot_unpaired", "chord", "dualproj", "tail_average", "slerp",
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


def test_rows_that_are_not_held_run_nowhere() -> None:
    card = next(card for card in cards() if not card.method)
    assert set(card.scales().values()) == {card.reason}
