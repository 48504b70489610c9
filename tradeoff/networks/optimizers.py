"""Optimisers over rows: each row of a matrix is a run with its own step size and restarts.

torch.optim has one step size and one count of updates per tensor. Runs of different schedules begin
their second stages at different updates, and each stage begins with a new optimiser state.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.errors import InputError

Optimizer = Literal["adamw", "sgd"]
CHUNK = 2**18
"""Numbers per pass, so few that they stay in the processor's cache between operations."""


@runtime_checkable
class RowOptimizer(Protocol):
    """Interface of an optimiser for training."""

    def restart(self, rows: NDArray[np.int64]) -> None:
        """Reset the accumulated state of these runs."""

    def step(
        self,
        theta: Float[Tensor, "runs size"],
        gradient: Float[Tensor, "runs size"],
        rate: Float[Tensor, " runs"],
    ) -> None:
        """Update every row of `theta` in place; a row with rate 0 does not change."""


class Sgd:
    """Plain gradient descent: ``theta - rate * gradient``."""

    def restart(self, rows: NDArray[np.int64]) -> None:
        """Do nothing, as there is no state."""

    def step(self, theta: Tensor, gradient: Tensor, rate: Tensor) -> None:
        theta.addcmul_(gradient, rate[:, None], value=-1)


class AdamW:
    """Adam with decoupled weight decay: `torch.optim.AdamW` for each row.

    Notes
    -----
    arXiv 1711.05101, Algorithm 2.
    """

    def __init__(
        self, theta: Tensor, betas: tuple[float, float], weight_decay: float, epsilon: float = 1e-8
    ) -> None:
        self.betas, self.weight_decay, self.epsilon = betas, weight_decay, epsilon
        self.first, self.second = torch.zeros_like(theta), torch.zeros_like(theta)
        self.count = torch.zeros(len(theta), dtype=theta.dtype, device=theta.device)

    def restart(self, rows: NDArray[np.int64]) -> None:
        index = torch.from_numpy(rows).to(self.count.device)
        for state in (self.first, self.second, self.count):
            state[index] = 0

    def step(self, theta: Tensor, gradient: Tensor, rate: Tensor) -> None:
        self.count += 1
        size = 1 - self.betas[0] ** self.count
        spread = (1 - self.betas[1] ** self.count).sqrt()
        rows = max(1, CHUNK // theta.shape[1]) if theta.device.type == "cpu" else len(theta)
        for start in range(0, len(theta), rows):
            part = slice(start, start + rows)
            g, m, v = gradient[part], self.first[part], self.second[part]
            m.lerp_(g, 1 - self.betas[0])
            v.mul_(self.betas[1]).addcmul_(g, g, value=1 - self.betas[1])
            if self.weight_decay:
                theta[part].mul_(1 - rate[part, None] * self.weight_decay)
            scale = v.sqrt().div_(spread[part, None]).add_(self.epsilon)
            theta[part].addcmul_(m / scale, (rate[part] / size[part])[:, None], value=-1)


def make(
    name: Optimizer, theta: Tensor, betas: tuple[float, float], weight_decay: float
) -> RowOptimizer:
    """Make the optimiser of this name for the rows of `theta`."""
    if name == "adamw":
        return AdamW(theta, betas, weight_decay)
    if name != "sgd":
        remedy = 'Use "adamw" or "sgd".'
        raise InputError("unknown optimiser", field="optimizer", value=name, remedy=remedy)
    if weight_decay:
        remedy = 'Use optimizer="adamw", or no weight decay.'
        raise InputError(
            "sgd has no weight decay", field="weight_decay", value=weight_decay, remedy=remedy
        )
    return Sgd()
