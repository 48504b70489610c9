"""The hooks of a method in one run: in which order they act, and all that they remember."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import floor
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.methods.hooks import Array, Moment, State, depths, moment_of
from tradeoff.methods.method import Method
from tradeoff.schedules import PREFERENCE, SFT, Plan

ORDER = ("anchor", "parameters", "after", "merge")
"""Slots of hooks in the order in which they act: a mask also covers the gradient of an anchor."""
Uniform = Callable[[int, int, Array], Array]
"""Draws from [0, 1) of the shape of some weights, for an update and the place of their tensor."""


class Chain:
    """All hooks of a method, over all tensors of a model.

    Parameters
    ----------
    method, plan
        Whose hooks these are, and what its schedule does.
    blocks
        Names of the tensors that are trained.
    uniform
        Makes the draws that hooks ask for.
    policy
        What hooks may ask of the policy; None: nothing.
    """

    def __init__(
        self,
        method: Method,
        plan: Plan,
        blocks: Sequence[str],
        uniform: Uniform,
        policy: Any = None,
    ) -> None:
        changed: dict[str, Any] = method.changed()
        self.hooks = {slot: changed[slot] for slot in ORDER if slot in changed}
        self.plan, self.blocks, self.uniform = plan, tuple(blocks), uniform
        self.policy = policy
        self.states: list[dict[str, State]] = []
        self._depths = depths(self.blocks)
        self._latest: Moment | None = None
        self._moments: dict[int, Moment] = {}
        self._shown: Array | None = None

    def __bool__(self) -> bool:
        return bool(self.hooks)

    def start(self, weights: Sequence[Array]) -> None:
        """Begin with these weights (..., d), tensor by tensor."""
        self.states = [
            {slot: _memory(slot, hook, hook.start(block)) for slot, hook in self.hooks.items()}
            for block in weights
        ]

    def see(self, policy: Any) -> None:
        """Tell hooks of the policy from now on, as `policy` of their moments."""
        self.policy, self._moments = policy, {}

    def begin(self, weights: Sequence[Array], step: int) -> list[Array]:
        """Weights from which update `step` starts."""
        return [self._one("begin", block, k, step) for k, block in enumerate(weights)]

    def passes(self, step: int) -> Iterator[tuple[str, int, int]]:
        """Slots that ask for gradients of rows before update `step`: objective and how many."""
        for slot, hook in self.hooks.items():
            found = hook.rows(self._moment(step, 0, None))
            if not (isinstance(found, tuple) and len(found) == 2 and self._asks(*found)):
                raise InputError(
                    f"rows() of {hook.name} must return an objective, 0 or 1, and a number of rows",
                    field=slot,
                    value=found,
                    remedy="Return 0, 0 where no row is asked for.",
                )
            objective, rows = found
            if rows:
                yield slot, objective, rows

    @staticmethod
    def _asks(objective: Any, rows: Any) -> bool:
        return objective in (SFT, PREFERENCE) and rows >= 0

    def costs(self, step: int) -> tuple[int, int]:
        """(SFT, preference) gradients that hooks cost in update `step` beside single rows.

        They are whole numbers, whose sums over a stage are what it costs, rounded down.
        """
        moment = self._moment(step, 0, None)
        found = [hook.costs(moment) for hook in self.hooks.values()]
        sft, preference = (
            _whole(sum(cost), moment.clock) for cost in zip((0, 0), *found, strict=True)
        )
        return sft, preference

    def observe(self, slot: str, gradients: Sequence[Array], step: int) -> None:
        """Show a hook the gradient of one row, tensor by tensor."""
        for k, gradient in enumerate(gradients):
            moment, state = self._moment(step, k, gradient), self.states[k]
            state[slot] = self.hooks[slot].observe(gradient, state[slot], moment)

    def conclude(self, slot: str, step: int) -> None:
        """Tell a hook that it has seen all rows."""
        for k, state in enumerate(self.states):
            state[slot] = self.hooks[slot].conclude(state[slot], self._moment(step, k, None))

    def direct(
        self, gradients: Sequence[Array], weights: Sequence[Array], step: int
    ) -> list[Array]:
        """Gradients that the optimiser takes in update `step`."""
        found = []
        for k, (gradient, block) in enumerate(zip(gradients, weights, strict=True)):
            moment, state = self._moment(step, k, block), self.states[k]
            for slot, hook in self.hooks.items():
                changed = hook.direct(gradient, block, state[slot], moment)
                gradient, state[slot] = _alike(slot, hook, "direct", changed, gradient)
            found.append(gradient)
        self._shown = None
        return found

    def finish(self, weights: Sequence[Array], step: int) -> list[Array]:
        """Weights after update `step`."""
        found = [self._one("finish", block, k, step) for k, block in enumerate(weights)]
        self._shown = None
        return found

    def output(self, weights: Sequence[Array], done: int) -> list[Array]:
        """Weights that are evaluated and saved after so many updates."""
        found = []
        for k, block in enumerate(weights):
            moment = self._moment(max(done - 1, 0), k, block)
            for slot, hook in self.hooks.items():
                shown = hook.output(block, self.states[k][slot], moment)
                block, _ = _alike(slot, hook, "output", (shown, None), block)
            found.append(block)
        return found

    def _one(self, name: str, weights: Array, block: int, step: int) -> Array:
        moment, state = self._moment(step, block, weights), self.states[block]
        for slot, hook in self.hooks.items():
            found = getattr(hook, name)(weights, state[slot], moment)
            weights, state[slot] = _alike(slot, hook, name, found, weights)
        return weights

    def _moment(self, step: int, block: int, weights: Array) -> Moment:
        if self._latest is None or self._latest.step != step:
            self._latest = moment_of(self.plan, step, self.blocks)
            self._moments = {}
        self._shown = weights  # hooks draw while they are called, so for these
        if block not in self._moments:
            self._moments[block] = replace(
                self._latest,
                block=block,
                uniform=lambda: self.uniform(step, block, self._shown),
                depth=self._depths[block],
                policy=self.policy,
            )
        return self._moments[block]


def _alike(slot: str, hook: Any, name: str, found: Any, given: Array) -> tuple[Array, Any]:
    """What a hook returned: an array of the shape that it was given, and its state.

    Another shape might broadcast, and train something else unseen.
    """
    pair = isinstance(found, tuple) and len(found) == 2
    returned = found[0] if pair else found
    shape = getattr(returned, "shape", None) if pair else None
    same_kind = isinstance(returned, np.ndarray) == isinstance(given, np.ndarray)
    if shape == given.shape and same_kind:
        return returned, found[1] if name == "output" else _memory(slot, hook, found[1])
    raise InputError(
        f"{name}() of {hook.name} must return an array of the shape {tuple(given.shape)}"
        + ("" if name == "output" else ", and its state"),
        field=slot,
        value=type(returned).__name__ if shape is None or not same_kind else tuple(shape),
        remedy="Keep the axes, and return new arrays of the kind that it was given.",
    )


def _memory(slot: str, hook: Any, state: Any) -> State:
    """What a hook remembers: a dict of arrays, or a checkpoint could not hold it."""
    if isinstance(state, dict) and all(hasattr(value, "shape") for value in state.values()):
        return state
    raise InputError(
        f"what {hook.name} remembers must be a dict of arrays",
        field=slot,
        value=state,
        remedy="Make a number an array of the kind of the weights.",
    )


def _whole(each: float, clock: int) -> int:
    """Whole gradients that update `clock` of a stage, from 1, completes, if it costs `each`."""
    done, before = (floor(each * count + 1e-9) for count in (clock, clock - 1))
    return done - before
