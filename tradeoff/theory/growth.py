"""Quadratic growth of a loss about its minimiser on the ball, the condition for T3's forgetting.

A strong-convexity constant that holds on all of the ball is exponentially small in R Delta,
because softmax probabilities may be that small. T3 needs less: growth about one point,

    f(theta) - f*  >=  (mu/2) |theta - theta_b|^2      for every theta in the ball.

Two effects, neither exponentially small, give it (ours):

- curvature. Along any line the third derivative of a log-linear loss is at most M |v| times its
  second, M = Delta or beta Delta_w (Bach 2010: a variable of range M has |third cumulant| at most
  M times its variance). So the Hessian at distance r is at least exp(-M r) times that at theta_b;
  integrating twice, mu >= 2 l (exp(-z) + z - 1)/z^2 with l the smallest eigenvalue at theta_b and
  z = M (R + |theta_b|): of order 1/z, not exp(-z).
  (On few or similar data :func:`strong_convexity` can be larger; the larger one is used.)
- the ball. At a boundary minimiser g = -|g| theta_b / R, and |theta| <= R makes
  g.(theta - theta_b) >= |g| |theta - theta_b|^2 / (2 R): mu gains |g|/R, even where the Hessian
  is singular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import logsumexp

from tradeoff import objectives
from tradeoff.convex.certify import Minimum, Point, length
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.problem import UNIT
from tradeoff.convex.solve import DENSE_DIMENSION, minimise
from tradeoff.convex.tails import minimise_tail
from tradeoff.errors import InputError
from tradeoff.schedules import OBJECTIVES, PREFERENCE
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Constants, blocks, constants, distances

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Growth:
    """Quadratic growth of one loss about its minimiser on the ball.

    Attributes
    ----------
    minimum
        The certified minimiser theta_b.
    curvature, boundary
        The two parts of ``mu``.
    slope
        |grad f_b(theta_b)|.
    far
        |a - theta_b| with a = -R g/|g|: zero at an exact minimiser on the boundary.
    """

    minimum: Minimum
    curvature: float
    boundary: float
    slope: float
    far: float = 0.0

    @property
    def mu(self) -> float:
        """Growth constant: f_b - f_b* >= (mu/2) |theta - theta_b|^2 on the ball."""
        return self.curvature + self.boundary

    def rounding(self, radius: float) -> float:
        """Slack of the growth inequality for an inexact theta_b.

        With a = -R g/|g|, the far point of T2, moving from a to theta costs 2 |g| |a - theta|.
        """
        shift = self.far if self.boundary > 0 else 0.0
        return float(self.minimum.certificate + 2 * self.slope * shift + 1e-12)


@dataclass(frozen=True)
class Located:
    """A computed minimiser of a loss, with a bound on its distance from the exact one.

    Attributes
    ----------
    minimum
        The certified minimiser found.
    distance
        Upper bound on the distance from it to any minimiser (T18).
    """

    minimum: Minimum
    distance: float


def locate(problem: LogLinear, objective: int, *, tolerance: float | None = None) -> Located:
    """Minimise one objective, and bound the distance from the result to any minimiser.

    In the flat tail of a logistic loss, losses converge long before parameters do, and forgetting
    depends on the parameters theta_b. So for a loss that is nearly zero its logarithm is minimised
    (:mod:`tradeoff.convex.tails`). Any other is minimised until rounding stops all progress.

    Parameters
    ----------
    problem, objective
        The problem, and the objective: SFT is 0, PREFERENCE is 1.
    tolerance
        Certificate at which to stop, in nats; by default rounding stops the search.
    """
    weights = np.eye(2)[objective]
    found = minimise(problem, float(objective), tolerance=1e-16 if tolerance is None else tolerance)
    if tolerance is None:
        if problem.dimension <= DENSE_DIMENSION and found.value < 1e-6:
            tail = minimise_tail(problem, objective, found.theta)
            if tail is not None:
                point = Point.at(problem, tail.theta, weights)
                return Located(point.minimum(found.iterations, "rounding"), tail.distance)
        found = minimise(problem, float(objective), tolerance=0.0, start=found.theta)
    return Located(found, Point.at(problem, found.theta, weights).distance)


def last_minimiser(problem: LogLinear, objective: int) -> Minimum:
    """The minimiser of one objective that :func:`locate` finds."""
    return locate(problem, objective).minimum


def growth(problem: LogLinear, objective: int) -> Growth:
    """Growth constant of one objective (SFT is 0, PREFERENCE is 1); see the module for the proof.

    Above `DENSE_DIMENSION` parameters no Hessian is formed and only the ball's part is used.

    Raises
    ------
    InputError
        Where neither part is positive. Either the minimiser is interior with a singular Hessian:
        it need not be unique, and ties keep something of the first stage. Or the loss and its slope
        underflow to zero.
    """
    found = last_minimiser(problem, objective)
    gradient = problem.gradients(found.theta)[objective]
    slope, norm = length(gradient), length(found.theta)
    boundary = slope / problem.radius if norm >= problem.radius * (1 - 1e-9) else 0.0
    z = _self_concordance(problem, constants(problem), objective) * (problem.radius + norm)
    curvature = 2 * _smallest_eigenvalue(problem, objective, found.theta) * _damping(z)
    if problem.dimension <= DENSE_DIMENSION:
        curvature = max(curvature, strong_convexity(problem, objective))
    if not curvature + boundary > 0:
        raise InputError(
            "no growth: the minimiser is interior with a singular Hessian, so that it may not be "
            "unique, or the loss underflows to zero",
            field=OBJECTIVES[objective],
            remedy="Give more data than parameters, or a smaller radius.",
        )
    far = length(found.theta + problem.radius * (gradient / max(slope, 1e-300)))
    return Growth(found, curvature, boundary, slope, far)


def quadratic_growth(
    problem: LogLinear, objective: int, thetas: Float[np.ndarray, "B d"]
) -> Checked:
    """f_b(theta) - f_b* >= (mu/2) |theta - theta_b|^2 at points of the ball. Source: ours."""
    found = growth(problem, objective)
    measured = problem.losses(thetas)[:, objective] - found.minimum.value
    bound = found.mu / 2 * np.sum((thetas - found.minimum.theta) ** 2, axis=-1)
    known = {"mu": found.mu, "curvature": found.curvature, "boundary": found.boundary}
    return Checked(measured, bound, "lower", known, found.rounding(problem.radius))


def strong_convexity(problem: LogLinear, objective: int) -> float:
    """A strong-convexity constant on the whole ball; 0 where the data do not span the space.

    SFT: probabilities on the ball are at least m_y = 1 / sum over y' of exp(R|phi_y' - phi_y|),
    and u'Cov_pi u = min over c of sum pi_y (u.phi_y - c)^2 is at least the same with m for pi.
    DPO: margins are at most R|delta| plus the reference's, so each curvature is at least that of
    the logistic loss there. Both shrink like exp(-R Delta); :func:`growth` does better.
    """
    if objective == PREFERENCE:
        delta = problem.dense_differences
        margin = problem.radius * np.linalg.norm(delta, axis=1) + np.abs(problem.margin_shift)
        bend = problem.preference_weights * objectives.dpo_curvature(margin, problem.beta)
        return _positive(delta.T @ (bend[:, None] * delta))
    total = np.zeros((problem.dimension, problem.dimension))
    for prompt, rows in blocks(problem):
        phi = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)
        # In logarithms, because exp(R |phi_y' - phi_y|) may overflow.
        least = np.exp(-logsumexp(problem.radius * distances(phi), axis=1))
        mean = least @ phi / least.sum() if least.sum() > 0 else phi.mean(axis=0)
        centred = phi - mean
        total += problem.prompt_weights[prompt] * (centred.T @ (least[:, None] * centred))
    return _positive(total)


def strongly_convex(
    problem: LogLinear, objective: int, thetas: Float[np.ndarray, "B d"]
) -> Checked:
    """The smallest Hessian eigenvalue on the ball is never below :func:`strong_convexity`."""
    weights = np.eye(2)[objective]
    points = [Point.at(problem, t, weights) for t in thetas]
    lows, tops = (np.array([p.spectrum[0][k] for p in points]) for k in (0, -1))
    noise = [p.rounding.hessian for p in points] + 8 * problem.dimension * UNIT * tops
    mu = strong_convexity(problem, objective)
    return Checked(lows, np.full(len(lows), mu), "lower", {"mu": mu}, 1e-10 + noise)


def _self_concordance(problem: LogLinear, c: Constants, objective: int) -> float:
    return problem.beta * c.delta_w if objective == PREFERENCE else c.delta


def _damping(z: float) -> float:
    """(exp(-z) + z - 1)/z^2: 1/2 at zero, about 1/z for large z."""
    return 0.5 - z / 6 if z < 1e-4 else float((np.expm1(-z) + z) / z**2)


def _smallest_eigenvalue(problem: Any, objective: int, theta: Array) -> float:
    if problem.dimension > DENSE_DIMENSION:
        return 0.0
    return _positive(problem.local_model(theta, np.eye(2)[objective]).hessian())


def _positive(matrix: Array) -> float:
    """Smallest eigenvalue less a bound on its rounding error, and at least 0."""
    values = np.linalg.eigvalsh(matrix)
    rounding = 1e-14 * len(values) * float(values[-1])
    return max(0.0, float(values[0]) - rounding)
