"""Scores of policies under two objectives (theory: T10), and their confidence intervals.

Losses are arrays (..., 2) of (SFT, preference); all functions are vectorised over the leading axes.
Pandas objects with the labels sft_loss and preference_loss have them in any order.
Arrays of another shape and weights outside [0, 1] raise :class:`~tradeoff.errors.InputError`, and
so do losses that are not finite where a minimum is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff._deferred import pandas as pd
from tradeoff.display import Shown, cell
from tradeoff.errors import InputError

Array = NDArray[np.float64]


def weighted_loss(losses: ArrayLike, lam: ArrayLike) -> Array:
    """f_lambda = lam * preference loss + (1 - lam) * SFT loss; ``lam`` broadcasts."""
    check_labels(losses, lam, "lam")
    pair, weight = loss_pairs(losses), checked_weights(lam)
    return np.asarray((1 - weight) * pair[..., 0] + weight * pair[..., 1])


def max_gap(losses: ArrayLike, optima: ArrayLike, lam: ArrayLike) -> Array:
    """F_lambda: the larger of the two weighted optimality gaps; ``lam`` broadcasts."""
    gaps = loss_pairs(losses) - loss_pairs(optima, "optima")
    weight = checked_weights(lam)
    return np.asarray(np.max(gaps * np.stack([1 - weight, weight], axis=-1), axis=-1))


def ideal_distance(losses: ArrayLike, ideal: ArrayLike, scale: ArrayLike = 1.0) -> Array:
    """Euclidean distance to the ideal point, the score of arXiv 2410.15483.

    It depends on the units of the losses. The differences are divided by ``scale``, scalar or (2,).
    """
    offset = loss_pairs(losses) - loss_pairs(ideal, "ideal")
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
        The weight that attains the minimum: the trade-off that the policy is best at.
    """
    lam, least_of = _real(weights, "weights"), _real(values, "values")
    if not lam.size or lam.ndim != 1 or least_of.shape != lam.shape:
        remedy = "Give one or more weights (K,), and the minimum of f_lambda at each."
        shapes = lam.shape, least_of.shape
        raise InputError("not weights and values", field="values", value=shapes, remedy=remedy)
    pairs = finite_pairs(losses)
    quotients = regret(pairs[..., None, :], lam, least_of, ranges)
    best = np.argmin(quotients, axis=-1)
    least = np.take_along_axis(quotients, best[..., None], -1)[..., 0]
    return np.asarray(least), np.asarray(lam[best])


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Area dominated by a set of points, minimised, up to a reference point.

    Parameters
    ----------
    points
        (K, 2) losses, one policy per row, or one policy (2,); without points the area is 0.
    reference
        (2,) corner of the area.

    Raises
    ------
    InputError
        If there are not two objectives, or a value is not finite.
    """
    corner = finite_pairs(reference, "reference")
    given = _real(points, "points")
    if given.size == 0:
        return 0.0
    if given.ndim > 2 or corner.shape != (2,):
        wrong = "points" if given.ndim > 2 else "reference"
        value = given.shape if given.ndim > 2 else corner.shape
        remedy = "Give points (K, 2), one policy per row, and one reference (2,)."
        raise InputError("wrong number of axes", field=wrong, value=value, remedy=remedy)
    found = np.minimum(np.atleast_2d(finite_pairs(given, "points")), corner)
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    ceiling = np.minimum.accumulate(np.concatenate([corner[1:], found[:, 1]]))
    return float(np.sum((ceiling[:-1] - ceiling[1:]) * (corner[0] - found[:, 0])))


def forgetting(before: ArrayLike, after: ArrayLike) -> Array:
    """Increase of the first objective's loss while training on the second, in nats."""
    check_labels(before, after, "after")
    return np.asarray(_real(after, "after") - _real(before, "before"))


def retention(before: ArrayLike, after: ArrayLike, start: ArrayLike) -> Array:
    """Share of the first stage's progress that remains after the second.

    ``start`` is the loss before any training. 1 means that nothing is forgotten and 0 that
    everything is. A negative share means a larger loss than before training.
    """
    check_labels(before, after, "after")
    check_labels(before, start, "start")
    initial = _real(start, "start")
    return np.asarray((initial - _real(after, "after")) / (initial - _real(before, "before")))


@dataclass(frozen=True, repr=False)
class Interval(Shown):
    """A mean with a two-sided confidence interval and its method.

    Attributes
    ----------
    mean, low, high
        Arrays of one shape; `low` and `high` are NaN if only one value was given.
    n
        Number of values averaged.
    method
        Method of the interval, such as "t, 95%".
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

    There is no percentile bootstrap, because with few seeds its coverage is too low.

    Parameters
    ----------
    values
        Array of values.
    axis
        The axis of the replicas.
    level
        Coverage, in (0, 1).
    """
    sample = _real(values, "values")
    _check_level(level)
    if not -sample.ndim <= axis < sample.ndim or not sample.shape[axis]:
        remedy = "Give at least one value along the axis of the replicas."
        raise InputError("there is nothing to average", value=sample.shape, remedy=remedy)
    n = sample.shape[axis]
    mean = np.asarray(sample.mean(axis=axis))
    if n < 2:
        unknown = np.full_like(mean, np.nan)
        return Interval(mean, unknown, unknown, n, "none")
    error = sample.std(axis=axis, ddof=1) / np.sqrt(n)
    half = _student(n - 1, 0.5 + level / 2) * error
    return Interval(
        mean, np.asarray(mean - half), np.asarray(mean + half), n, f"t, {100 * level:.12g}%"
    )


def wilson(hits: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share; it is within [0, 1] and never empty.

    Parameters
    ----------
    hits
        Number of rows that count, not necessarily whole: a tie may count partly.
    n
        Number of rows, at least 1.
    level
        Coverage, in (0, 1).
    """
    _check_level(level)
    if not (isinstance(n, Real) and isinstance(hits, Real) and n >= 1 and 0 <= hits <= n):
        remedy = "Give at least one row, and from 0 to n hits."
        raise InputError("no share of rows", field="hits", value=(hits, n), remedy=remedy)
    z = _student(np.inf, 0.5 + level / 2)
    share, shrink = hits / n, 1 / (1 + z**2 / n)
    centre = shrink * (share + z**2 / (2 * n))
    half = shrink * z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At a share of 0 or 1, rounding could put the end of the interval outside [0, 1].
    low, high = min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
    found = [np.asarray(value, dtype=float) for value in (share, low, high)]
    return Interval(found[0], found[1], found[2], n, f"Wilson, {100 * level:.12g}%")


def _student(freedom: float, probability: float) -> float:
    """Quantile of Student's t; with infinitely many degrees of freedom, of the normal."""
    from scipy.special import stdtrit  # scipy.special takes long to import

    return float(stdtrit(freedom, probability))


def _check_level(level: float) -> None:
    if not (isinstance(level, Real) and 0 < level < 1):
        remedy = "Give a coverage between 0 and 1, such as 0.95."
        raise InputError("out of range", field="level", value=level, remedy=remedy)


def paired_difference(a: ArrayLike, b: ArrayLike, axis: int = 0, level: float = 0.95) -> Interval:
    """Interval of mean(a - b) for runs that share their random draws.

    Parameters
    ----------
    a, b
        Arrays of one shape, replica by replica; or one number for all replicas. They are paired
        by position. So pandas objects have the same labels in the same order, or no label in
        common, as columns filtered from one table.
    axis, level
        As for :func:`interval`.
    """
    check_labels(a, b, "b")
    first, second = _real(a, "a"), _real(b, "b")
    if first.shape != second.shape and first.ndim and second.ndim:
        problem = f"a has the shape {first.shape}, so that its runs have no partners"
        remedy = "Give arrays of one shape, replica by replica."
        raise InputError(problem, field="b", value=second.shape, remedy=remedy)
    return interval(first - second, axis, level)


def holm(p: ArrayLike) -> Array:
    """P-values of several tests, adjusted by the step-down rule of Holm (1979).

    Parameters
    ----------
    p
        (m,) p-values; NaN is left out and stays NaN.

    Returns
    -------
    ndarray, shape (m,)
        Adjusted p-values. If differences are claimed where these are at most alpha, the probability
        of any false claim is at most alpha, for any dependence between the tests.
    """
    given = _real(p, "p")
    if given.ndim != 1 or np.any((given < 0) | (given > 1)):
        remedy = "Give a list of numbers in [0, 1]."
        raise InputError("not p-values", field="p", value=p, remedy=remedy)
    adjusted = np.full(given.shape, np.nan)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return adjusted


# ------------------------------------------------------------------ checks


def _real(values: ArrayLike, field: str) -> Array:
    """Convert to an array of floats; masked or complex entries raise an `InputError`."""
    if np.ma.is_masked(values) or np.iscomplexobj(values):
        remedy = "Leave masked entries out, and give real numbers."
        raise InputError("masked or complex entries", field=field, value=values, remedy=remedy)
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        remedy = "Give an array of numbers."
        raise InputError("not numbers", field=field, value=values, remedy=remedy) from error


def check_labels(first: Any, second: Any, field: str) -> None:
    """Raise an `InputError` if two pandas objects have some of the same labels at other places."""
    for labels in ("index", "columns"):
        mine, other = (getattr(v, labels, None) if hasattr(v, "iloc") else None
                       for v in (first, second))  # fmt: skip
        if mine is None or other is None or mine.equals(other) or not mine.isin(other).any():
            continue
        raise InputError(
            f"paired by position, but its {labels} has the same labels in another order, or lacks "
            "some of them",
            field=field,
            value=list(other),
            remedy=f"Select the same labels first, such as b.loc[a.index], or give "
            f"{field}.to_numpy() if the order is right.",
        )


def loss_pairs(losses: ArrayLike, name: str = "losses") -> Array:
    """Losses as an array (..., 2); another shape raises an `InputError`."""
    found = _real(_by_name(losses), name)
    if found.ndim == 0 or found.shape[-1] != 2:
        remedy = "Give (SFT, preference) pairs along the last axis; transpose columns into rows."
        raise InputError("not pairs of losses", field=name, value=found.shape, remedy=remedy)
    return found


def _by_name(losses: Any) -> Any:
    """The two losses of a table or a row of pandas that has their names; else what was given."""
    if not hasattr(losses, "iloc"):
        return losses
    labels, names = getattr(losses, "columns", losses.index), ["sft_loss", "preference_loss"]
    return losses[names] if set(names) <= set(labels) else losses


def finite_pairs(losses: ArrayLike, name: str = "losses") -> Array:
    """As :func:`loss_pairs`; a row that is not finite raises an `InputError` too."""
    found = loss_pairs(losses, name)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=-1).ravel())
    if len(bad):
        value = found.reshape(-1, 2)[bad[0]].tolist()
        raise InputError(
            f"a loss is not finite ({len(bad)} of {found.size // 2} rows)",
            row=int(bad[0]) + 1,
            field=name,
            value=value,
            remedy="Leave diverged runs out and report how many there were.",
        )
    return found


def checked_weights(lam: ArrayLike) -> Array:
    """Weights of the preference objective; one outside [0, 1] raises an `InputError`."""
    found = _real(lam, "lam")
    outside = found[~((found >= 0) & (found <= 1))]
    if outside.size:
        remedy = "lam is the weight of the preference objective, in [0, 1]."
        raise InputError("out of range", field="lam", value=float(outside.flat[0]), remedy=remedy)
    return found
