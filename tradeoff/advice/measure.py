"""One measurement of conflict, for a split, a draw of candidates and a radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.conflict import EQUAL_STAGES, held_out_problem, largest_curvature
from tradeoff.convex.certify import Minimum
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.solve import minimise
from tradeoff.convex.text import text_problem
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.splits import Split
from tradeoff.schedules import PREFERENCE, SFT, Rounds, Schedule, Sequential

Array = NDArray[np.float64]
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Weights of the preference objective at which the front is solved."""
HALVINGS = 4
"""Number of halvings of the interval of weights around the compromise."""
TOLERANCE = 1e-3
"""Certified error of a solve, in nats."""
NO_GAIN = 1e-3
"""Largest share of the start loss that does not count as a gain."""
STEPS = 32
"""Full-gradient updates on each objective in a run."""
ENOUGH = 0.95
"""Smallest share of a gain at which a number of alternations is enough."""
ROUNDS = (1, 2, 4, 8, 16)
"""Numbers of alternations that are tried."""


@dataclass(frozen=True)
class SplitProblem:
    """Two convex problems with the same parameters: training rows and held-out rows."""

    train: LogLinear
    test: LogLinear

    @property
    def start(self) -> Array:
        """(2, 2) losses of the untrained policy: [train, test] x [SFT, preference]."""
        centre = np.zeros(self.train.dimension)
        return np.stack([self.train.losses(centre), self.test.losses(centre)])


@dataclass(frozen=True)
class Path:
    """The optima at all weights.

    Attributes
    ----------
    weights
        (K,) of the preference objective, from 0 to 1.
    losses
        (2, K, 2) losses: [train, test] x weight x [SFT, preference].
    certificate
        Largest certified error of a solve, in nats.
    """

    weights: Array
    losses: Array
    certificate: float


def pose(sft: Split[SftRow], preference: Split[PreferenceRow], **shape: Any) -> SplitProblem:
    """Make the problems of a split; `shape` is passed to `text_problem`."""
    train = text_problem(
        list(sft.train), list(preference.train), pool=_responses(preference.train), **shape
    )
    test = held_out_problem(
        list(sft.test),
        list(preference.test),
        list(sft.train),
        pool=_responses(preference.test),
        **shape,
    )
    return SplitProblem(train, test)


def _responses(pairs: Sequence[PreferenceRow]) -> list[str]:
    """Both responses of all pairs as candidates, so that SFT also rates their styles."""
    return [as_text(text) for row in pairs for text in (row.chosen, row.rejected)]


def optima(posed: SplitProblem, weights: Sequence[float] = WEIGHTS) -> Path:
    """Solve for every weight, and for `HALVINGS` more that approach the held-out compromise."""
    found: dict[float, Minimum] = {}
    losses: dict[float, Array] = {}

    def solve(lam: float) -> None:
        near = min(found, key=lambda known: abs(known - lam), default=None)
        start = None if near is None else found[near].theta
        found[lam] = minimise(posed.train, lam, tolerance=TOLERANCE, start=start)
        theta = found[lam].theta
        losses[lam] = np.stack([posed.train.losses(theta), posed.test.losses(theta)])

    def path() -> Path:
        known = sorted(found)
        stacked = np.stack([losses[lam] for lam in known], axis=1)
        return Path(np.array(known), stacked, max(m.certificate for m in found.values()))

    for lam in weights:
        solve(lam)
    for _ in range(HALVINGS):
        now = path()
        lam = compromise(now.losses[1], posed.start[1], now.weights)[1]
        if np.isnan(lam):
            break
        at = int(np.clip(np.searchsorted(now.weights, lam), 1, len(now.weights) - 1))
        solve(float(np.mean(now.weights[at - 1 : at + 1])))
    return path()


def kept(losses: Array, start: Array) -> Array:
    """(K, 2) share of each objective's gain alone that each optimum keeps; NaN without gain.

    Arguments are (K, 2) losses by weight, from 0 to 1, and (2,) losses of the untrained policy.
    """
    gain = start - [losses[0, SFT], losses[-1, PREFERENCE]]
    gain = np.where(gain > NO_GAIN * start, gain, np.nan)
    return np.asarray((start - losses) / gain)


def compromise(
    losses: Array, start: Array, weights: Sequence[float] | Array
) -> tuple[float, float]:
    """Conflict, and the weight at which both objectives keep the same share of their gains.

    The conflict is the share of both gains that is lost at this weight: 0 if one policy has both
    gains in full, 1 if nothing is left of either. It is relative to the gains of training, but
    `tradeoff.conflict.front_conflict` is relative to the range of the front. That range grows with
    the radius, so this number depends less on the radius. Both values are NaN if an objective gains
    nothing.
    """
    shares = kept(losses, start)
    if not np.all(np.isfinite(shares)):
        return float("nan"), float("nan")
    apart = np.maximum.accumulate(shares[:, PREFERENCE] - shares[:, SFT])
    lam = float(np.interp(0.0, apart, weights))
    both = [float(np.interp(lam, weights, shares[:, k])) for k in (SFT, PREFERENCE)]
    return float(np.clip(1 - min(both), 0, 1)), lam


def gains(posed: SplitProblem, path: Path) -> Array:
    """(2, 2) share of the start loss that each objective alone gains: [train, test] x objective."""
    alone = np.stack([path.losses[:, 0, SFT], path.losses[:, -1, PREFERENCE]], axis=-1)
    return np.asarray(1 - alone / posed.start)


def lost(start: float, best: float, after: float) -> float:
    """Share of the progress from `start` to `best` that is lost at `after`; NaN without progress.

    It is above 1 if the end is worse than the start.
    """
    return (after - best) / (start - best) if start - best > NO_GAIN * start else float("nan")


@dataclass(frozen=True)
class Runs:
    """Gradient runs at equal cost: forgetting of each order, and the alternations that are enough.

    Attributes
    ----------
    ends
        (C, 2) held-out losses at the end of both orders.
    forgotten
        Share of the first stage's held-out progress that the second stage loses, by order.
    alternations
        Smallest of `ROUNDS` that is enough. Each run keeps a share of each objective's gain alone,
        and the smaller share counts. It must be at least `ENOUGH` times the smaller share of
        updates on both objectives at once. NaN if no number is enough, or if that share is not
        positive.
    """

    ends: Array
    forgotten: tuple[float, float]
    alternations: float


def run(posed: SplitProblem) -> Runs:
    """Run both orders, the alternations and both at once, for `STEPS` updates of each objective.

    Updates are full gradients. Each objective has its own step size, the inverse of its largest
    curvature at the start, because with one common step size one of them would hardly move.
    """
    sizes = step_sizes(posed.train)
    start = posed.start[1]
    orders: list[Schedule] = [
        Sequential(first="sft", share=EQUAL_STAGES),
        Sequential(first="preference", share=EQUAL_STAGES),
    ]
    middle, ends = zip(*(_follow(posed, s, sizes) for s in orders), strict=True)
    forgotten = [lost(start[k], middle[k][k], ends[k][k]) for k in (SFT, PREFERENCE)]
    alone = start - [middle[SFT][SFT], middle[PREFERENCE][PREFERENCE]]
    alone = np.where(alone > NO_GAIN * start, alone, np.nan)
    # The objective that keeps less counts, as a sum would hide one that loses all.
    turns = [_follow(posed, Rounds(rounds=k, share=EQUAL_STAGES), sizes)[1] for k in ROUNDS]
    worse = np.min((start - np.stack([*turns, _at_once(posed, sizes)])) / alone, axis=-1)
    enough = [k for k, g in zip(ROUNDS, worse[:-1], strict=True) if g >= ENOUGH * worse[-1] > 0]
    count = float(enough[0]) if enough else float("nan")
    return Runs(np.stack(ends), (forgotten[0], forgotten[1]), count)


def step_sizes(problem: LogLinear) -> Array:
    """(2,) inverse of each objective's largest curvature at the start."""
    return np.array([1 / largest_curvature(problem, weights) for weights in np.eye(2)])


def _follow(posed: SplitProblem, schedule: Schedule, sizes: Array) -> tuple[Array, Array]:
    """Held-out losses in the middle and at the end of a run of ``2 STEPS`` updates."""
    theta, losses = np.zeros(posed.train.dimension), []
    for i, preference in enumerate(schedule.plan(2 * STEPS).probability > 0.5, start=1):
        k = int(preference)
        theta = posed.train.project(theta - sizes[k] * posed.train.gradients(theta)[k])
        if i in (STEPS, 2 * STEPS):
            losses.append(posed.test.losses(theta))
    return losses[0], losses[1]


def _at_once(posed: SplitProblem, sizes: Array) -> Array:
    """Held-out losses after `STEPS` updates that follow both objectives."""
    theta = np.zeros(posed.train.dimension)
    for _ in range(STEPS):
        theta = posed.train.project(theta - sizes @ posed.train.gradients(theta))
    return np.asarray(posed.test.losses(theta))
