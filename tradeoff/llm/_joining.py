"""The gradient rule of a method in the trainer, with its state.

The rule uses three inner products. It needs one more copy of the gradients than a weighted sum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tradeoff import draws
from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.methods.gradients import Seen, State, Update
from tradeoff.methods.gradients.base import factors_of
from tradeoff.methods.gradients.coordinates import direction_of
from tradeoff.schedules import Plan


class GradientJoin:
    """Joins the gradients of both objectives as a method asks.

    Parameters
    ----------
    method, plan
        The rule, and the updates in which it joins gradients.
    policy
        The policy, whose gradients are the same on every process.
    seed
        Seed of rules that draw at random.

    Raises
    ------
    InputError
        If there is a rule and the weights are sharded over processes.
    """

    def __init__(self, method: Method, plan: Plan, policy: nn.Module, seed: int = 0) -> None:
        self.seed = seed
        self.rule = method.changed().get("gradient")
        self.plan, self.policy = plan, policy
        self.memory: State = method.gradient.start(()) if self.rule else {}
        self._first: list[Tensor | None] = []
        sharded = any(isinstance(module, FSDPModule) for module in policy.modules())
        if self.rule and sharded:
            raise InputError(
                "a gradient rule needs whole gradients",
                field="gradient",
                value=self.rule.name,
                remedy="Launch with DDP, or use a method without a gradient rule.",
            )

    @property
    def above_optima(self) -> bool:
        """Whether the rule counts losses from their optima."""
        rule: Any = self.rule
        return rule is not None and bool(rule.above_optima)

    def wanted(self, step: int) -> bool:
        """Whether the rule is used in this update."""
        return self.rule is not None and bool(self.plan.together[step])

    def keep(self) -> None:
        """Store the gradients as those of SFT, and clear them."""
        self._first = [p.grad for p in self.policy.parameters()]
        for parameter in self.policy.parameters():
            parameter.grad = None

    def _by_coordinates(
        self, weights: Float[np.ndarray, " 2"], losses: Float[np.ndarray, " 2"], step: int
    ) -> None:
        """Join the gradients of each tensor by a rule that works coordinate by coordinate."""
        rule: Any = self.rule
        told: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for place, parameter in enumerate(self.policy.parameters()):
            pair = (self._first[place], parameter.grad)
            known = next((g for g in pair if g is not None), None)
            if known is None:
                continue
            first, second = (
                torch.zeros_like(known) if g is None else float(w) * g
                for w, g in zip(weights, pair, strict=True)
            )
            key = draws.keys(self.seed, place, draws.JOIN)
            coin = torch.Generator().manual_seed(int(draws.uniform(key, step) * 2**53))
            uniform = torch.rand(known.shape, generator=coin, dtype=torch.float32)
            kind = known.device, torch.promote_types(known.dtype, torch.float32)
            if kind not in told:
                told[kind] = [torch.as_tensor(each).to(*kind) for each in (weights, losses)]
            about = Update(uniform.to(known.device), *told[kind])
            parameter.grad = direction_of(rule, first, second, about, {})[0].to(known.dtype)
        self._first = []

    def join(
        self, weights: Float[np.ndarray, " 2"], losses: Float[np.ndarray, " 2"], step: int = 0
    ) -> None:
        """Replace the gradients of the preference objective by the direction of the rule.

        Parameters
        ----------
        weights
            Weights of both objectives by the schedule.
        losses
            Mean training losses of the update, less their optima if the rule counts from them.
        step
            Number of the update, from 0, which determines the draws of a rule.
        """
        rule: Any = self.rule
        if rule.coordinatewise:
            return self._by_coordinates(weights, losses, step)
        pairs = list(zip(self._first, self.policy.parameters(), strict=True))
        gram = np.zeros((2, 2))
        for first, parameter in pairs:
            both = (first, parameter.grad)
            for i, j in ((0, 0), (1, 1), (0, 1)):
                if (a := both[i]) is not None and (b := both[j]) is not None:
                    gram[i, j] += float(torch.sum(a.double() * b.double()))
        gram[1, 0] = gram[0, 1]
        coins = draws.uniform(draws.keys(self.seed, 0, draws.JOIN), 2 * step + np.arange(2))
        seen = Seen(gram, np.asarray(weights, dtype=float), losses, coins)
        factors, self.memory = factors_of(rule, seen, self.memory)
        for first, parameter in pairs:
            second = None if parameter.grad is None else parameter.grad.mul_(float(factors[1]))
            if first is None:
                continue
            first.mul_(float(factors[0]))
            parameter.grad = first if second is None else second.add_(first)
        self._first = []

    def state(self) -> dict[str, Any]:
        """State for a checkpoint; NaN, which JSON does not have, becomes None."""
        return {
            name: [None if np.isnan(x) else float(x) for x in np.ravel(value)]
            for name, value in self.memory.items()
        }

    def set_state(self, found: dict[str, Any], file: Path) -> None:
        """Restore :meth:`state`.

        Raises
        ------
        InputError
            If this is not a state of the rule; the message names `file`.
        """
        sizes = {name: np.size(value) for name, value in self.memory.items()}
        if {name: len(values) for name, values in found.items()} != sizes:
            raise InputError(
                "the checkpoint does not hold the state of the gradient rule",
                file=file,
                field="joining",
                value=sorted(found),
                remedy="Remove this checkpoint; the run then goes on from the one before.",
            )
        for name, values in found.items():
            given = np.array([np.nan if x is None else x for x in values])
            self.memory[name] = given.reshape(np.shape(self.memory[name]))
