"""Four ways to forecast, each from its own measurements, and what they measure.

A candidate returns V variants of the Q numbers of :mod:`tradeoff.forecast.quantities`. Variants
differ in how far a run of the budget travels, which the calibration chooses: theory gives the
shape of a forecast, and runs that were measured give its scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex.certify import Minimum
from tradeoff.convex.solve import minimise
from tradeoff.forecast import features
from tradeoff.forecast.lab import POINTS, Lab
from tradeoff.forecast.quantities import LAMBDAS, assemble, from_scale, to_scale
from tradeoff.forecast.surrogate import Surrogate

Array = NDArray[np.float64]
RADII = (2.0, 5.0, 12.0, 30.0, 80.0)
"""Radii of the ball, where gradients of a pair's margin have mean square length 1."""
POWERS = (1.0, 0.5)
"""How losses of longer runs grow with those of short ones."""
FADES = 0.5
"""Share of a first stage's effect that is left after the second, in a mixing law."""
TOLERANCE = 1e-7


def frozen(lab: Lab) -> Float[np.ndarray, "V Q"]:
    """Convex problem on the last layer of the frozen model, one forward pass."""
    return _solved(features.frozen(lab))


def linear(lab: Lab) -> Float[np.ndarray, "V Q"]:
    """Linearised model: sketched gradients, DPO logistic, SFT by its Gauss-Newton model."""
    return _solved(features.linear(lab))


def _solved(problem: Surrogate) -> Array:
    return np.stack([from_problem(problem.at(problem.centre, radius)) for radius in RADII])


def from_problem(problem: Surrogate) -> Float[np.ndarray, " Q"]:
    """The Q numbers of a convex problem: minima on its ball, and of stages on balls one by one."""
    found: list[Minimum] = []
    for lam in LAMBDAS:
        near = found[-1].theta if found else None
        found.append(minimise(problem, lam, tolerance=TOLERANCE, start=near))
    mixes = np.stack([one.losses for one in found])
    stages = [_stages(problem, order) for order in ((0.0, 1.0), (1.0, 0.0))]
    return assemble(mixes, *stages)


def _stages(problem: Surrogate, weights: tuple[float, float]) -> Array:
    """(2, 2) losses after both stages; each is free to move by the radius."""
    found = []
    for lam in weights:
        best = minimise(problem, lam, tolerance=TOLERANCE)
        found.append(best.losses)
        problem = problem.at(problem.centre + best.theta, problem.radius)
    return np.stack(found)


def probes(lab: Lab) -> Float[np.ndarray, "V Q"]:
    """Short runs on each objective, extrapolated by a mixing law.

    The logarithm of a loss is linear in the shares of the objectives (Ye et al. 2403.16952).
    """
    began = to_scale(lab.started)
    moved = to_scale(lab.probes) - began
    lam = np.array(LAMBDAS)[:, None]
    found = []
    for power in POWERS:
        sft, pairs = lab.effort.reach**power * np.sign(moved) * np.abs(moved) ** power
        mixes = (1 - lam) * sft + lam * pairs
        orders = [
            np.stack([first, FADES * first + second])
            for first, second in ((sft, pairs), (pairs, sft))
        ]
        # Far extrapolations would overflow; the calibration cannot use them anyway.
        both = [from_scale(np.clip(began + change, -8, 8)) for change in (mixes, *orders)]
        found.append(assemble(*both))
    return np.stack(found)


def merges(lab: Lab) -> Float[np.ndarray, "V Q"]:
    """Quadratic surrogate of both losses over merges of two short runs (as MAP, 2406.07529)."""
    points = np.array([(0.0, 0.0), *POINTS])
    values = to_scale(np.vstack([lab.started, lab.plane]))
    weights = np.linalg.solve(_monomials(points), values)
    grid = np.linspace(0, 1, 21)
    first, second = (part.ravel() for part in np.meshgrid(grid, grid, indexing="ij"))
    plane = from_scale(_monomials(np.column_stack([first, second])) @ weights)
    mixes = plane[[np.argmin((1 - lam) * plane[:, 0] + lam * plane[:, 1]) for lam in LAMBDAS]]
    table = plane.reshape(21, 21, 2)
    sft_first = _along(table)
    preference_first = _along(table.transpose(1, 0, 2)[..., ::-1])[:, ::-1]
    return assemble(mixes, sft_first, preference_first)[None]


def _along(table: Array) -> Array:
    """(2, 2) losses after both stages: the first moves along axis 0 and lowers loss 0."""
    first = int(np.argmin(table[:, 0, 0]))
    second = int(np.argmin(table[first, :, 1]))
    return np.stack([table[first, 0], table[first, second]])


def _monomials(points: Array) -> Array:
    a, b = points.T
    return np.column_stack([np.ones_like(a), a, b, a * a, a * b, b * b])


@dataclass(frozen=True)
class Candidate:
    """A way to forecast.

    Attributes
    ----------
    label
        What a reader calls it.
    predict
        Variants of the Q numbers from a lab.
    uses
        Measurements of the lab that it needs.
    """

    label: str
    predict: Callable[[Lab], Array]
    uses: tuple[str, ...]


CANDIDATES = {
    "frozen": Candidate("convex problem on frozen features", frozen, ("forward",)),
    "linear": Candidate("linearised model", linear, ("forward", "gradients")),
    "probes": Candidate("short runs extrapolated", probes, ("start", "short runs", "probes")),
    "merges": Candidate("merges of short runs", merges, ("start", "short runs", "plane")),
}
STACKED = ("frozen", "linear")
"""Candidates of the stack, which together cost less than a twentieth of a run."""
