"""Gaps of tuned methods at equal cost over the cases: the data of findings on which method wins."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.dossier.mutations import COIN, SFT_ONLY, WRONG_PROBABILITY, wrong_methods
from analysis.fernando2024 import methods
from analysis.fernando2024.convex.cases import COUNT, Case, cases
from analysis.fernando2024.convex.tuning import (
    COARSE,
    NARROW,
    SCALES,
    Tuned,
    ends,
    pair_cost,
    tune,
    tune_each_stage,
    updates,
)
from tradeoff.convex import minimise
from tradeoff.schedules import Schedule, Sequential
from tradeoff.scores import paired_difference, weighted_loss

Array = NDArray[np.float64]
ORDERS, JOINT = methods.ORDERS, methods.JOINT[:2]
REPLICAS = 128


def method(name: str, lam: float) -> Schedule:
    """Schedule of a method, or of a mutation, by name. The stages of an order follow lambda."""
    if name in (WRONG_PROBABILITY, SFT_ONLY, COIN):
        return wrong_methods(lam)[name]
    return methods.schedule(name, lam, samples=0)


def budget(fast: bool) -> int:
    """Budget of a run, in SFT gradients."""
    return 1000 if fast else 2000


def gaps(
    name: str, fast: bool, own: bool = False, total: int | None = None, count: int = COUNT
) -> Array:
    """(cases, replicas) gaps of f_lambda of a method, with its tuned step sizes.

    Parameters
    ----------
    name
        One of :data:`ORDERS`, :data:`JOINT`, or a mutation of :mod:`analysis.dossier.mutations`.
    fast
        Use 1,000 SFT gradients and few step sizes, instead of 2,000 and all.
    own
        Tune each stage of an order for its own loss, instead of both for f_lambda.
    total, count
        Another budget in SFT gradients, and another number of cases.
    """
    return _gaps(name, fast, own, total or budget(fast), count, pair_cost())


@lru_cache(maxsize=32)
def _gaps(name: str, fast: bool, own: bool, total: int, count: int, pair: float) -> Array:
    return np.stack([end_gaps(case, name, fast, own, total, pair) for case in cases(count)])


def end_gaps(case: Case, name: str, fast: bool, own: bool, total: int, pair: float) -> Array:
    """(replicas,) gaps on one case; a pair costs ``pair`` demonstrations."""
    schedule = method(name, case.lam)
    steps = updates(schedule, total, pair)
    found: Tuned
    if own and isinstance(schedule, Sequential):
        scales = COARSE if fast else SCALES
        found = tune_each_stage(case.problem, schedule, steps, scales=scales)
    else:
        judged = lambda losses: weighted_loss(losses, case.lam)  # noqa: E731
        scales = NARROW if fast else SCALES
        found = tune(case.problem, schedule, steps, judged, scales=scales)
    losses = ends(case.problem, schedule, steps, found.step, replicas=REPLICAS)
    best = minimise(case.problem, case.lam, tolerance=1e-12).value
    return weighted_loss(losses, case.lam) - best


def beats(winner: ArrayLike, loser: ArrayLike, factor: float = 1.0) -> NDArray[np.bool_]:
    """(cases,) whether ``factor`` times the winner's mean gap is below the loser's (95 %).

    Parameters
    ----------
    winner, loser
        (cases, replicas) gaps on common draws.
    factor
        Factor that multiplies the winner's gap before the comparison.
    """
    difference = paired_difference(factor * np.asarray(winner), np.asarray(loser), axis=1)
    return np.asarray(difference.high < 0)
