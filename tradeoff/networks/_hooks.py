"""Hooks of methods in an ensemble, applied to the runs of each method, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tradeoff import draws
from tradeoff.methods.chain import Chain
from tradeoff.networks.followed import ROOT, Choices

Rows = NDArray[np.int64]


class Hooks:
    """The hooks of all methods of an ensemble.

    Parameters
    ----------
    choices
        Methods and draws of the runs.
    shapes
        Shapes of the trained tensors of one run, by name.
    theta
        (R, D) initial weights.
    """

    def __init__(
        self, choices: Choices, shapes: Mapping[str, torch.Size], theta: Float[Tensor, "R D"]
    ) -> None:
        self.sizes = [prod(shape) for shape in shapes.values()]
        self._starts = np.cumsum([0, *self.sizes])
        self.chains: list[tuple[Chain, Rows]] = []
        for method, (plan, runs) in zip(choices.methods, choices.groups, strict=True):
            keys = draws.keys(ROOT, choices.seeds[runs], draws.COORDINATES)[:, None]
            chain = Chain(method, plan, tuple(shapes), partial(self._uniform, keys))
            if chain:
                chain.start(self.split(theta[runs]))
                self.chains.append((chain, runs))

    def split(self, theta: Float[Tensor, "n D"]) -> tuple[Tensor, ...]:
        """Flat tensors (n, d), one for each name."""
        return theta.split(self.sizes, dim=1)

    def begin(self, theta: Tensor, step: int) -> Iterator[tuple[Chain, Rows]]:
        """Change theta in place before update `step`."""
        for chain, runs in self.chains:
            theta[runs] = torch.cat(chain.begin(self.split(theta[runs]), step), dim=1)
            yield chain, runs

    def direct(self, gradient: Tensor, theta: Tensor, step: int) -> None:
        """Change the gradients of update `step` in place."""
        for chain, runs in self.chains:
            given = self.split(gradient[runs]), self.split(theta[runs])
            gradient[runs] = torch.cat(chain.direct(*given, step), dim=1)

    def finish(self, theta: Tensor, going: Tensor, step: int) -> None:
        """Change theta in place after update `step`, for runs that are still finite."""
        for chain, runs in self.chains:
            moved = torch.cat(chain.finish(self.split(theta[runs]), step), dim=1)
            theta[runs] = torch.where(going[runs][:, None], moved, theta[runs])

    def output(self, theta: Tensor, done: int) -> Tensor:
        """Weights that are evaluated and returned after `done` updates."""
        if not self.chains:
            return theta
        shown = theta.clone()
        for chain, runs in self.chains:
            shown[runs] = torch.cat(chain.output(self.split(theta[runs]), done), dim=1)
        return shown

    def _uniform(self, keys: NDArray[np.uint64], step: int, block: int, weights: Tensor) -> Tensor:
        places = step * self._starts[-1] + self._starts[block] + np.arange(weights.shape[-1])
        return torch.from_numpy(draws.uniform(keys, places)).to(weights)
