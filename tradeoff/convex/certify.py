"""Certificates: the only module that computes a bound on f(theta) - f* from parameters theta.

A :class:`Point` projects its parameters to the ball, evaluates the problem there, rejects values
that are not finite, and only then computes the certificate. So no start, share or extrapolation of
a caller can make a certificate false. The smaller of two bounds is used:

- the Frank-Wolfe gap g . theta + R |g| (T2), for any convex f;
- where third derivatives are at most M times second ones (Bach 2010) and tau = M |g| / l < 1, with
  l the least eigenvalue of the Hessian, (l / M^2)(tau + (1 - tau) log(1 - tau)), about
  |g|^2 / (2 l). It does not depend on the ball, and is much the smaller one in a large ball.

Both are computed from rounded numbers. A bound on the effect of rounding is added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff._deferred import pandas as pd
from tradeoff.convex.problem import UNIT, LocalModel, Problem, Rounding, Vector
from tradeoff.display import Shown, cell
from tradeoff.errors import InputError

Stopped = Literal["tolerance", "rounding", "stalled", "iterations"]
EIGENVALUES_UP_TO = 128
"""Up to this many parameters the least eigenvalue of a Hessian is computed for a certificate."""


@dataclass(frozen=True, repr=False)
class Minimum(Shown):
    """A minimiser with its certificate.

    Attributes
    ----------
    theta
        (d,) the computed point, inside the ball.
    losses
        (2,) SFT and preference loss at ``theta``.
    value
        The minimised function at ``theta``.
    certificate
        Upper bound on ``value`` minus the true minimum, rounding included; valid whether or not
        the solver converged.
    lam
        Weight of the preference objective that was minimised.
    iterations
        Newton iterations taken.
    stopped
        Why the solver stopped: "tolerance" (it reached the requested certificate), "rounding"
        (rounding allows no further progress), "stalled" or "iterations" (it did not converge).
    rounding
        (2,) bound on the rounding error of each of ``losses``.
    """

    theta: Float[np.ndarray, " d"]
    losses: Float[np.ndarray, " 2"]
    value: float
    certificate: float
    lam: float
    iterations: int
    stopped: Stopped = "tolerance"
    rounding: Float[np.ndarray, " 2"] = field(default_factory=lambda: np.zeros(2))

    @property
    def lower(self) -> float:
        """Certified lower bound on the true minimum."""
        return self.value - self.certificate

    @property
    def converged(self) -> bool:
        """Whether the solver reached its tolerance, or the limit of rounding."""
        return self.stopped in ("tolerance", "rounding")

    def table(self) -> pd.DataFrame:
        """One row: weight, losses, value, certificate, iterations and reason for stopping."""
        sft_loss, preference_loss = self.losses.tolist()
        row = {
            "lam": self.lam,
            "sft_loss": sft_loss,
            "preference_loss": preference_loss,
            "value": self.value,
            "certificate": self.certificate,
            "iterations": self.iterations,
            "stopped": self.stopped,
        }
        return pd.DataFrame([row])

    def __repr__(self) -> str:
        value, certificate = cell(float(self.value)), cell(float(self.certificate))
        doubt = "" if self.converged else ", did not converge"
        return f"Minimum(lam={cell(self.lam)}, value {value} within {certificate}{doubt})"


@dataclass(frozen=True, eq=False)
class Point:
    """A point of the ball, with value, gradient and certificate of ``weights @ losses``.

    :meth:`at` makes one: it projects and checks.

    Attributes
    ----------
    problem, weights
        The problem, and the weights of its two losses.
    theta
        (d,) parameters inside the ball.
    model
        The local model at ``theta``.
    rounding
        The model's bounds on rounding, or the default of :class:`LocalModel`.
    value, value_error
        The weighted loss, and a bound on its rounding error.
    gap, gap_error
        T2's upper bound from the rounded gradient, and a bound on its excess with the exact
        gradient.
    """

    problem: Problem
    weights: Vector
    theta: Vector
    model: LocalModel
    rounding: Rounding
    value: float
    value_error: float
    gap: float
    gap_error: float

    @classmethod
    def at(cls, problem: Problem, theta: ArrayLike, weights: Vector) -> Point:
        """Project ``theta`` to the ball and evaluate there.

        Raises
        ------
        InputError
            If ``theta`` has the wrong shape or is not finite, or if a loss or gradient is not.
        """
        inside = into_ball(theta, problem.dimension, problem.radius)
        model = problem.local_model(inside, weights)
        norm = length(model.gradient)
        value = float(weights @ model.losses)
        if not (np.isfinite(norm) and np.all(np.isfinite(model.losses))):
            raise InputError(
                "a loss or its gradient is not a finite number inside the ball",
                field="radius",
                value=problem.radius,
                remedy="Scale the features down, or use a smaller radius.",
            )
        rounding = model.rounding or _last_places(model, norm)
        error = float(weights @ rounding.losses) + 4 * UNIT * abs(value)
        if np.isfinite(problem.radius):
            gaps = _ball_gap(inside, model.gradient, norm, rounding.gradient, problem.radius)
        else:  # f - f* <= |g|^2 / (2 mu) on the whole space
            twice = 2 * problem.strong_convexity(weights)
            gaps = norm**2 / twice, (2 * norm * rounding.gradient + rounding.gradient**2) / twice
        return cls(problem, weights, inside, model, rounding, value, error, *gaps)

    @cached_property
    def spectrum(self) -> tuple[Vector, NDArray[np.float64]]:
        """Eigenvalues of the Hessian, increasing, and its eigenvectors as columns."""
        values, basis = np.linalg.eigh(self.model.hessian())
        return values, basis

    @property
    def _least_curvature(self) -> float:
        """Least eigenvalue of the Hessian, less a bound on its rounding error; 0 if unknown."""
        if self.problem.dimension > EIGENVALUES_UP_TO or not np.isfinite(self.model.concordance):
            return 0.0
        values = self.spectrum[0]
        noise = self.rounding.hessian + 8 * len(values) * UNIT * float(values[-1])
        return max(0.0, float(values[0]) - noise)

    @property
    def _slope(self) -> float:
        """Upper bound on the length of the exact gradient."""
        norm = length(self.model.gradient)
        return norm * (1 + (self.problem.dimension + 4) * UNIT) + self.rounding.gradient

    @property
    def local_gap(self) -> float:
        """The bound from the local curvature, see the module; infinite where it does not apply."""
        scale, least, slope = self.model.concordance, self._least_curvature, self._slope
        if not scale * slope < 0.5 * least:
            return np.inf
        # (tau + (1 - tau) log(1 - tau)) / tau^2 is at most (1 + tau) / 2 for tau <= 1/2.
        return 0.5 * slope * (slope / least) * (1 + scale * slope / least)

    @property
    def distance(self) -> float:
        """Upper bound on the distance from ``theta`` to any minimiser on the ball (T18).

        The smaller of two bounds. With a = -R g/|g| the far point of T2 and c its gap, |s| <= R
        gives g . (s - theta) >= -c + |g| |s - a|^2 / (2 R). So a minimiser s has
        |s - theta| <= |a - theta| + sqrt(2 R c / |g|), which is small on the boundary. Growth about
        theta, |g| r >= l r^2 (exp(-M r) + M r - 1)/(M r)^2, gives r <= 3 |g| / l where
        M |g| / l <= 1/3. This is small in the interior.
        """
        radius, error = self.problem.radius, self.rounding.gradient
        found, norm = 2 * radius, length(self.model.gradient)
        if np.isfinite(radius) and norm > 2 * error:
            apart = length(self.theta + radius * (self.model.gradient / norm))
            reach = np.sqrt(2 * radius * (self.gap + self.gap_error) / (norm - error))
            found = min(found, apart + float(reach) + 2 * radius * error / (norm - error))
        least = self._least_curvature
        if least > 0 and 3 * self.model.concordance * self._slope <= least:
            found = min(found, 3 * self._slope / least)
        return found

    @cached_property
    def certificate(self) -> float:
        """Upper bound on ``value``, and on the exact f(theta), minus the true minimum."""
        above = self.gap + self.gap_error
        if above > 4 * self.value_error:
            above = min(above, self.local_gap)
        return above + self.value_error

    @property
    def exact_enough(self) -> bool:
        """Whether rounding alone could account for the remaining gap."""
        return bool(self.gap <= self.gap_error + self.value_error)

    def minimum(self, iterations: int, stopped: Stopped) -> Minimum:
        """The point as the result of a solve."""
        return Minimum(
            theta=self.theta,
            losses=self.model.losses,
            value=self.value,
            certificate=self.certificate,
            lam=float(self.weights[1]),
            iterations=iterations,
            stopped=stopped,
            rounding=self.rounding.losses,
        )


def _last_places(model: LocalModel, norm: float) -> Rounding:
    units = (len(model.gradient) + 8) * UNIT
    return Rounding(units * np.abs(model.losses), units * norm, np.inf)


def _ball_gap(
    theta: Vector, gradient: Vector, norm: float, error: float, radius: float
) -> tuple[float, float]:
    """T2's upper bound from a gradient of length ``norm`` and error ``error``, and its own error.

    The error e adds at most e . (theta + R g/|g|) + R |e|^2 / (2 |g|). That is small where theta
    is the far point -R g/|g|, and never more than (|theta| + R) |e|.
    """
    reach = length(theta) + radius
    change = error * reach
    if norm > error:
        towards = length(theta + radius * (gradient / norm))
        change = min(change, error * towards + radius * error * (error / norm) / 2)
    gap = max(0.0, float(gradient @ theta) + radius * norm)
    return gap, change + (len(theta) + 8) * UNIT * norm * reach


def length(vector: Vector) -> float:
    """Euclidean norm of a vector (d,), computed without overflow or underflow."""
    from scipy.linalg.blas import dnrm2  # scipy.linalg takes long to import

    return float(dnrm2(vector))


def frank_wolfe_gap(theta: Vector, gradient: Vector, radius: float) -> float:
    """Upper bound on f(theta) - f* over the ball for convex f (T2), without rounding errors."""
    return max(0.0, float(gradient @ theta + radius * length(gradient)))


def into_ball(theta: ArrayLike, dimension: int, radius: float) -> Vector:
    """Nearest point of the ball, as a new array whose computed norm is at most the radius.

    Raises
    ------
    InputError
        If ``theta`` is not ``dimension`` finite numbers.
    """
    point = np.array(theta, dtype=float)
    if point.shape != (dimension,) or not np.all(np.isfinite(point)):
        raise InputError(
            f"must be {dimension} finite numbers",
            field="start",
            value=point,
            remedy=f"Give an array of shape ({dimension},).",
        )
    if not np.isfinite(radius):
        return point
    largest = float(np.max(np.abs(point), initial=0.0))
    if largest > radius:  # first, so that squares do not overflow
        point *= radius / largest
    norm = length(point)
    if norm > radius:
        point *= radius / norm
        while length(point) > radius:
            point *= 1 - 2 * UNIT
    return point
