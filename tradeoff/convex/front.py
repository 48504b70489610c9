"""Certified Pareto fronts of a convex pair (theory: T9).

For convex objectives every Pareto point minimises some f_lambda, and V(l) = min f_l is a concave
function of the weight l that describes the whole front. Solves bound it from both sides:

- upper: V(l) <= f_l(theta_k) for every computed point, a minimum of lines;
- lower: V(l_k) >= value - certificate at each solved weight, and chords between them, because V
  is concave.

The error of a front is the largest distance between the two, in units of the front's ranges: the
inner hull, moved by the error along the ranges, dominates every attainable point. The error is
valid even where an inner solve stopped early.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff import scores
from tradeoff._deferred import pandas as pd
from tradeoff.convex.certify import Minimum, Point
from tradeoff.convex.solve import minimise
from tradeoff.display import Shown, outward
from tradeoff.errors import InputError
from tradeoff.progress import tqdm
from tradeoff.settings import Within, checked

Array = NDArray[np.float64]
END_WEIGHT = 1e-6
"""Distance from 0 and 1 of the weights of the two end solves. Among several minimisers of one
objective they find the one that is best for the other. The bounds at 0 and 1 account for it. So
the front's ranges leave out trades worse than a million to one."""


@dataclass(frozen=True, repr=False)
class Front(Shown):
    """An inner and an outer approximation of the Pareto front of two convex losses.

    Attributes
    ----------
    minima
        The solves, by increasing weight of the preference objective.
    end_bounds
        Certified lower bounds on the minimum of the SFT and of the preference loss alone.
    """

    minima: tuple[Minimum, ...]
    end_bounds: tuple[float, float]

    # ------------------------------------------------------------------ the solved points

    @cached_property
    def weights(self) -> Float[np.ndarray, " K"]:
        """(K,) solved weights of the preference objective."""
        return np.array([m.lam for m in self.minima])

    @cached_property
    def points(self) -> Float[np.ndarray, "K 2"]:
        """(K, 2) attained (SFT, preference) losses."""
        return np.stack([m.losses for m in self.minima])

    @cached_property
    def thetas(self) -> Float[np.ndarray, "K d"]:
        """(K, d) parameters of the solves."""
        return np.stack([m.theta for m in self.minima])

    @cached_property
    def ideal(self) -> Float[np.ndarray, " 2"]:
        """(2,) smallest value of each loss on the front."""
        return self.points.min(axis=0)

    @cached_property
    def nadir(self) -> Float[np.ndarray, " 2"]:
        """(2,) largest value of each loss on the front."""
        return np.array([self.points[-1, 0], self.points[0, 1]])

    @cached_property
    def ranges(self) -> Float[np.ndarray, " 2"]:
        """(2,) range of each loss on the front, at least 1e-9, or 1e-9 of a larger ideal value.

        Losses whose whole front is within that count as without conflict. So losses of your own
        that are as small in their units should be multiplied before scores are computed.
        """
        floor = 1e-9 * np.maximum(1.0, np.abs(self.ideal))
        return np.maximum(self.nadir - self.ideal, floor)

    # ------------------------------------------------------------------ hulls and bounds

    @cached_property
    def inner(self) -> Float[np.ndarray, "H 2"]:
        """(H, 2) vertices of the lower-left hull of the attained points, SFT loss increasing.

        Bounds on rounding are added, so that the exact losses of the policies are not larger.
        """
        return _lower_hull(self.points + [m.rounding for m in self.minima])

    @cached_property
    def _lower(self) -> tuple[Array, Array]:
        """Breakpoints (weight, value) of the concave lower bound on V."""
        weights = np.concatenate([[0.0], self.weights, [1.0]])
        values = np.array([self.end_bounds[0], *(m.lower for m in self.minima), self.end_bounds[1]])
        hull = _lower_hull(np.stack([weights, -values], axis=-1), dominated=False)
        return hull[:, 0], -hull[:, 1]

    @cached_property
    def outer(self) -> Float[np.ndarray, "V 2"]:
        """(V, 2) vertices of the outer hull: no policy lies below the line through them."""
        lam, value = self._lower
        slope = np.diff(value) / np.diff(lam)
        sft = value[:-1] - lam[:-1] * slope
        return np.stack([sft, sft + slope], axis=-1)

    @cached_property
    def _breakpoints(self) -> Array:
        """Weights at which the upper bound on V bends: normals of the inner hull's edges."""
        edge = np.diff(self.inner, axis=0)
        return np.concatenate([[0.0], edge[:, 0] / (edge[:, 0] - edge[:, 1]), [1.0]])

    def value_bounds(self, lam: ArrayLike) -> tuple[Array, Array]:
        """Certified bounds (lower, upper) on V(lam) = min f_lambda."""
        lam = scores.checked_weights(lam)
        upper = scores.weighted_loss(self.inner, lam[..., None]).min(axis=-1)
        return np.asarray(np.interp(lam, *self._lower)), np.asarray(upper)

    @cached_property
    def error(self) -> float:
        """Certified error in units of the ranges (additive epsilon indicator)."""
        return float(self._errors(np.union1d(self._breakpoints, self._lower[0])).max())

    def _errors(self, lam: Array) -> Array:
        lower, upper = self.value_bounds(lam)
        return np.asarray((upper - lower) / scores.weighted_loss(self.ranges, lam))

    def worst_weight(self) -> tuple[float, float]:
        """Weight of the next solve by the chord rule, and the error there."""
        errors = self._errors(self._breakpoints)
        k = int(np.argmax(errors))
        return float(self._breakpoints[k]), float(errors[k])

    # ------------------------------------------------------------------ scores of other policies

    def score(self, losses: ArrayLike | pd.DataFrame, lam: ArrayLike | None = None) -> pd.DataFrame:
        """Place policies relative to the front (T10).

        Parameters
        ----------
        losses
            (B, 2) or (2,) SFT and preference loss; a DataFrame with columns sft_loss and
            preference_loss keeps its index.
        lam
            Requested weight, scalar or (B,) in the order of the policies; without it no regret is
            given.

        Returns
        -------
        DataFrame
            front_gap (distance behind the inner hull, in units of the ranges; the true gap is at
            most front_gap_upper), matched_weight (one of the front's breakpoints), regret (when
            ``lam`` is given), ideal_distance.

        Raises
        ------
        InputError
            For a loss that is not finite, a row that is not a pair, a column that is missing, or
            weights outside [0, 1] or of another number than the policies.
        """
        index = None
        scores.check_labels(losses, lam, "lam")
        if isinstance(losses, pd.DataFrame):
            index, losses = losses.index, _loss_columns(losses)
        losses = np.atleast_2d(scores.finite_pairs(losses))
        asked = () if lam is None else np.asarray(lam).shape
        if losses.ndim > 2 or asked not in ((), (1,), losses.shape[:1]):
            wrong, shape = ("losses", losses.shape) if losses.ndim > 2 else ("lam", asked)
            remedy = (
                f"Give losses (B, 2) and one weight, or one for each of {len(losses)} policies."
            )
            raise InputError("of another shape", field=wrong, value=shape, remedy=remedy)
        gap, matched = scores.front_gap(
            losses, self._breakpoints, self.value_bounds(self._breakpoints)[1], self.ranges
        )
        above, _ = scores.front_gap(losses, *self._lower, self.ranges)
        table = {
            "front_gap": np.maximum(gap, 0.0),
            "front_gap_upper": np.maximum(above, 0.0),
            "matched_weight": matched,
        }
        if lam is not None:
            value = self.value_bounds(lam)[1]
            table["regret"] = np.maximum(scores.regret(losses, lam, value, self.ranges), 0.0)
        table["ideal_distance"] = scores.ideal_distance(losses, self.ideal)
        return pd.DataFrame(table, index=index)

    def hypervolume_bounds(self, reference: ArrayLike | None = None) -> tuple[float, float]:
        """Bounds on the area that the whole front dominates up to ``reference`` (the nadir)."""
        corner = self.nadir if reference is None else scores.finite_pairs(reference, "reference")
        if corner.shape != (2,):
            remedy = "Give one (SFT, preference) pair."
            raise InputError("not one pair", field="reference", value=corner.shape, remedy=remedy)
        inner = _area_above(self.inner, corner)
        low = np.array(self.end_bounds)
        outer = np.concatenate([[[low[0], self.outer[0, 1]]], self.outer])
        return inner, max(inner, _area_above(outer, corner))

    def table(self) -> pd.DataFrame:
        """One row per solve: weight, losses, certificate, iterations and reason for stopping."""
        return pd.DataFrame(
            {
                "lam": self.weights,
                "sft_loss": self.points[:, 0],
                "preference_loss": self.points[:, 1],
                "certificate": [m.certificate for m in self.minima],
                "iterations": [m.iterations for m in self.minima],
                "stopped": [m.stopped for m in self.minima],
            }
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw both hulls, the area between them and the ideal point.

        Parameters
        ----------
        ax
            Matplotlib axes to draw on; new ones by default.

        Returns
        -------
        Axes
            The axes with the drawing.
        """
        from tradeoff import plots  # a simulator needs no matplotlib

        ax = plots.axes() if ax is None else ax
        ax.plot(*self.inner.T, color="k", marker="o", label="inner hull: attained")
        ax.plot(*self.outer.T, **plots.BOUND, label="outer hull: unattainable below")
        ax.fill(*np.concatenate([self.inner, self.outer[::-1]]).T, color="0.85", zorder=0)
        ax.plot(*self.ideal, **plots.IDEAL)
        plots.label_line(ax, float(self.ideal[0]), float(self.ideal[1]), "ideal point")
        ax.set(xlabel="SFT loss (nats)", ylabel="preference loss (nats)")
        ax.legend(loc="upper right")
        return ax

    def __repr__(self) -> str:
        error = outward(self.error, 2, up=True)
        return f"Front({len(self.minima)} solves, certified error {error:.2g} of the range)"


@checked
def pareto_front(
    problem: Any,
    *,
    accuracy: Annotated[float, Within(0, 1e6, "(]")] = 1e-3,
    solves: Annotated[int, Within(2, 10**6)] = 129,
    tolerance: Annotated[float, Within(0, 1e100)] | None = None,
    interpolate: bool = True,
    progress: bool = False,
) -> Front:
    """Enclose the Pareto front of a convex problem.

    Parameters
    ----------
    problem
        :class:`~tradeoff.convex.LogLinear` or :class:`~tradeoff.convex.Quadratic`.
    accuracy
        Stop when the certified error, in units of the ranges, is at most this.
    solves
        Stop after this many inner solves, at least 2.
    tolerance
        Certificate requested of each inner solve, in nats. By default at most a tenth of
        ``accuracy``, in units of the ranges. A solve that does not reach it makes the certified
        error larger, but not invalid.
    interpolate
        Finish with one Newton step from the interpolated parameters between every two solves.
        Each step gives a certified point for a fraction of a solve, which halves the spacing. The
        front then holds up to ``2 * solves - 1`` minima.
    progress
        Show a progress bar.

    Returns
    -------
    Front
    """
    inner = 1e-6 if tolerance is None else tolerance
    ends = [minimise(problem, w, tolerance=inner) for w in (END_WEIGHT, 1 - END_WEIGHT)]
    bounds = (_end_bound(problem, ends[0], 0), _end_bound(problem, ends[1], 1))
    front = Front(tuple(ends), bounds)
    if tolerance is None:
        inner = 0.1 * min(accuracy, 1e-3) * float(front.ranges.min())
    with tqdm(total=solves, initial=2, disable=not progress, desc="front", leave=False) as bar:
        while len(front.minima) < solves and front.error > accuracy:
            lam, error = front.worst_weight()
            if error <= 0 or np.any(np.isclose(front.weights, lam, rtol=0, atol=1e-12)):
                break
            found = minimise(problem, lam, tolerance=inner, start=_interpolated(front, lam))
            front = _with_minima(front, [found])
            bar.update()
            bar.set_postfix(error=f"{front.error:.1e}")
    if interpolate and front.error > accuracy:
        between = np.setdiff1d(front._breakpoints, front.weights)[1:-1]
        steps = [
            minimise(problem, w, tolerance=inner, start=_interpolated(front, w), max_iterations=1)
            for w in between.tolist()
        ]
        front = _with_minima(front, steps)
    return front


def _interpolated(front: Front, lam: float) -> Array:
    """Parameters between the two solves around ``lam``, linear in the weight."""
    k = int(np.clip(np.searchsorted(front.weights, lam), 1, len(front.weights) - 1))
    left, right = front.weights[k - 1], front.weights[k]
    share = float(np.clip((lam - left) / (right - left), 0.0, 1.0))  # beyond the ends: the end
    return np.asarray((1 - share) * front.thetas[k - 1] + share * front.thetas[k])


def _with_minima(front: Front, found: list[Minimum]) -> Front:
    minima = sorted([*front.minima, *found], key=lambda m: m.lam)
    return Front(tuple(minima), front.end_bounds)


def _loss_columns(table: pd.DataFrame) -> Any:
    """Both losses of a table, as the columns that a simulation has."""
    names = ["sft_loss", "preference_loss"]
    if missing := [name for name in names if name not in table]:
        remedy = f"Give a table with the columns {names[0]} and {names[1]}, or pairs of losses."
        raise InputError("no such column", field=missing[0], value=list(table), remedy=remedy)
    return table[names].to_numpy()


def _end_bound(problem: Any, minimum: Minimum, objective: int) -> float:
    """Certified lower bound on one loss alone, from a point that nearly minimises it."""
    return Point.at(problem, minimum.theta, np.eye(2)[objective]).minimum(0, "iterations").lower


def _lower_hull(points: Array, dominated: bool = True) -> Array:
    """Vertices of the lower convex hull from left to right (Andrew's monotone chain).

    With ``dominated`` only the falling part is kept: the part that is Pareto optimal.
    """
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    hull: list[Array] = []
    for point in points:
        if hull and point[0] - hull[-1][0] <= 0:
            continue
        while len(hull) > 1 and _turns_right(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    kept = np.array(hull)
    return kept[: int(np.argmin(kept[:, 1])) + 1] if dominated else kept


def _turns_right(a: Array, b: Array, c: Array) -> bool:
    cross = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return bool(cross <= 0)


def _area_above(boundary: Array, corner: Array) -> float:
    """Area between a falling polyline, extended to the right, and the corner above it."""
    s = np.concatenate([boundary[:, 0], [max(corner[0], boundary[-1, 0])]])
    d = np.concatenate([boundary[:, 1], [boundary[-1, 1]]])
    grid = np.clip(s, None, corner[0])
    # Split where the polyline crosses the corner's height, so that clipping stays exact.
    for k in range(len(s) - 1):
        if (d[k] - corner[1]) * (d[k + 1] - corner[1]) < 0:
            grid = np.append(grid, s[k] + (corner[1] - d[k]) * np.diff(s)[k] / np.diff(d)[k])
    grid = np.unique(grid)
    height = np.maximum(corner[1] - np.interp(grid, s, d), 0.0)
    return float(np.trapezoid(height, grid))
