"""Hooks of a method around each update of the trainer: averages, anchors, masks and merges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.methods.chain import Chain
from tradeoff.schedules import Plan


class MethodHooks:
    """The hooks of a method on the trained weights of a policy.

    During evaluation, and when it is saved as a model, a policy has the weights that the hooks
    give. In training and in checkpoints it has the trained weights.

    Parameters
    ----------
    method, plan
        The method, and the plan of its schedule.
    policy
        The policy before training; it is the same on every process.
    seed
        Seed of the draws.

    Raises
    ------
    InputError
        If there is a hook and the weights are sharded over processes.
    """

    def __init__(self, method: Method, plan: Plan, policy: nn.Module, seed: int) -> None:
        named = [(n, p) for n, p in policy.named_parameters() if p.requires_grad]
        self.weights = [weight for _, weight in named]
        self._seed = seed
        names = tuple(name.removeprefix("module.").removeprefix("model.") for name, _ in named)
        self.chain = Chain(method, plan, names, self._uniform)
        self.settled = False
        self._aside: list[Tensor] | None = None
        if not self.chain:
            return
        if any(isinstance(module, FSDPModule) for module in policy.modules()):
            raise InputError(
                "averages, anchors, masks and merges need whole weights",
                field="method",
                value=method.label,
                remedy="Launch with DDP, or use a method without these parts.",
            )
        self.chain.start(self._flat())

    def begin(self, step: int, gradients: Callable[[int, int], Iterator[None]]) -> None:
        """Change the weights before update `step`.

        Parameters
        ----------
        step
            Number of the update, from 0.
        gradients
            Called with an objective and a number of rows; it puts the gradient of one row after the
            other into the weights.
        """
        if not self.chain:
            return
        self._write(self.chain.begin(self._flat(), step))
        for slot, objective, rows in list(self.chain.passes(step)):
            for _ in gradients(objective, rows):
                self.chain.observe(slot, self._gradients(), step)
            self.chain.conclude(slot, step)

    def direct(self, step: int) -> None:
        """Change the gradients of update `step`."""
        if not self.chain:
            return
        found = self.chain.direct(self._gradients(), self._flat(), step)
        for weight, gradient in zip(self.weights, found, strict=True):
            weight.grad = gradient.view_as(weight).to(weight.dtype)

    def finish(self, step: int) -> None:
        """Change the weights after update `step`."""
        if self.chain:
            self._write(self.chain.finish(self._flat(), step))

    @contextmanager
    def shown(self, done: int) -> Iterator[None]:
        """Context manager in which the policy has the weights to evaluate after `done` updates."""
        if not self.chain or self.settled or self._aside is not None:
            yield
            return
        self._aside = [weight.detach().clone() for weight in self.weights]
        self._write(self.chain.output(self._flat(), done))
        try:
            yield
        finally:
            self._write(self._aside)
            self._aside = None

    def settle(self, done: int) -> None:
        """Give the policy the evaluated weights permanently, at the end of a run."""
        if self.chain and not self.settled:
            self._write(self.chain.output(self._flat(), done))
            self.settled = True

    def check_trained(self) -> None:
        """Raise an `InputError` if the policy does not have the trained weights."""
        if self.settled or self._aside is not None:
            raise InputError(
                "the policy has the evaluated weights, from which a run cannot be resumed",
                field="method",
                remedy="Save before the last update ends or outside of an evaluation.",
            )

    def tables(self) -> dict[str, Tensor]:
        """State of all hooks, for a checkpoint."""
        return {
            f"{slot}/{key}/{name}": value
            for name, states in zip(self.chain.blocks, self.chain.states, strict=False)
            for slot, state in states.items()
            for key, value in state.items()
        }

    def set_tables(self, found: dict[str, Tensor], file: Path) -> None:
        """Restore :meth:`tables`.

        Raises
        ------
        InputError
            If this is not a state of these hooks; the message names `file`.
        """
        expected = {name: value.shape for name, value in self.tables().items()}
        if expected != {name: value.shape for name, value in found.items()}:
            raise InputError(
                "the checkpoint does not hold the state of the method's parts",
                file=file,
                field="hooks",
                value=sorted(expected.keys() ^ found.keys())[:1],
                remedy="Remove this checkpoint; the run then goes on from the one before.",
            )
        pairs = zip(self.chain.blocks, self.chain.states, self.weights, strict=False)
        for name, states, weight in pairs:
            for slot, state in states.items():
                for key in state:
                    state[key] = found[f"{slot}/{key}/{name}"].to(weight.device)

    def _flat(self) -> list[Tensor]:
        """Flat weights, in float32 at least."""
        return [_wide(weight.detach().reshape(-1)) for weight in self.weights]

    def _gradients(self) -> list[Tensor]:
        return [
            torch.zeros_like(_wide(w.detach().reshape(-1)))
            if w.grad is None
            else _wide(w.grad.reshape(-1))
            for w in self.weights
        ]

    @torch.no_grad()
    def _write(self, found: Sequence[Tensor]) -> None:
        for weight, value in zip(self.weights, found, strict=True):
            weight.copy_(value.view_as(weight))

    def _uniform(self, step: int, block: int, weights: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self._seed, step, block)) % 2**63)
        draws = torch.rand(weights.shape, generator=generator, dtype=torch.float64)
        return draws.to(weights)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype.itemsize < 4 else values
