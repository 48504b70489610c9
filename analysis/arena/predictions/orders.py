"""What the cards predict of schedules and averages."""

from __future__ import annotations

import numpy as np

from analysis.arena.predictions.compare import HALF, less, more
from analysis.arena.stored import means, shown, wins
from analysis.dossier.mutations import COIN, mutate
from tradeoff.arena.ranks import kendall
from tradeoff.theory.checked import Checked

SMALL, MIDDLE, LARGE = (0.1, 0.25), (0.5,), (0.75, 0.9)


def claim_alright_at_small_weights(fast: bool = False, mutation: str | None = None) -> Checked:
    return less("alright", "mix", mutation=mutation, lams=SMALL)


def claim_mix_at_large_weights(fast: bool = False, mutation: str | None = None) -> Checked:
    lams = mutate(mutation, LARGE, {"small-weights": SMALL})
    return less("mix", "alright", mutation=None, lams=lams)


def claim_evenly(fast: bool = False, mutation: str | None = None) -> Checked:
    return less("evenly", "alright", mutation=mutation)


def claim_sequential(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("sft-dpo", "alright", mutation=mutation, lams=(*MIDDLE, *LARGE))


def claim_maxright(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("maxright", "alright", mutation=mutation)


def claim_tail_average(fast: bool = False, mutation: str | None = None) -> Checked:
    return less("tail_average", "mix", mutation=mutation)


def claim_few_beat_alright(fast: bool = False, mutation: str | None = None) -> Checked:
    baseline = mutate(mutation, "alright", {"weak-baseline": "maxright"})
    found = wins(shown(), baseline)["better"]
    return Checked(float((found > HALF).sum()), 10.0, "upper", {"methods": len(found)}, 0.0)


def claim_transfer_to_the_law(fast: bool = False, mutation: str | None = None) -> Checked:
    rows, law = (
        means(shown(), score).mean(axis=1).to_numpy() for score in ("regret", "law_regret")
    )
    guess = np.random.default_rng(0).permutation(rows)
    return Checked(kendall(mutate(mutation, rows, {COIN: guess}), law), 0.5, "lower", {}, 0.0)
