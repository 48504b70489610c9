"""Certified minimisers on the ball (theory: T2).

Every optimum has a certificate: an upper bound on f(theta) - f* that does not depend on how the
solver works (:mod:`tradeoff.convex.certify`). The solver is Newton's method, whose quadratic model
is minimised over the whole ball. Where it does not converge, it starts again in a small ball whose
radius grows (continuation). This follows the minimiser into large balls and flat tails.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex._trust_region import model_minimiser
from tradeoff.convex._validate import check_problem, check_vector
from tradeoff.convex.certify import Minimum, Point, Stopped, frank_wolfe_gap
from tradeoff.convex.problem import Problem
from tradeoff.settings import Share, Within, checked

Vector = NDArray[np.float64]
Tolerance = Annotated[float, Within(0, 1e100)]
Iterations = Annotated[int, Within(0, 10**6)]
DENSE_DIMENSION = 512
"""Largest number of parameters for which a Hessian is formed to compute its eigenvalues."""


@checked
def minimise(
    problem: Problem,
    lam: Share,
    *,
    tolerance: Tolerance = 1e-10,
    start: ArrayLike | None = None,
    max_iterations: Iterations = 100,
) -> Minimum:
    """Minimise f_lambda = lam f_preference + (1 - lam) f_SFT over the ball.

    Parameters
    ----------
    problem
        :class:`~tradeoff.convex.LogLinear` or :class:`~tradeoff.convex.Quadratic`.
    lam
        Weight of the preference objective, in [0, 1].
    tolerance
        Stop when the certificate is at most this (in nats), or when rounding allows no further
        progress. ``certificate`` says what was reached.
    start
        (d,) warm start, projected to the ball; its centre by default.
    max_iterations
        Largest number of Newton iterations; continuation in the radius may use as many again.

    Returns
    -------
    Minimum
        ``converged`` says whether the tolerance, or the limit of rounding, was reached. The
        certificate holds in both cases.

    Raises
    ------
    InputError
        If ``lam`` is out of range, or ``start`` is not d finite numbers.
    """
    check_problem(problem)
    check_vector("start", start, problem.dimension)
    weights = np.array([1 - lam, lam])
    theta = np.zeros(problem.dimension) if start is None else start
    point = Point.at(problem, theta, weights)
    best, iterations, stopped = _newton(point, tolerance, max_iterations)
    wide = np.isfinite(problem.radius * point.model.concordance)
    if stopped in ("stalled", "iterations") and wide and max_iterations >= 10:
        nearer = _continued(problem, weights, max_iterations)
        other, more, reason = _newton(nearer, tolerance, max_iterations)
        iterations += more
        if other.certificate < best.certificate:
            best, stopped = other, reason
    return best.minimum(iterations, stopped)


def _newton(point: Point, tolerance: float, max_iterations: int) -> tuple[Point, int, Stopped]:
    """Newton's method with a line search; returns the point of the smallest gap."""
    best, radius = point, point.problem.radius
    for iteration in range(1, max_iterations + 1):
        if best.certificate <= tolerance:
            return best, iteration - 1, "tolerance"
        point, moved = _step(point, radius, tolerance)
        progress = point.gap < 0.5 * best.gap or point.value < best.value - 1e-15 * abs(best.value)
        if point.gap < best.gap:
            best = point
        if not (moved and progress):
            return best, iteration, _verdict(best, tolerance, "stalled")
    return best, max_iterations, _verdict(best, tolerance, "iterations")


def _verdict(best: Point, tolerance: float, otherwise: Stopped) -> Stopped:
    if best.certificate <= tolerance:
        return "tolerance"
    return "rounding" if best.exact_enough else otherwise


def _step(point: Point, radius: float, tolerance: float) -> tuple[Point, bool]:
    """Halve the Newton step until the value falls by a tenth of what the slope predicts."""
    step = model_minimiser(point, radius, tolerance) - point.theta
    slope = float(point.model.gradient @ step)
    slack = min(point.value_error, 1e-12 * abs(point.value))
    length = 1.0
    for _ in range(40):
        here = Point.at(point.problem, point.theta + length * step, point.weights)
        if here.value <= point.value + 0.1 * length * slope + slack:
            return here, True
        length *= 0.5
    return point, False


def _continued(problem: Problem, weights: Vector, max_iterations: int) -> Point:
    """Follow the minimiser over balls of doubling radius; f is nearly quadratic on the first.

    A minimiser on the boundary is moved outwards with the ball. An interior one stays in place.
    """
    point = Point.at(problem, np.zeros(problem.dimension), weights)
    radius = min(problem.radius, 1 / max(point.model.concordance, 1e-300))
    left = max_iterations
    while left > 0:
        for _ in range(8):
            point, moved = _step(point, radius, 0.0)
            left -= 1
            gap = frank_wolfe_gap(point.theta, point.model.gradient, radius)
            if not moved or gap <= 1e-3 * abs(point.value) + point.value_error:
                break
        if radius >= problem.radius:
            break
        grown = min(problem.radius, 2 * radius)
        if np.linalg.norm(point.theta) >= 0.99 * radius:
            point = Point.at(problem, point.theta * (grown / radius), weights)
        radius = grown
    return point


@checked
def minimise_max_gap(
    problem: Problem, lam: Share, *, tolerance: Tolerance = 1e-9, max_solves: Iterations = 60
) -> Minimum:
    """Minimise F_lambda = max{lam (f_pref - f_pref*), (1 - lam) (f_SFT - f_SFT*)} over the ball.

    The minimiser also minimises some f_mu (weighted-Chebyshev scalarisation of a convex pair). The
    two weighted gaps are equal there, so bisection finds mu. The minimum of every f_mu bounds F*
    from below, which gives the certificate.

    Parameters
    ----------
    problem, lam
        As for :func:`minimise`.
    tolerance
        Stop when the certificate is at most this, in nats.
    max_solves
        Largest number of bisection steps.

    Returns
    -------
    Minimum
        ``lam`` is the requested weight, ``value`` is F_lambda at ``theta``.
    """
    if not 0 < lam < 1:
        return replace(minimise(problem, lam, tolerance=tolerance), value=0.0)
    pair = np.array([1 - lam, lam])
    ends = [minimise(problem, w, tolerance=0.1 * tolerance) for w in (0.0, 1.0)]
    floor = np.array([ends[0].lower, ends[1].lower])
    optima = np.array([end.losses[i] + end.rounding[i] for i, end in enumerate(ends)])
    low, high, best, bound, solves = ends[0], ends[1], ends[0], 0.0, 0
    while solves < max_solves:
        solves += 1
        mu = 0.5 * (low.lam + high.lam)
        start = 0.5 * (low.theta + high.theta)
        found = minimise(problem, mu, tolerance=0.1 * tolerance, start=start)
        bound = max(bound, _dual_bound(found, pair, optima))
        gaps = pair * (found.losses - floor)
        low, high = (found, high) if gaps[1] > gaps[0] else (low, found)
        blend = _balance(problem, low, high, pair, floor)
        best = min((best, found, blend), key=lambda m: float(np.max(pair * (m.losses - floor))))
        if np.max(pair * (best.losses - floor)) - bound <= tolerance:
            break
    value = float(np.max(pair * (best.losses - floor)))
    rounding = float(np.max(pair * best.rounding)) + 1e-15 * value
    error = max(0.0, value - bound) + rounding
    stopped: Stopped = "tolerance" if error <= tolerance else "iterations"
    limit = 4 * float(pair @ [end.certificate for end in ends]) + 4 * rounding
    if stopped == "iterations" and error <= limit and all(end.converged for end in ends):
        stopped = "rounding"
    return Minimum(best.theta, best.losses, value, error, lam, solves, stopped, best.rounding)


def _dual_bound(found: Minimum, pair: Vector, optima: Vector) -> float:
    """Lower bound on F*: any convex combination of the two weighted gaps, minimised."""
    scale = 1 / ((1 - found.lam) / pair[0] + found.lam / pair[1])
    return float(scale * (found.lower - (1 - found.lam) * optima[0] - found.lam * optima[1]))


def _balance(problem: Problem, low: Minimum, high: Minimum, pair: Vector, floor: Vector) -> Minimum:
    """Point on the segment between two minimisers where the weighted gaps are equal."""
    share, left, right = 0.5, 0.0, 1.0
    for _ in range(30):
        share = 0.5 * (left + right)
        losses = problem.losses((1 - share) * low.theta + share * high.theta)
        gaps = pair * (losses - floor)
        left, right = (share, right) if gaps[1] > gaps[0] else (left, share)
    theta = (1 - share) * low.theta + share * high.theta
    return Point.at(problem, theta, np.array([1 - low.lam, low.lam])).minimum(0, "iterations")
