"""What the cards predict of merges, anchors and masks."""

from __future__ import annotations

from analysis.arena.predictions.compare import less, level, more, on_problems
from analysis.arena.stored import cells, of_slot, shown
from analysis.dossier.mutations import SWAPPED, mutate
from tradeoff.theory.checked import Checked


def claim_soup_over_sequence(fast: bool = False, mutation: str | None = None) -> Checked:
    return less("soup", "sft-dpo", mutation=mutation)


def claim_merging(fast: bool = False, mutation: str | None = None) -> Checked:
    numbers = shown()
    table = cells(numbers, "regret")
    trained = table.loc[["mix", "alright"]].min()
    merged = table.loc[of_slot(numbers, "merge")].min()
    pair = (trained, merged)
    pair = mutate(mutation, pair, {SWAPPED: pair[::-1]})
    return on_problems(pair[0] < pair[1])


def claim_sparse(fast: bool = False, mutation: str | None = None) -> Checked:
    return more(("ties", "dare"), "soup", mutation=mutation)


def claim_l2_sp(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("l2_sp", "mix", mutation=mutation, score="front_gap")


def claim_half(fast: bool = False, mutation: str | None = None) -> Checked:
    other = mutate(mutation, "hft", {"another-method": "orpo"})
    return level(other, "mix", 0.02, "front_gap")
