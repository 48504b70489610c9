"""Minimise a convex quadratic over a ball: the step of Newton's method in `tradeoff.convex.solve`.

The method is an eigendecomposition for small d. For large d it is a Krylov method (Gould, Lucidi,
Roma and Toint, SIAM J. Optim. 1999).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tradeoff.convex.certify import Point, frank_wolfe_gap

Vector = NDArray[np.float64]
KRYLOV_ABOVE = 128
"""Number of parameters above which a Newton step is computed in a Krylov space, as it is faster."""


def model_minimiser(point: Point, radius: float, tolerance: float) -> Vector:
    """Minimise g.(s - theta) + (s - theta)'H(s - theta)/2 over |s| <= radius."""
    model, theta = point.model, point.theta
    if len(theta) <= KRYLOV_ABOVE:
        eigenvalues, basis = point.spectrum
        linear = basis.T @ model.gradient - eigenvalues * (basis.T @ theta)
        return np.asarray(basis @ _diagonal_minimiser(eigenvalues, linear, radius))
    linear = model.gradient - model.curvature(theta)
    gap = frank_wolfe_gap(theta, model.gradient, radius)
    residual = max(0.05 * gap, 0.2 * tolerance) / radius
    return _krylov_minimiser(model.curvature, linear, radius, residual)


def dense_minimiser(hessian: NDArray[np.float64], linear: Vector, radius: float) -> Vector:
    """Minimise b.s + s'Hs/2 over |s| <= radius, for H >= 0 up to rounding."""
    eigenvalues, basis = np.linalg.eigh(hessian)
    return np.asarray(basis @ _diagonal_minimiser(eigenvalues, basis.T @ linear, radius))


def _diagonal_minimiser(eigenvalues: Vector, linear: Vector, radius: float) -> Vector:
    """Minimise b.s + sum of l s^2 / 2 over |s| <= radius, for l >= 0 up to rounding."""
    pull = float(np.max(np.abs(linear))) / (radius if np.isfinite(radius) else 1.0)
    unit = max(float(eigenvalues[-1]), pull)
    if not unit > 0:
        return np.zeros_like(linear)
    linear, eigenvalues = linear / unit, eigenvalues / unit  # the tail of a loss is tiny
    curvature = np.maximum(eigenvalues, 1e-14 * max(float(eigenvalues[-1]), 1e-3))
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
    from scipy.linalg import eigh_tridiagonal  # scipy.linalg takes long to import

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
        if beta * abs(small[-1]) <= residual or k == max_vectors - 1 or beta == 0:
            break
        off_diagonal.append(beta)
        basis[k + 1] = image / beta
    return np.asarray(basis[: len(small)].T @ small)
