"""What hooks may ask of the policies of an ensemble: pulls towards other ones, and features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.methods.chain import Chain
from tradeoff.methods.hooks import Moment
from tradeoff.methods.losses.divergences import divergence
from tradeoff.networks.tasks import Params, over_runs
from tradeoff.networks.trained_losses import FeatureTask, ViewTask
from tradeoff.schedules import OBJECTIVES, SFT

EARLIER = "earlier/"
"""Stands before the names of the parameters that a policy is compared with."""


class NetworkView:
    """The policies of some runs in one update.

    Parameters
    ----------
    loop
        The ensemble in training, a :class:`tradeoff.networks.loop.Loop`.
    chain, runs
        Hooks of these runs. The anchor's state of each tensor holds the earlier weights.
    step
        Number of the update.
    """

    def __init__(self, loop: Any, chain: Chain, runs: NDArray[np.int64], step: int) -> None:
        self.loop, self.chain, self.runs, self.step = loop, chain, runs, step
        self._pull: tuple[Tensor, ...] | None = None

    @property
    def head(self) -> str | None:
        """Name of the last layer's weights."""
        task = self.loop.task
        return task.head_name if isinstance(task, FeatureTask) else task.last_layer_name

    def pull_of(self, about: Any, weights: Tensor, anchor: Tensor, moment: Moment) -> Tensor:
        """(n, d) gradient, in one tensor, of the divergence that an anchor asks for.

        Parameters
        ----------
        about
            The anchor. If it has a `noise`, the policy sees prompts times factors.
        weights, anchor
            (n, d) the tensor, and what it is compared with.
        moment
            Which tensor it is.
        """
        if self._pull is None:
            self._pull = self.loop.hooks.split(self._pulled(about))
        return self._pull[moment.block]

    def features_of(self, moment: Moment) -> dict[str, Tensor]:
        """Features of the demonstrations of this update: "own" and "earlier" (n, B, w).

        And "labels" (n, B, K), ones at the demonstrated responses.
        """
        task = self.loop.task
        index = self._on(self.loop.choices.batch(SFT, self.step, self.runs))

        def one(params: Params, index: Tensor) -> Tensor:
            found: Tensor = task.features(params, index)
            return found

        found: dict[str, list[Tensor]] = {"own": [], "earlier": []}
        with torch.no_grad():
            for params, rows in self._chunks(index):
                for name, part in (("own", _own(params)), ("earlier", _earlier(params))):
                    found[name].append(over_runs(one, task.batched)(part, rows))
        own, earlier = (torch.cat(parts) for parts in found.values())
        count = self.loop.shapes[self.head][0]
        labels = torch.nn.functional.one_hot(task.responses(index), count).to(own)
        return {"own": own, "earlier": earlier, "labels": labels}

    def _pulled(self, about: Any) -> Float[Tensor, "n D"]:
        task, objective = self.loop.task, OBJECTIVES.index(about.of)
        choices, size = self.loop.choices, self.loop.theta.shape[1]
        index = self._on(choices.beside(objective, self.step, size, self.runs))
        if about.exact:
            every = torch.arange(task.sizes[objective], device=index.device)
            index = every.expand(len(self.runs), -1)
        noise, more = getattr(about, "noise", 0.0), []
        if noise:
            shape = index.shape[1], task.prompt_size
            factors = choices.factors(noise, self.step, shape, self.runs)
            more = [torch.from_numpy(factors).to(self.loop.theta)]

        def seen(params: Params, index: Tensor, *factors: Tensor) -> Any:
            if isinstance(task, ViewTask):
                return task.viewed(params, objective, index, *factors)
            return task.every_log_prob(params, objective, index), None

        def one(params: Params, index: Tensor, *factors: Tensor) -> Tensor:
            own, counted = seen(_own(params), index, *factors)
            earlier, _ = seen(_earlier(params), index)
            if about.temperature != 1:
                own, earlier = (
                    (found / about.temperature).log_softmax(-1) for found in (own, earlier)
                )
            apart = divergence(own, earlier, about.direction)
            mean = apart.mean() if counted is None else (apart * counted).sum() / counted.sum()
            return about.temperature**2 * mean

        found, first = [], 0
        for params, rows in self._chunks(index):
            part = slice(first, first + len(rows))
            theta = self.loop.theta[self.runs[part]].requires_grad_()
            both = {**params, **self.loop.params(theta, self._on(self.runs[part]))}
            value = over_runs(one, task.batched)(both, rows, *(x[part] for x in more)).sum()
            found += torch.autograd.grad(value, theta)
            first += len(rows)
        return torch.cat(found)

    def _chunks(self, index: Tensor) -> Any:
        """Yield parameters of some runs, own and earlier ones, and their rows."""
        states = [state["anchor"]["anchor"] for state in self.chain.states]
        earlier = torch.cat(states, dim=1)
        for first in range(0, len(self.runs), self.loop.at_once):
            part = slice(first, first + self.loop.at_once)
            runs = self._on(self.runs[part])
            known = self.loop.params(earlier[part], runs)
            own = self.loop.params(self.loop.theta[runs], runs)
            yield own | {EARLIER + name: value for name, value in known.items()}, index[part]

    def _on(self, values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self.loop.theta.device)


def _own(params: Mapping[str, Tensor]) -> Params:
    return {name: value for name, value in params.items() if not name.startswith(EARLIER)}


def _earlier(params: Mapping[str, Tensor]) -> Params:
    start = len(EARLIER)
    return {name[start:]: p for name, p in params.items() if name.startswith(EARLIER)}
