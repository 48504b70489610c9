"""Intervals of differences and ratios to a mean of a few runs, and gaps computed with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from analysis.fernando2024.methods import cell
from tradeoff.scores import Interval, ideal_distance, interval


def difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Welch's interval of mean(a) - mean(b) for independent runs.

    Parameters
    ----------
    a, b
        (n,) and (m,) values of independent runs.
    level
        Coverage, in (0, 1).
    """
    return _combined([a, b], _mean(a) - _mean(b), (1.0, -1.0), level)


def ratio(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of mean(a) / mean(b) for independent runs, by the delta method.

    The spread of the denominator counts. The result holds if the denominator's interval excludes 0.
    """
    above, below = _mean(a), _mean(b)
    share = above / below
    return _combined([a, b], share, (1 / below, -share / below), level)


def gaps(losses: ArrayLike, least: tuple[ArrayLike, ArrayLike]) -> dict[str, Any]:
    """Intervals of both gaps and of the distance to the ideal point, as stored in results.

    Parameters
    ----------
    losses
        (seeds, 2) held-out (SFT, preference) losses of runs.
    least
        Final losses of runs on one objective alone, each in its objective. Their spread counts in
        the gaps. The distance is from the point of their means.
    """
    ends = np.asarray(losses, dtype=float)
    ideal = np.array([_mean(values) for values in least])
    return {
        "sft_gap": cell(difference(ends[:, 0], least[0])),
        "preference_gap": cell(difference(ends[:, 1], least[1])),
        "ideal_distance": cell(interval(ideal_distance(ends, ideal))),
    }


def _mean(values: ArrayLike) -> float:
    return float(np.asarray(values, dtype=float).mean())


def _combined(
    samples: list[ArrayLike], mean: float, slopes: tuple[float, ...], level: float
) -> Interval:
    """Normal approximation of a smooth function of means, with Welch's degrees of freedom."""
    values = [np.asarray(sample, dtype=float) for sample in samples]
    n = min(v.size for v in values)
    if n < 2:
        unknown = np.asarray(np.nan)
        return Interval(np.asarray(mean), unknown, unknown, n, "none")
    parts = np.array(
        [slope**2 * v.var(ddof=1) / v.size for slope, v in zip(slopes, values, strict=True)]
    )
    counts = np.array([v.size - 1 for v in values])
    total = parts.sum()
    freedom = total**2 / (parts**2 / counts).sum() if total > 0 else float(counts.sum())
    half = stdtrit(freedom, 0.5 + level / 2) * np.sqrt(total)
    ends = (np.asarray(mean - half), np.asarray(mean + half))
    return Interval(np.asarray(mean), *ends, n, f"Welch, {level:.0%}")
