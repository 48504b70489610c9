"""What the cards predict of losses and of chosen rows."""

from __future__ import annotations

from analysis.arena.predictions.compare import HALF, less, more, most_wins
from analysis.dossier.evidence import NEARLY_ALL
from analysis.dossier.mutations import mutate
from tradeoff.theory.checked import Checked

WITHOUT_REFERENCE = ("simpo", "cpo", "slic", "orpo")


def claim_preference_losses(fast: bool = False, mutation: str | None = None) -> Checked:
    baseline = mutate(mutation, "mix", {"weak-baseline": "maxright"})
    return most_wins("preference", baseline, HALF, "front_gap")


def claim_without_reference(fast: bool = False, mutation: str | None = None) -> Checked:
    return more(WITHOUT_REFERENCE, "mix", mutation=mutation, score="front_gap")


def claim_dft(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("dft", "mix", mutation=mutation, score="front_gap", at_least=NEARLY_ALL)


def claim_asft(fast: bool = False, mutation: str | None = None) -> Checked:
    return less("asft", "dft", mutation=mutation, score="front_gap")


def claim_filter(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("lowest_perplexity", "mix", mutation=mutation, at_least=NEARLY_ALL)
