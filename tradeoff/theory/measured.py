"""Functions shared by the rate theorems: targets, gradient bounds, and whether a bound can fail.

A bound above the gap of every policy says nothing. So each rate is tested where it lies below the
gaps of the untrained policy and of wrong methods: :func:`can_fail`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.solve import minimise, minimise_max_gap
from tradeoff.errors import InputError
from tradeoff.schedules import Maxright, Schedule
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants
from tradeoff.theory.joint import second_moment_bound

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """The function that a schedule minimises: f_lambda, or F_lambda for MAXRIGHT.

    Attributes
    ----------
    weights
        (1 - lam, lam).
    optima
        Minima of both losses for F_lambda; ``None`` for f_lambda.
    least
        The minimum of the target.
    certificate
        Upper bound on ``least`` less the true minimum.
    """

    weights: tuple[float, float]
    optima: tuple[float, float] | None
    least: float
    certificate: float

    def excess(self, losses: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
        """Value of the target above its minimum, from (SFT, preference) losses."""
        pair = np.array(self.weights)
        if self.optima is None:
            return np.asarray(losses @ pair - self.least)
        return np.asarray(np.max((losses - np.array(self.optima)) * pair, axis=-1) - self.least)


def target(problem: Any, schedule: Schedule) -> Target:
    """The target of a schedule on a problem, with its certified minimum."""
    return _target(problem, schedule.lam, isinstance(schedule, Maxright))


@lru_cache(maxsize=8)
def _target(problem: Any, lam: float, larger_gap: bool) -> Target:
    pair = (1 - lam, lam)
    if not larger_gap:
        found = minimise(problem, lam, tolerance=1e-12)
        return Target(pair, None, found.value, found.certificate)
    alone = [minimise(problem, weight, tolerance=1e-12) for weight in (0.0, 1.0)]
    best = minimise_max_gap(problem, lam)
    doubt = best.certificate + max(m.certificate for m in alone)
    return Target(pair, (alone[0].value, alone[1].value), best.value, doubt)


def gradient_bound(problem: LogLinear, schedule: Schedule) -> float:
    """G with E|g|^2 <= G^2 for the update directions of ALRIGHT, Mix or exact MAXRIGHT.

    Raises
    ------
    InputError
        For MAXRIGHT with stale, estimated or unweighted steps, which T7 covers.
    """
    if not isinstance(schedule, Maxright):
        return float(np.sqrt(second_moment_bound(problem, schedule)))
    if schedule.refresh != 1 or schedule.samples or not schedule.weighted:
        raise InputError(
            "the subgradients of F_lambda must be exact",
            field="schedule",
            value=schedule.to_dict(),
            remedy="Use Maxright(refresh=1, samples=0, weighted=True), or T7 for the others.",
        )
    return constants(problem).weighted_gradient(schedule.lam)


def standard_error(values: Float[np.ndarray, "n *m"]) -> Float[np.ndarray, "*m"]:
    """Standard error of the mean of n replicas.

    Raises
    ------
    InputError
        For one replica, from which no error can be estimated.
    """
    if len(values) < 2:
        raise InputError(
            "the error of a mean cannot be estimated from one run",
            field="replicas",
            value=len(values),
            remedy="Use two or more, better hundreds.",
        )
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def mean_below(
    values: ArrayLike, limit: float, known: dict[str, float], certificate: float = 0.0
) -> Checked:
    """Check that the mean over replicas is at most ``limit``, within three standard errors."""
    found = np.asarray(values, dtype=float)
    error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    slack = 3 * error + certificate + 1e-9
    return Checked(float(found.mean()), limit, "upper", {**known, "SE": error}, slack)


def can_fail(problem: LogLinear, schedule: Schedule, limit: float) -> Checked:
    """Check that a bound could be broken on this problem: wrong policies have larger gaps.

    ``measured`` holds the gaps of the untrained policy (the centre), of the limit of SFT -> DPO,
    and of the minimiser for the swapped weight 1 - lam; ``bound`` is ``limit``. Where the check
    holds, a run that does nothing, forgets, or swaps the weights breaks the rate.
    """
    others = [np.zeros(problem.dimension)]
    others += [minimise(problem, weight).theta for weight in (1.0, 1 - schedule.lam)]
    goal = target(problem, schedule)
    gaps = goal.excess(problem.losses(np.stack(others)))
    known = dict(zip(("untrained", "sft-dpo", "swapped"), gaps.tolist(), strict=True))
    return Checked(gaps, np.full(3, limit), "lower", known, 0.0)
