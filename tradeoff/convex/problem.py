"""Interfaces of a convex pair of objectives: for solvers, for simulations, and at one point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
UNIT = 2.0**-53
"""Largest relative error of one rounded operation."""


@runtime_checkable
class Problem(Protocol):
    """A convex pair of objectives, as the solver needs it."""

    @property
    def radius(self) -> float: ...

    @property
    def dimension(self) -> int: ...

    def losses(self, theta: ArrayLike) -> NDArray[np.float64]: ...

    def local_model(self, theta: Vector, weights: Vector) -> LocalModel: ...

    def strong_convexity(self, weights: Vector) -> float:
        """Strong-convexity constant of ``weights @ losses``; used where the radius is infinite."""


@runtime_checkable
class Simulated(Protocol):
    """A pair of objectives, as :func:`~tradeoff.convex.simulate.simulate` needs it.

    Two members are optional. Runs with full gradients need ``gradients(theta)`` (B, 2, d). Tables
    with gaps, and schedules that compare gaps, need ``minimum(lam)``, the least value of f_lambda,
    or all members of :class:`Problem`.
    """

    @property
    def dimension(self) -> int:
        """Number of parameters d."""

    def losses(self, theta: ArrayLike) -> NDArray[np.float64]:
        """(f_SFT, f_preference): (2,) for theta (d,), (B, 2) for theta (B, d)."""

    def project(self, theta: Vector) -> Vector:
        """The nearest points of the feasible set, for theta (..., d)."""

    def sample_gradients(self, objective: int, theta: Vector, uniform: Vector) -> Vector:
        """Sample gradients (B, d) of objective 0 or 1 at theta (B, d).

        ``uniform`` (B,) has one draw from [0, 1) for each run, to select its data point.
        """


@dataclass(frozen=True)
class Rounding:
    """Bounds on the rounding errors of a :class:`LocalModel`.

    Attributes
    ----------
    losses
        (2,) absolute error of each loss.
    gradient
        Norm of the error of the gradient of the weighted sum.
    hessian
        Largest eigenvalue of the error of the Hessian of the weighted sum.
    """

    losses: NDArray[np.float64]
    gradient: float
    hessian: float


@dataclass(frozen=True)
class LocalModel:
    """Second-order model of ``weights @ (f_SFT, f_preference)`` at a point.

    Attributes
    ----------
    losses
        (2,) values of the two objectives.
    gradient
        (d,) gradient of the weighted sum.
    hessian
        Returns the (d, d) Hessian.
    curvature
        Applies the Hessian to a vector (d,).
    rounding
        Bounds on the rounding errors. The default, (d + 8) units in the last place of the numbers
        above, is too small where those are differences of much larger ones.
    concordance
        M such that along a unit vector the third derivative is at most M times the second;
        infinite if unknown.
    """

    losses: NDArray[np.float64]
    gradient: Vector
    hessian: Callable[[], NDArray[np.float64]]
    curvature: Callable[[Vector], Vector]
    rounding: Rounding | None = None
    concordance: float = np.inf
