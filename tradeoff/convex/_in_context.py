"""Sample gradients of demonstrations whose prompts have other demonstrations before them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex._trained_losses import TrainedLossSampler
from tradeoff.convex.log_linear import LogLinear
from tradeoff.methods.losses import Nll
from tradeoff.schedules import SFT

Array = NDArray[np.float64]


class InContextSampler(TrainedLossSampler):
    """A :class:`TrainedLossSampler`, with logits added where demonstrations are trained.

    Parameters
    ----------
    problem
        The problem, with dense features.
    added
        (N,) what is added to the logit of each response, for the policy and its reference.
    seed, replicas, **settings
        As for :class:`TrainedLossSampler`.

    Raises
    ------
    InputError
        As for :class:`TrainedLossSampler`.
    """

    def __init__(
        self,
        problem: LogLinear,
        added: Float[np.ndarray, " N"],
        seed: int,
        replicas: NDArray[np.int64],
        **settings: Any,
    ) -> None:
        super().__init__(problem, seed, replicas, **settings)
        # One more feature, whose parameter is one.
        known = np.zeros(problem.dimension) if problem.reference is None else problem.reference
        outside = problem.reference_margins is not None
        self.shown = replace(
            problem,
            features=np.concatenate([problem.features, added[:, None]], axis=1),
            reference=None if outside else _wider(known),
        )
        self._shown = TrainedLossSampler(self.shown, seed, replicas, **settings)

    def evaluate(
        self, objective: int, theta: Array, index: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """(B,) losses and (B, d) gradients at theta (B, d) of the data points ``index`` (B,)."""
        if objective != SFT:
            return super().evaluate(objective, theta, index)
        losses, gradient = self._shown.evaluate(SFT, _wider(theta), index)
        return losses, gradient[:, :-1]

    def mean_gradient(self, objective: int, theta: Array) -> Array:
        """(B, d) gradient of the mean loss over all data points."""
        if objective == SFT and isinstance(self.sft, Nll):
            return self.shown.gradients(_wider(theta))[:, SFT, :-1]
        return super().mean_gradient(objective, theta)


def _wider(theta: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... e"]:
    """Parameters (..., d + 1) with a last one that is one."""
    return np.concatenate([theta, np.ones_like(theta[..., :1])], axis=-1)
