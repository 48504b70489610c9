"""Certified minimisers on the ball (theory: T2).

Every optimum carries the Frank-Wolfe gap g . theta + R |g|, an upper bound on f(theta) - f*
that holds for any convex f and whatever the solver did. The solver is Newton's method whose
quadratic model is minimised over the whole ball: by an eigendecomposition where d is small, in
a Krylov space (Gould, Lucidi, Roma and Toint, SIAM J. Optim. 1999) where it is large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh_tridiagonal

from tradeoff.display import Shown, cell
from tradeoff.errors import InputError

Vector = NDArray[np.float64]
DENSE_DIMENSION = 512
"""Up to this many parameters a Hessian may be formed, to know its eigenvalues."""
KRYLOV_ABOVE = 128
"""Beyond this many parameters a Newton step is sought in a Krylov space, which is faster there."""


@runtime_checkable
class Problem(Protocol):
    """What a solver needs of a convex pair of objectives."""

    @property
    def radius(self) -> float: ...

    @property
    def dimension(self) -> int: ...

    def losses(self, theta: ArrayLike) -> NDArray[np.float64]: ...

    def local_model(self, theta: Vector, weights: Vector) -> LocalModel: ...

    def strong_convexity(self, weights: Vector) -> float:
        """Asked only where the radius is infinite."""


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
    """

    losses: NDArray[np.float64]
    gradient: Vector
    hessian: Callable[[], NDArray[np.float64]]
    curvature: Callable[[Vector], Vector]


@dataclass(frozen=True, repr=False)
class Minimum(Shown):
    """A minimiser with its certificate.

    Attributes
    ----------
    theta
        (d,) the point found, inside the ball.
    losses
        (2,) SFT and preference loss there.
    value
        The minimised function there.
    certificate
        Upper bound on ``value`` minus the true minimum.
    lam
        Weight of the preference objective that was minimised.
    iterations
        Newton iterations taken.
    """

    theta: Float[np.ndarray, " d"]
    losses: Float[np.ndarray, " 2"]
    value: float
    certificate: float
    lam: float
    iterations: int

    @property
    def lower(self) -> float:
        """Certified lower bound on the true minimum."""
        return self.value - self.certificate

    def table(self) -> pd.DataFrame:
        """One row: weight, losses, value, certificate, iterations."""
        sft_loss, preference_loss = self.losses.tolist()
        row = {
            "lam": self.lam,
            "sft_loss": sft_loss,
            "preference_loss": preference_loss,
            "value": self.value,
            "certificate": self.certificate,
            "iterations": self.iterations,
        }
        return pd.DataFrame([row])

    def __repr__(self) -> str:
        value, certificate = cell(float(self.value)), cell(float(self.certificate))
        return f"Minimum(lam={cell(self.lam)}, value {value} within {certificate})"


def frank_wolfe_gap(theta: Vector, gradient: Vector, radius: float) -> float:
    """Upper bound on f(theta) - f* over the ball for convex f (T2)."""
    return max(0.0, float(gradient @ theta + radius * np.linalg.norm(gradient)))


def minimise(
    problem: Problem,
    lam: float,
    *,
    tolerance: float = 1e-10,
    start: Vector | None = None,
    max_iterations: int = 100,
) -> Minimum:
    """Minimise f_lambda = lam f_preference + (1 - lam) f_SFT over the ball.

    Parameters
    ----------
    problem
        :class:`~tradeoff.convex.log_linear.LogLinear` or
        :class:`~tradeoff.convex.quadratic.Quadratic`.
    lam
        Weight of the preference objective, in [0, 1].
    tolerance
        Stop when the certificate is at most this (in nats), or when rounding allows no further
        progress; read ``certificate`` for what was reached.
    start
        (d,) warm start; the centre of the ball by default.
    max_iterations
        Newton iterations, at most.

    Returns
    -------
    Minimum
    """
    if not 0 <= lam <= 1:
        raise InputError("out of range", field="lam", value=lam, remedy="lam lies in [0, 1].")
    weights = np.array([1 - lam, lam])
    theta = np.zeros(problem.dimension) if start is None else np.array(start, dtype=float)
    model = problem.local_model(theta, weights)
    best = _minimum(problem, theta, model, weights, 0)
    for iteration in range(1, max_iterations + 1):
        if best.certificate <= tolerance:
            break
        step = _model_minimiser(model, theta, problem.radius, tolerance) - theta
        theta, model = _line_search(problem, theta, step, model, weights)
        candidate = _minimum(problem, theta, model, weights, iteration)
        stalled = candidate.certificate >= 0.5 * best.certificate and (
            candidate.value >= best.value - 1e-15 * max(1.0, abs(best.value))
        )
        if candidate.certificate < best.certificate:
            best = candidate
        if stalled:
            break
    return best


def _minimum(
    problem: Problem, theta: Vector, model: LocalModel, weights: Vector, iterations: int
) -> Minimum:
    return Minimum(
        theta=theta,
        losses=model.losses,
        value=float(weights @ model.losses),
        certificate=certificate(problem, theta, model.gradient, weights),
        lam=float(weights[1]),
        iterations=iterations,
    )


def certificate(problem: Problem, theta: Vector, gradient: Vector, weights: Vector) -> float:
    """Upper bound on ``weights @ losses`` minus its minimum, from its gradient at theta (T2)."""
    if np.isfinite(problem.radius):
        return frank_wolfe_gap(theta, gradient, problem.radius)
    modulus = problem.strong_convexity(weights)  # f - f* <= |g|^2 / (2 mu) on the whole space
    return float(gradient @ gradient) / (2 * modulus)


def _line_search(
    problem: Problem, theta: Vector, step: Vector, model: LocalModel, weights: Vector
) -> tuple[Vector, LocalModel]:
    """Halve the step until the value falls by a tenth of what the slope promises."""
    value, slope = float(weights @ model.losses), float(model.gradient @ step)
    length = 1.0
    for _ in range(40):
        point = theta + length * step
        here = problem.local_model(point, weights)
        if weights @ here.losses <= value + 0.1 * length * slope + 1e-15 * max(1.0, abs(value)):
            return point, here
        length *= 0.5
    return theta, model


def _model_minimiser(model: LocalModel, theta: Vector, radius: float, tolerance: float) -> Vector:
    """Minimise g.(s - theta) + (s - theta)'H(s - theta)/2 over |s| <= radius."""
    if len(theta) <= KRYLOV_ABOVE:
        hessian = model.hessian()
        linear = model.gradient - hessian @ theta
        eigenvalues, basis = np.linalg.eigh(hessian)
        return np.asarray(basis @ _diagonal_minimiser(eigenvalues, basis.T @ linear, radius))
    linear = model.gradient - model.curvature(theta)
    gap = frank_wolfe_gap(theta, model.gradient, radius)
    residual = max(0.05 * gap, 0.2 * tolerance) / radius
    return _krylov_minimiser(model.curvature, linear, radius, residual)


def _diagonal_minimiser(eigenvalues: Vector, linear: Vector, radius: float) -> Vector:
    """Minimise b.s + sum of l s^2 / 2 over |s| <= radius, for l >= 0 up to rounding."""
    floor = 1e-14 * max(float(eigenvalues[-1]), 1e-300)
    curvature = np.maximum(eigenvalues, floor)
    point = -linear / curvature
    norm = float(np.linalg.norm(point))
    if norm <= radius:
        return point
    multiplier = 0.0
    for _ in range(100):  # Newton on 1/|s|: concave and increasing, hence monotone
        shifted = curvature + multiplier
        point = -linear / shifted
        norm = float(np.linalg.norm(point))
        if abs(norm - radius) <= 1e-14 * radius:
            break
        multiplier += (norm / radius - 1) * norm**2 / float(np.sum(point**2 / shifted))
    return point * (radius / max(norm, radius))


def _krylov_minimiser(
    curvature: Callable[[Vector], Vector],
    linear: Vector,
    radius: float,
    residual: float,
    max_vectors: int = 80,
) -> Vector:
    """Lanczos form of the trust-region step: minimise over a growing Krylov space."""
    norm = float(np.linalg.norm(linear))
    if norm == 0:
        return np.zeros_like(linear)
    basis = np.empty((max_vectors + 1, len(linear)))
    basis[0] = linear / norm
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for k in range(max_vectors):
        image = curvature(basis[k])
        diagonal.append(float(basis[k] @ image))
        for _ in range(2):  # full reorthogonalisation, twice is enough
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        beta = float(np.linalg.norm(image))
        values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off_diagonal))
        small = vectors @ _diagonal_minimiser(values, norm * vectors[0], radius)
        if beta * abs(small[-1]) <= residual or k == max_vectors - 1:
            break
        off_diagonal.append(beta)
        basis[k + 1] = image / beta
    return np.asarray(basis[: len(small)].T @ small)


def minimise_max_gap(
    problem: Problem, lam: float, *, tolerance: float = 1e-9, max_solves: int = 60
) -> Minimum:
    """Minimise F_lambda = max{lam (f_pref - f_pref*), (1 - lam) (f_SFT - f_SFT*)} over the ball.

    The minimiser also minimises some f_mu (weighted-Chebyshev scalarisation of a convex pair), and
    the two weighted gaps are equal there: mu is found by bisection. Every f_mu bounds F* from
    below, which gives the certificate.

    Parameters
    ----------
    problem, lam
        As for :func:`minimise`.
    tolerance
        Stop when the certificate is at most this, in nats.
    max_solves
        Steps of the bisection, at most.

    Returns
    -------
    Minimum
        ``lam`` is the weight asked for, ``value`` is F_lambda at ``theta``.
    """
    if not 0 < lam < 1:
        return _single_objective(problem, lam)
    pair = np.array([1 - lam, lam])
    ends = [minimise(problem, w, tolerance=0.1 * tolerance) for w in (0.0, 1.0)]
    floor = np.array([ends[0].lower, ends[1].lower])
    optima = np.array([ends[0].value, ends[1].value])
    low, high, best, bound, solves = ends[0], ends[1], ends[0], 0.0, 0
    for solves in range(1, max_solves + 1):
        mu = 0.5 * (low.lam + high.lam)
        start = 0.5 * (low.theta + high.theta)
        found = minimise(problem, mu, tolerance=0.1 * tolerance, start=start)
        bound = max(bound, _dual_bound(found, pair, optima))
        gaps = pair * (found.losses - floor)
        if np.max(gaps) < np.max(pair * (best.losses - floor)) or solves == 1:
            best = found
        low, high = (found, high) if gaps[1] > gaps[0] else (low, found)
        blend = _balance(problem, low, high, pair, floor)
        if np.max(pair * (blend.losses - floor)) < np.max(pair * (best.losses - floor)):
            best = blend
        if np.max(pair * (best.losses - floor)) - bound <= tolerance:
            break
    value = float(np.max(pair * (best.losses - floor)))
    return Minimum(best.theta, best.losses, value, max(0.0, value - bound), lam, solves)


def _single_objective(problem: Problem, lam: float) -> Minimum:
    found = minimise(problem, lam)
    return Minimum(found.theta, found.losses, 0.0, found.certificate, found.lam, found.iterations)


def _dual_bound(found: Minimum, pair: Vector, optima: Vector) -> float:
    """Lower bound on F*: any convex combination of the two weighted gaps, minimised."""
    scale = 1 / ((1 - found.lam) / pair[0] + found.lam / pair[1])
    return scale * (found.lower - (1 - found.lam) * optima[0] - found.lam * optima[1])


def _balance(problem: Problem, low: Minimum, high: Minimum, pair: Vector, floor: Vector) -> Minimum:
    """Best point between two minimisers, where the weighted gaps cross."""
    share = 0.5
    left, right = 0.0, 1.0
    theta, losses = low.theta, low.losses
    for _ in range(30):
        share = 0.5 * (left + right)
        theta = (1 - share) * low.theta + share * high.theta
        losses = problem.losses(theta)
        gaps = pair * (losses - floor)
        left, right = (share, right) if gaps[1] > gaps[0] else (left, share)
    return Minimum(theta, losses, 0.0, 0.0, low.lam, 0)
