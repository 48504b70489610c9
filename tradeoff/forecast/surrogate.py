"""A convex pair of losses on features of a model, for the certified solver.

Three parts are enough: the softmax of tokens with the base model's probabilities as offsets, its
Gauss-Newton model, and DPO's logistic loss of linearised margins. In each the base is theta = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff import objectives
from tradeoff.convex.problem import LocalModel

Array = NDArray[np.float64]


@runtime_checkable
class ConvexLoss(Protocol):
    """One convex loss."""

    def value(self, theta: Array) -> float: ...

    def gradient(self, theta: Array) -> Array: ...

    def hessian(self, theta: Array) -> Array: ...


@dataclass(frozen=True, eq=False)
class TokenSoftmax:
    """Mean negative log-likelihood of tokens whose logits move by theta . features.

    Attributes
    ----------
    features
        (T, K, d) of the K likeliest tokens, the target first; all other tokens have zeros.
    log_p, log_rest
        (T, K) base log-probabilities, and (T,) that of all other tokens together.
    weights
        (T,) weights of the tokens, summing to one.
    """

    features: Float[np.ndarray, "T K d"]
    log_p: Float[np.ndarray, "T K"]
    log_rest: Float[np.ndarray, " T"]
    weights: Float[np.ndarray, " T"]

    def value(self, theta: Array) -> float:
        """Loss in nats per token."""
        logits = self.log_p + self.features @ theta
        total = np.logaddexp(np.logaddexp.reduce(logits, axis=1), self.log_rest)
        return float(self.weights @ (total - logits[:, 0]))

    def gradient(self, theta: Array) -> Array:
        """(d,) gradient."""
        p = self._shares(theta)
        p[:, 0] -= 1
        return np.asarray(np.einsum("t,tk,tkd->d", self.weights, p, self.features, optimize=True))

    def hessian(self, theta: Array) -> Array:
        """(d, d) Hessian: the mean covariance of the features."""
        p = self._shares(theta)
        mean = np.einsum("tk,tkd->td", p, self.features)
        flat = self.features.reshape(-1, self.features.shape[-1])
        second = flat.T @ (flat * (self.weights[:, None] * p).reshape(-1, 1))
        return np.asarray(second - mean.T @ (mean * self.weights[:, None]))

    def _shares(self, theta: Array) -> Array:
        logits = self.log_p + self.features @ theta
        total = np.logaddexp(np.logaddexp.reduce(logits, axis=1), self.log_rest)
        return np.asarray(np.exp(logits - total[:, None]))


@dataclass(frozen=True, eq=False)
class GaussNewton:
    """Quadratic model of the SFT loss: base value, gradient, and a Hessian that is a Fisher matrix.

    Attributes
    ----------
    base
        Loss of the base model in nats per token.
    slope
        (d,) gradient at the base.
    curvature
        (d, d) Gauss-Newton matrix, positive semi-definite.
    """

    base: float
    slope: Float[np.ndarray, " d"]
    curvature: Float[np.ndarray, "d d"]

    def value(self, theta: Array) -> float:
        """Loss in nats per token."""
        return float(self.base + self.slope @ theta + 0.5 * theta @ self.curvature @ theta)

    def gradient(self, theta: Array) -> Array:
        """(d,) gradient."""
        return np.asarray(self.slope + self.curvature @ theta)

    def hessian(self, theta: Array) -> Array:
        """(d, d) Hessian."""
        del theta
        return self.curvature


@dataclass(frozen=True, eq=False)
class LinearMargins:
    """DPO loss of margins that are linear in theta, with the base model as reference.

    Attributes
    ----------
    differences
        (J, d) gradient of log pi(chosen) - log pi(rejected) of each pair.
    beta
        Inverse temperature.
    """

    differences: Float[np.ndarray, "J d"]
    beta: float

    def value(self, theta: Array) -> float:
        """Mean loss in nats."""
        return float(np.mean(objectives.dpo(self.differences @ theta, self.beta)))

    def gradient(self, theta: Array) -> Array:
        """(d,) gradient."""
        slope = objectives.dpo_slope(self.differences @ theta, self.beta)
        return np.asarray(slope @ self.differences / len(self.differences))

    def hessian(self, theta: Array) -> Array:
        """(d, d) Hessian."""
        bend = objectives.dpo_curvature(self.differences @ theta, self.beta)
        return np.asarray(self.differences.T @ (self.differences * bend[:, None]) / len(bend))


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A :class:`~tradeoff.convex.problem.Problem`: two parts on a ball around `centre`.

    Attributes
    ----------
    sft, preference
        The losses.
    radius
        R of the ball |theta - centre| <= R; the solver's parameters are theta - centre.
    centre
        (d,) where a stage begins; the base model is 0.
    """

    sft: ConvexLoss
    preference: ConvexLoss
    radius: float
    centre: Float[np.ndarray, " d"]

    @property
    def dimension(self) -> int:
        """Number of parameters d."""
        return len(self.centre)

    def at(self, centre: Array, radius: float) -> Surrogate:
        """The same losses on another ball."""
        return replace(self, centre=centre, radius=radius)

    def losses(self, theta: ArrayLike) -> Array:
        """(2,) losses (SFT, preference) at theta (d,)."""
        place = self.centre + np.asarray(theta, dtype=float)
        return np.array([self.sft.value(place), self.preference.value(place)])

    def local_model(self, theta: Array, weights: Array) -> LocalModel:
        """Second-order model of ``weights @ losses`` at theta, for the solver."""
        place = self.centre + theta
        gradient = weights[0] * self.sft.gradient(place)
        gradient = gradient + weights[1] * self.preference.gradient(place)
        hessian = partial(self._hessian, place, weights)
        return LocalModel(self.losses(theta), gradient, hessian, lambda v: hessian() @ v)

    def strong_convexity(self, weights: Array) -> float:
        """Zero: the losses are constant along what no feature sees."""
        return 0.0

    def _hessian(self, place: Array, weights: Array) -> Array:
        found = weights[0] * self.sft.hessian(place)
        return np.asarray(found + weights[1] * self.preference.hessian(place))
