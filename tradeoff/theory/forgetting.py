"""T12: the rate at which stage b forgets stage a, and the loss that a distance costs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex.certify import Point
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.problem import UNIT
from tradeoff.schedules import PREFERENCE
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants
from tradeoff.theory.growth import growth

Array = NDArray[np.float64]


def forgetting_rate(
    problem: LogLinear,
    theta: Float[np.ndarray, " d"],
    trained: int = PREFERENCE,
    step: float = 1e-5,
) -> Checked:
    """Along the gradient flow of f_b, d f_a/dt = -grad f_a . grad f_b (chain rule).

    So f_a rises exactly where the inner product of the two gradients is negative. ``measured`` is
    a central difference along the flow's direction. The identity holds inside the ball, where the
    flow is not projected. Source: ours.
    """
    a, b = problem.gradients(theta)[[1 - trained, trained]]
    ahead, behind = problem.losses(np.stack([theta - step * b, theta + step * b]))[:, 1 - trained]
    norm = float(np.linalg.norm(b))
    # Third derivatives are at most M times second ones, those at most L (see theory.growth).
    c = constants(problem)
    third = (
        c.delta * c.mean_sft_smoothness,
        problem.beta * c.delta_w * c.mean_preference_smoothness,
    )
    noise = _rounding(problem, theta, 1 - trained) + 2 * UNIT * float(
        np.linalg.norm(a) * (np.linalg.norm(theta) + step * norm)
    )
    slack = third[1 - trained] * norm**3 * step**2 / 6 + noise / step + 1e-10 * (1 + norm**2)
    return Checked(
        (ahead - behind) / (2 * step), -float(a @ b), "exact", {"|grad f_b|": norm}, slack
    )


def _rounding(problem: LogLinear, theta: Array, objective: int) -> float:
    """Bound on the rounding error of one loss at theta and at points a short step away."""
    point = Point.at(problem, theta, np.eye(2)[objective])
    return 4 * point.value_error + point.gap_error


def forgetting_step(
    problem: LogLinear, theta: Float[np.ndarray, " d"], step: float, trained: int = PREFERENCE
) -> Checked:
    """One update of length a along -grad f_b adds at most -a g_a.g_b + (L_a/2) a^2 |g_b|^2 to f_a.

    The descent lemma for f_a; it holds for a step that is not projected. Source: ours.
    """
    a, b = problem.gradients(theta)[[1 - trained, trained]]
    smooth = constants(problem).smoothness(float(1 - trained))
    before, after = problem.losses(np.stack([theta, theta - step * b]))[:, 1 - trained]
    limit = -step * float(a @ b) + smooth / 2 * step**2 * float(b @ b)
    slack = 1e-12 + _rounding(problem, theta, 1 - trained)
    return Checked(float(after - before), limit, "upper", {"L_a": smooth}, slack)


def distance_bounds(
    problem: LogLinear, thetas: Float[np.ndarray, "B d"], first: int
) -> tuple[Checked, Checked]:
    """(mu_a/2) r^2 <= f_a(theta) - f_a* <= |g_a| r + (L_a/2) r^2, r = |theta - theta_a|.

    Left: growth about theta_a, which may be interior or on the boundary. Right: smoothness. The
    slope |g_a| = |grad f_a(theta_a)| of the linear term is zero where theta_a is interior. Only
    there does (L_a/2) r^2 alone bound the gap. Returns (lower, upper). Source: ours.
    """
    found = growth(problem, first)
    smooth = constants(problem).smoothness(float(first))
    r = np.linalg.norm(thetas - found.minimum.theta, axis=-1)
    gaps = problem.losses(thetas)[:, first] - found.minimum.value
    known = {"mu_a": found.mu, "L_a": smooth, "|g_a|": found.slope}
    lower = Checked(gaps, found.mu / 2 * r**2, "lower", known, found.rounding(problem.radius))
    slack = 1e-10 + found.minimum.certificate + float(found.minimum.rounding[first])
    upper = Checked(gaps, found.slope * r + smooth / 2 * r**2, "upper", known, slack)
    return lower, upper
