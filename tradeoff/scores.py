"""One number per run: how good a policy is when two objectives pull (theory: T10).

Losses are arrays (..., 2) of (SFT, preference); everything is vectorised over the leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from tradeoff.display import Shown, cell

Array = NDArray[np.float64]


def weighted_loss(losses: ArrayLike, lam: ArrayLike) -> Array:
    """f_lambda = lam * preference loss + (1 - lam) * SFT loss; ``lam`` broadcasts."""
    pair, weight = np.asarray(losses), np.asarray(lam)
    return np.asarray((1 - weight) * pair[..., 0] + weight * pair[..., 1])


def max_gap(losses: ArrayLike, optima: ArrayLike, lam: float) -> Array:
    """F_lambda: the larger of the two weighted optimality gaps."""
    gaps = np.asarray(losses) - np.asarray(optima)
    return np.asarray(np.max(gaps * np.array([1 - lam, lam]), axis=-1))


def ideal_distance(losses: ArrayLike, ideal: ArrayLike, scale: ArrayLike = 1.0) -> Array:
    """Euclidean distance to the ideal point, as the paper reports it.

    It depends on the units of each loss; ``scale``, scalar or (2,), divides the differences first.
    """
    offset = np.asarray(losses) - np.asarray(ideal)
    return np.asarray(np.linalg.norm(offset / np.asarray(scale), axis=-1))


def regret(losses: ArrayLike, lam: ArrayLike, value: ArrayLike, ranges: ArrayLike) -> Array:
    """Excess of f_lambda over its minimum ``value``, in units of the front's ranges.

    Parameters
    ----------
    losses
        (..., 2) losses.
    lam
        Requested weight, a scalar or broadcastable to the leading axes.
    value
        min f_lambda at that weight.
    ranges
        (2,) ranges of the SFT and the preference loss on the front.
    """
    scale = weighted_loss(ranges, lam)
    return np.asarray((weighted_loss(losses, lam) - np.asarray(value)) / scale)


def front_gap(
    losses: ArrayLike, weights: ArrayLike, values: ArrayLike, ranges: ArrayLike
) -> tuple[Array, Array]:
    """Distance of each policy behind the front, and the weight at which it is measured.

    Parameters
    ----------
    losses
        (..., 2) losses.
    weights, values
        (K,) weights of the preference objective and min f_lambda at each. When ``values`` is a
        concave piecewise-linear function of the weight with breakpoints among ``weights``, the
        minimum over all weights is attained at one of them, so the result is exact.
    ranges
        (2,) ranges of the losses on the front.

    Returns
    -------
    gap : ndarray (...)
        Minimum over weights of :func:`regret`: zero exactly on the front.
    matched_weight : ndarray (...)
        The weight that attains it: which trade-off the policy really stands for.
    """
    lam = np.asarray(weights, dtype=float)
    quotients = regret(np.asarray(losses)[..., None, :], lam, values, ranges)
    best = np.argmin(quotients, axis=-1)
    least = np.take_along_axis(quotients, best[..., None], -1)[..., 0]
    return np.asarray(least), np.asarray(lam[best])


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Area dominated by a set of points (K, 2), minimised, up to ``reference`` (2,)."""
    corner = np.asarray(reference, dtype=float)
    found = np.minimum(np.asarray(points, dtype=float).reshape(-1, 2), corner)
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    ceiling = np.minimum.accumulate(np.concatenate([corner[1:], found[:, 1]]))
    return float(np.sum((ceiling[:-1] - ceiling[1:]) * (corner[0] - found[:, 0])))


def forgetting(before: ArrayLike, after: ArrayLike) -> Array:
    """Loss of the first objective gained while training on the second, in nats."""
    return np.asarray(np.asarray(after, dtype=float) - np.asarray(before, dtype=float))


def retention(before: ArrayLike, after: ArrayLike, start: ArrayLike) -> Array:
    """Share of the first stage's progress that is left after the second.

    ``start`` is the loss before any training: 1 keeps everything, 0 forgets everything,
    negative ends worse than it began.
    """
    initial = np.asarray(start, dtype=float)
    return np.asarray((initial - np.asarray(after)) / (initial - np.asarray(before)))


@dataclass(frozen=True, repr=False)
class Interval(Shown):
    """A mean with a two-sided confidence interval, and how it was made.

    Attributes
    ----------
    mean, low, high
        Arrays of one shape; `low` and `high` are NaN where one value was given.
    n
        How many values were averaged.
    method
        How the interval was made.
    """

    mean: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    n: int
    method: str

    def table(self) -> pd.DataFrame:
        """One row for each mean: mean, low, high."""
        columns = {"mean": self.mean, "low": self.low, "high": self.high}
        return pd.DataFrame({name: np.ravel(value) for name, value in columns.items()})

    def __repr__(self) -> str:
        how = f"n={self.n}, {self.method}"
        if self.mean.size != 1:
            return f"Interval({self.mean.size} means, {how})"
        mean, low, high = (cell(float(v.item())) for v in (self.mean, self.low, self.high))
        return f"Interval({mean}, from {low} to {high}, {how})"


def interval(values: ArrayLike, axis: int = 0, level: float = 0.95) -> Interval:
    """Student-t interval of a mean; with hundreds of replicas it is mean +- 1.96 SE.

    A percentile bootstrap of few seeds covers too little, so it is not offered.

    Parameters
    ----------
    values
        Array of values.
    axis
        The axis of the replicas.
    level
        Coverage, in (0, 1).
    """
    sample = np.asarray(values, dtype=float)
    n = sample.shape[axis]
    mean = np.asarray(sample.mean(axis=axis))
    if n < 2:
        unknown = np.full_like(mean, np.nan)
        return Interval(mean, unknown, unknown, n, "none")
    error = sample.std(axis=axis, ddof=1) / np.sqrt(n)
    half = stdtrit(n - 1, 0.5 + level / 2) * error
    return Interval(mean, np.asarray(mean - half), np.asarray(mean + half), n, f"t, {level:.0%}")


def wilson(hits: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share: it stays within [0, 1] and is never empty.

    Parameters
    ----------
    hits
        How many of the rows count; a tie may count in parts.
    n
        Rows, at least 1.
    """
    z = float(stdtrit(np.inf, 0.5 + level / 2))
    share, shrink = hits / n, 1 / (1 + z**2 / n)
    centre = shrink * (share + z**2 / (2 * n))
    half = shrink * z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At a share of 0 or 1 rounding would put the end of the interval beside it.
    low, high = min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
    found = [np.asarray(value, dtype=float) for value in (share, low, high)]
    return Interval(found[0], found[1], found[2], n, f"Wilson, {level:.0%}")


def paired_difference(a: ArrayLike, b: ArrayLike, axis: int = 0, level: float = 0.95) -> Interval:
    """Interval of mean(a - b) for runs that share their random draws.

    Parameters
    ----------
    a, b
        Arrays of one shape, replica by replica.
    axis, level
        As for :func:`interval`.
    """
    return interval(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), axis, level)
