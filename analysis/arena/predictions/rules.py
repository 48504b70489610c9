"""What the cards predict of rules that join both gradients."""

from __future__ import annotations

from analysis.arena.predictions.compare import HALF, level, more, most_wins
from analysis.arena.stored import cells, shown
from analysis.dossier.evidence import NEARLY_ALL
from analysis.dossier.mutations import mutate
from tradeoff.theory.checked import Checked

ANOTHER, WEAK = "another-rule", "weak-baseline"
SCALE_FREE = ("imtl_g", "nash_mtl", "aligned_mtl", "config", "famo")
APART = (0.1, 0.25, 0.75, 0.9)
"""Weights other than one half."""


def claim_pcgrad(fast: bool = False, mutation: str | None = None) -> Checked:
    return level(mutate(mutation, "pcgrad", {ANOTHER: "mgda"}), "mix", 0.01)


def claim_upgrad(fast: bool = False, mutation: str | None = None) -> Checked:
    table = cells(shown(), "regret")
    other = mutate(mutation, "upgrad", {ANOTHER: "mgda"})
    return Checked(table.loc[other].to_numpy(), table.loc["pcgrad"].to_numpy(), "exact", {}, 1e-9)


def claim_mgda(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("mgda", "mix", mutation=mutation, at_least=NEARLY_ALL)


def claim_mgda_near_the_front(fast: bool = False, mutation: str | None = None) -> Checked:
    other = mutate(mutation, "mgda", {ANOTHER: "dft"})
    return level(other, "mix", 0.02, "front_gap")


def claim_scale_free(fast: bool = False, mutation: str | None = None) -> Checked:
    return more(SCALE_FREE, "mix", mutation=mutation, lams=APART)


def claim_cagrad(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("cagrad", "mix", mutation=mutation)


def claim_graddrop(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("graddrop", "mix", mutation=mutation)


def claim_balancing(fast: bool = False, mutation: str | None = None) -> Checked:
    baseline = mutate(mutation, "mix", {WEAK: "maxright"})
    return most_wins("gradient", baseline, HALF, "regret")


def claim_balancing_front(fast: bool = False, mutation: str | None = None) -> Checked:
    baseline = mutate(mutation, "mix", {WEAK: "maxright"})
    return most_wins("gradient", baseline, HALF, "front_gap")
