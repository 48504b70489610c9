"""T2: bounds on the gap of a point, computed from its gradient alone.

For convex f with L-Lipschitz gradient on a convex set Theta,

    max_s g.(theta - s) - (L/2)|theta - s|^2  <=  f(theta) - f*  <=  max_s g.(theta - s)

with g the gradient at theta and s ranging over Theta. On the ball the right side is
g.theta + R|g|; on the left the best s is one projected gradient step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex.certify import Point, frank_wolfe_gap, length
from tradeoff.convex.solve import minimise
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants

Array = NDArray[np.float64]


def gap(problem: Any, lam: float, theta: Array) -> tuple[float, float]:
    """f_lambda(theta) - f_lambda* and the certificate of that optimum."""
    best = minimise(problem, lam, tolerance=1e-13)
    return float(np.array([1 - lam, lam]) @ problem.losses(theta)) - best.value, best.certificate


def upper_certificate(problem: Any, lam: float, theta: Float[np.ndarray, " d"]) -> Checked:
    """The gap of f_lambda at theta is at most g.theta + R|g|.

    Proof: convexity gives f(theta) - f(s) <= g.(theta - s) for the minimiser s, and over the ball
    the right side is largest at s = -R g/|g| (Cauchy-Schwarz). It holds for a theta from any
    algorithm. Source: Frank & Wolfe 1956, Jaggi 2013.
    """
    measured, certificate = gap(problem, lam, theta)
    gradient = gradient_of(problem, lam, theta)
    bound = frank_wolfe_gap(theta, gradient, problem.radius)
    norm = length(gradient)
    slack = _rounding(problem, lam, theta) + certificate
    return Checked(measured, bound, "upper", {"R": problem.radius, "|g|": norm}, slack)


def lower_certificate(
    problem: Any, lam: float, theta: Float[np.ndarray, " d"], smoothness: float | None = None
) -> Checked:
    """The gap of f_lambda at theta is at least the guaranteed decrease of one projected step.

    Proof: smoothness gives f(s) <= f(theta) + g.(s - theta) + (L/2)|s - theta|^2 for every s in
    the ball, and f* <= f(s). The right side is smallest at s = Pi(theta - g/L). That projection
    satisfies g.(theta - s) >= L|theta - s|^2. So the bound is at least the more familiar
    (L/2)|theta - s|^2, and can be larger where the ball is active.
    Source: Nesterov 2004, Section 2.2; ours in this form. ``smoothness`` defaults to T1's.
    """
    measured, certificate = gap(problem, lam, theta)
    slope = constants(problem).smoothness(lam) if smoothness is None else smoothness
    gradient = gradient_of(problem, lam, theta)
    bound, moved = projected_step(problem, theta, gradient, slope)
    familiar = slope / 2 * moved**2
    known = {"L": slope, "step": moved, "familiar": familiar, "certificate": certificate}
    return Checked(measured, bound, "lower", known, _rounding(problem, lam, theta) + certificate)


def _rounding(problem: Any, lam: float, theta: Array) -> float:
    """Bound on the rounding errors of a value and of a certificate at theta."""
    point = Point.at(problem, theta, np.array([1 - lam, lam]))
    return 1e-12 + point.value_error + point.gap_error


def projected_step(
    problem: Any, theta: Array, gradient: Array, smoothness: float
) -> tuple[float, float]:
    """Guaranteed decrease of one projected step of size 1/L, and the distance that it moves."""
    far = theta - problem.radius * gradient / max(length(gradient), 1e-300)
    if smoothness > 1e-150 * length(gradient):
        far = theta - gradient / smoothness
    step = theta - problem.project(far)  # without curvature: to the boundary of the ball
    moved = length(step)
    return float(gradient @ step) - smoothness / 2 * moved**2, moved


def gradient_of(problem: Any, lam: float, theta: Array) -> Array:
    """Gradient of f_lambda at theta (d,)."""
    return np.asarray(np.array([1 - lam, lam]) @ problem.gradients(theta))
