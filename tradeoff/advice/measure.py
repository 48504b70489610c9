"""One measurement: a split, a draw of candidates and a radius give these numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.conflict import EQUAL_STAGES, held_out_problem, largest_curvature
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import StepSize, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.convex.text import text_problem
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.splits import Split
from tradeoff.schedules import PREFERENCE, SFT, Mix, Rounds, Schedule, Sequential

Array = NDArray[np.float64]
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Weights of the preference objective at which the front is solved."""
TOLERANCE = 1e-3
"""Certified error of a solve, in nats."""
STEPS = 64
"""Full-gradient updates of a run."""
ROUNDS = (1, 2, 4, 8, 16)
"""Numbers of alternations that are tried."""


@dataclass(frozen=True)
class Posed:
    """Two convex problems with the same parameters: rows to train on, and rows held out."""

    train: LogLinear
    test: LogLinear

    @property
    def start(self) -> Array:
        """(2, 2) losses of the untrained policy: [train, test] x [SFT, preference]."""
        centre = np.zeros(self.train.dimension)
        return np.stack([self.train.losses(centre), self.test.losses(centre)])


@dataclass(frozen=True)
class Path:
    """The optima over all weights.

    Attributes
    ----------
    thetas
        (K, d) parameters.
    losses
        (2, K, 2) losses: [train, test] x weight x [SFT, preference].
    certificate
        Largest certified error of a solve, in nats.
    """

    thetas: Array
    losses: Array
    certificate: float


def pose(sft: Split[SftRow], preference: Split[PreferenceRow], **shape: Any) -> Posed:
    """The problem of a split; `shape` goes to `text_problem`."""
    train = text_problem(list(sft.train), list(preference.train), **shape)
    test = held_out_problem(list(sft.test), list(preference.test), list(sft.train), **shape)
    return Posed(train, test)


def optima(posed: Posed, weights: Sequence[float] = WEIGHTS) -> Path:
    """Solve for every weight, each from the one before."""
    theta, found = np.zeros(posed.train.dimension), []
    for lam in weights:
        found.append(minimise(posed.train, lam, tolerance=TOLERANCE, start=theta))
        theta = found[-1].theta
    thetas = np.stack([minimum.theta for minimum in found])
    losses = np.stack([posed.train.losses(thetas), posed.test.losses(thetas)])
    return Path(thetas, losses, max(minimum.certificate for minimum in found))


def conflict(losses: Array) -> float:
    """How far the path of optima bends away from a straight line: 0 agree, 1 exclude each other.

    Twice the smallest equal share of both ranges that has to be given up, as
    `tradeoff.conflict.front_conflict`, of (K, 2) losses. 0 where a range is not positive: one
    policy is then best at both.
    """
    ranges = np.array([losses[-1, SFT] - losses[0, SFT], losses[0, 1] - losses[-1, 1]])
    if np.any(ranges <= 0):
        return 0.0
    given = (losses - [losses[0, SFT], losses[-1, PREFERENCE]]) / ranges
    crossing = np.interp(0.0, np.maximum.accumulate(given[:, 0] - given[:, 1]), given[:, 0])
    return float(np.clip(2 * crossing, 0, 1))


def balanced(losses: Array, weights: Sequence[float] = WEIGHTS) -> float:
    """The weight at which both objectives give up the same share of their range; NaN without."""
    ranges = np.array([losses[-1, SFT] - losses[0, SFT], losses[0, 1] - losses[-1, 1]])
    if np.any(ranges <= 0):
        return float("nan")
    given = (losses - [losses[0, SFT], losses[-1, PREFERENCE]]) / ranges
    return float(np.interp(0.0, np.maximum.accumulate(given[:, 0] - given[:, 1]), weights))


def gains(posed: Posed, path: Path) -> Array:
    """(2, 2) share of the start loss that each objective alone gains: [train, test] x objective."""
    alone = np.stack([path.losses[:, 0, SFT], path.losses[:, -1, PREFERENCE]], axis=-1)
    return np.asarray(1 - alone / posed.start)


def lost(start: float, best: float, after: float) -> float:
    """Share of the progress from `start` to `best` that is lost in `after`; NaN without progress.

    Above 1 where the end is worse than the start.
    """
    return (after - best) / (start - best) if start - best > 1e-3 * start else float("nan")


@dataclass(frozen=True)
class Runs:
    """Gradient runs at equal work: what each order forgets, and how many alternations suffice.

    Attributes
    ----------
    ends
        (C, 2) held-out losses at the end of: both orders, Rounds of each of `ROUNDS`, Mix.
    forgotten
        Share of the first stage's held-out progress that the second stage loses, by order.
    alternations
        Smallest of `ROUNDS` whose weighted held-out gain is at least 95 % of Mix's; NaN if none.
    """

    ends: Array
    forgotten: tuple[float, float]
    alternations: float


def run(posed: Posed, lam: float) -> Runs:
    """Run both orders, the alternations and Mix for `STEPS` full-gradient updates each."""
    orders: list[Schedule] = [
        Sequential(first="sft", lam=lam, share=EQUAL_STAGES),
        Sequential(first="preference", lam=lam, share=EQUAL_STAGES),
    ]
    schedules = [*orders, *(Rounds(rounds=k, lam=lam) for k in ROUNDS), Mix(lam=lam)]
    found = trajectories(
        posed.train,
        schedules,
        steps=STEPS,
        step_size=StepSize(1.0 / largest_curvature(posed.train)),
        replicas=1,
        checkpoints=np.array([0, STEPS // 2, STEPS]),
        gradients="full",
    )
    losses = posed.test.losses(found.last[:, 0].reshape(-1, posed.test.dimension))
    losses = losses.reshape(len(schedules), 3, 2)
    start, middle, end = losses[0, 0], losses[:, 1], losses[:, 2]
    forgotten = tuple(
        lost(start[k], middle[k, k], end[k, k])  # order k trains objective k first
        for k in (SFT, PREFERENCE)
    )
    gain = (start - end) @ [1 - lam, lam]
    enough = [k for k, g in zip(ROUNDS, gain[2:-1], strict=True) if g >= 0.95 * gain[-1]]
    return Runs(end, (forgotten[0], forgotten[1]), float(enough[0]) if enough else float("nan"))
