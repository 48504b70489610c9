"""A pair of noisy quadratics, on which the moments of a run are known in closed form (T8).

f_i(theta) = (theta - a_i)' H_i (theta - a_i) / 2, and a stochastic gradient is the exact one plus
zero-mean Gaussian noise of covariance S_i.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff import draws
from tradeoff.convex._validate import check_quadratic
from tradeoff.convex.problem import UNIT, LocalModel, Rounding

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Quadratic:
    """Two quadratic objectives; index 0 is SFT and index 1 the preference objective.

    Attributes
    ----------
    centres
        (2, d) minimisers a_i.
    hessians
        (2, d, d) symmetric positive definite H_i.
    covariances
        (2, d, d) symmetric positive semidefinite noise covariances S_i; zero by default.
    radius
        Radius of the ball the iterates are projected on; infinite by default, as the exact
        moments of :mod:`tradeoff.theory.quadratic` require.
    """

    centres: Float[np.ndarray, "2 d"]
    hessians: Float[np.ndarray, "2 d d"]
    covariances: Float[np.ndarray, "2 d d"] | None = None
    radius: float = np.inf

    def __post_init__(self) -> None:
        check_quadratic(self)

    def __repr__(self) -> str:
        noise = "noisy" if self.noise.any() else "exact"
        apart = float(np.linalg.norm(self.centres[1] - self.centres[0]))
        return (
            f"Quadratic(d = {self.dimension}, centres {apart:.4g} apart, "
            f"{noise} gradients, radius={self.radius:g})"
        )

    @property
    def dimension(self) -> int:
        """Number of parameters d."""
        return int(self.centres.shape[1])

    @cached_property
    def noise(self) -> Array:
        """(2, d, d) noise covariances."""
        return np.zeros_like(self.hessians) if self.covariances is None else self.covariances

    def losses(self, theta: ArrayLike) -> Array:
        """(f_SFT, f_preference): (2,) for theta (d,), (B, 2) for theta (B, d)."""
        offset = np.asarray(theta)[..., None, :] - self.centres
        return np.asarray(0.5 * np.einsum("...id,ide,...ie->...i", offset, self.hessians, offset))

    def gradients(self, theta: ArrayLike) -> Array:
        """Gradients of both losses: (2, d) for theta (d,), (B, 2, d) for theta (B, d)."""
        offset = np.asarray(theta)[..., None, :] - self.centres
        return np.asarray(np.einsum("ide,...ie->...id", self.hessians, offset))

    def project(self, theta: Array) -> Array:
        """Nearest point of the ball, for theta (..., d)."""
        if not np.isfinite(self.radius):
            return theta
        norm = np.sqrt(np.sum(theta * theta, axis=-1, keepdims=True))
        return np.asarray(theta * (self.radius / np.maximum(norm, self.radius)))

    def local_model(self, theta: Array, weights: Array) -> LocalModel:
        """Second-order model of ``weights @ losses`` at theta (d,), for the solver."""
        hessian = np.tensordot(weights, self.hessians, axes=1)
        gradient = weights @ self.gradients(theta)
        away = np.linalg.norm(theta - self.centres, axis=1)
        sizes = np.linalg.norm(self.hessians, axis=(1, 2))
        lengths = away + np.linalg.norm(theta) + np.linalg.norm(self.centres, axis=1)
        units = 2 * (self.dimension + 4) * UNIT
        rounding = Rounding(
            units * sizes * away * lengths,
            units * float(weights @ (sizes * lengths)),
            units * float(weights @ sizes),
        )
        return LocalModel(
            self.losses(theta), gradient, lambda: hessian, lambda v: hessian @ v, rounding, 0.0
        )

    def strong_convexity(self, weights: Array) -> float:
        """Smallest eigenvalue of the weighted Hessian, less a bound on its rounding error."""
        values = np.linalg.eigvalsh(np.tensordot(weights, self.hessians, axes=1))
        return float(values[0] - 8 * len(values) * UNIT * values[-1])


class QuadraticSampler:
    """Exact gradients plus Gaussian noise from counter-based draws.

    Parameters
    ----------
    problem
        The pair of quadratics.
    seed, replicas
        Root seed and (B,) replica number of each run; runs of one replica see the same noise.
    """

    def __init__(self, problem: Quadratic, seed: int, replicas: NDArray[np.int64]) -> None:
        self.problem = problem
        streams = (draws.SFT_NOISE, draws.PREFERENCE_NOISE)
        self._keys = [draws.keys(seed, replicas, stream)[:, None] for stream in streams]
        values, vectors = np.linalg.eigh(problem.noise)
        self._root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]

    def gradient(
        self,
        objective: int,
        theta: Array,
        step: int,
        runs: NDArray[np.int64] | slice = slice(None),
    ) -> Array:
        """(B, d) stochastic gradient at theta (B, d), for update ``step`` of these runs."""
        d = self.problem.dimension
        normal = draws.normal(self._keys[objective][runs], step * d + np.arange(d))
        offset = theta - self.problem.centres[objective]
        return np.asarray(
            offset @ self.problem.hessians[objective] + normal @ self._root[objective].T
        )

    def sample(
        self,
        objective: int,
        theta: Array,
        step: int,
        runs: NDArray[np.int64] | slice = slice(None),
    ) -> tuple[Array, Array]:
        """Exact losses (B,) and stochastic gradients (B, d) at theta (B, d)."""
        losses = np.asarray(self.problem.losses(theta)[:, objective])
        return losses, self.gradient(objective, theta, step, runs)

    def loss(self, objective: int, theta: Array, step: int, samples: int) -> Array:
        """(B,) exact loss; a quadratic has no data points to sample."""
        return np.asarray(self.problem.losses(theta)[:, objective])
