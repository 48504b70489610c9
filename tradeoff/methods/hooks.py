"""What a part may do around an update, written once for all scales.

An engine gives each tensor of weights as a flat array: numpy or torch, with the runs as leading
axes. A part returns new arrays. What it remembers is explicit, so that a checkpoint can hold it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from tradeoff.parts import Part
from tradeoff.schedules import Plan

Array = Any
"""A numpy array or a torch tensor."""
State = dict[str, Array]
"""What a part remembers of one tensor; every array has the runs as leading axes."""


@dataclass(frozen=True)
class Moment:
    """Which update it is, and of which tensor.

    Attributes
    ----------
    step
        Number of the update, from 0.
    clock, length
        Number of the update within its stage, from 1; updates of the stage.
    stage, stages
        Number of the stage, from 0; stages of the run.
    objective
        0 or 1 if the update follows this objective for certain; None if it may be either or both.
    block
        Place of the tensor in `blocks`.
    blocks
        Names of all tensors that are trained.
    uniform
        Returns draws from [0, 1), one for each weight; the same at each call.
    depth
        Place of the tensor among the layers: 0 is the first layer or none, 1 the last.
    policy
        What the engine tells of the policy, see :class:`tradeoff.convex.views.PolicyView`; None
        where it tells nothing.
    """

    step: int
    clock: int
    length: int
    stage: int
    stages: int
    objective: int | None
    block: int
    blocks: tuple[str, ...]
    uniform: Callable[[], Array]
    depth: float = 0.0
    policy: Any = None

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.blocks[self.block]

    @property
    def begins(self) -> bool:
        """Whether the update is the first of its stage."""
        return self.clock == 1

    @property
    def in_last(self) -> bool:
        """Whether the update is of the last stage."""
        return self.stage == self.stages - 1


@dataclass(frozen=True, kw_only=True)
class Hook(Part):
    """A part that acts on gradients or weights. Each method of this base changes nothing.

    Attributes
    ----------
    staged
        Whether it has an effect only if the schedule has stages, a class attribute.
    """

    staged: ClassVar[bool] = False

    def start(self, weights: Array) -> State:
        """What is remembered before the first update, whose weights (..., d) these are."""
        return {}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        """Weights (..., d) from which an update starts, and what is remembered."""
        return weights, state

    def rows(self, moment: Moment) -> tuple[int, int]:
        """Objective and number of the rows whose gradients it asks for before this update."""
        return 0, 0

    def costs(self, moment: Moment) -> tuple[float, float]:
        """(SFT, preference) gradients that an update of this stage costs beside those it follows.

        They are the same in all updates of a stage. A forward pass alone is a third of a gradient.
        """
        return 0.0, 0.0

    def observe(self, gradient: Array, state: State, moment: Moment) -> State:
        """What is remembered after the gradient (..., d) of the loss of one of these rows."""
        return state

    def conclude(self, state: State, moment: Moment) -> State:
        """What is remembered after all of these rows."""
        return state

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        """The gradient (..., d) that the optimiser takes instead, at weights (..., d)."""
        return gradient, state

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        """Weights (..., d) after an update, and what is remembered."""
        return weights, state

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        """Weights (..., d) that are evaluated and saved where training is at `weights`.

        The moment is that of the last update done, or of the first one before any.
        """
        return weights


def moment_of(plan: Plan, step: int, blocks: tuple[str, ...] = ("",)) -> Moment:
    """The moment of update `step` of a plan, at the first tensor and without draws."""
    chance = float(plan.probability[step])
    alone = not plan.together[step] and not plan.watched and chance in (0.0, 1.0)
    return Moment(
        step=step,
        clock=int(plan.clock[step]),
        length=int(plan.lengths[step]),
        stage=int(plan.stage[step]),
        stages=plan.stages,
        objective=int(chance) if alone else None,
        block=0,
        blocks=blocks,
        uniform=lambda: np.zeros(0),
    )


def copied(weights: Array) -> Array:
    """A copy, which later updates in place do not change."""
    return array_namespace(weights).asarray(weights, copy=True)


def largest(sizes: Array, share: float) -> Array:
    """Which entries (..., d) are among the largest ones of the last axis.

    Parameters
    ----------
    sizes
        (..., d), not negative.
    share
        Share of the entries that are kept: ``round(share * d)``, at least one. Equal sizes at the
        limit are all kept.
    """
    xp = array_namespace(sizes)
    count = sizes.shape[-1]
    kept = max(1, min(count, round(share * count)))
    limit = xp.sort(sizes, axis=-1)[..., count - kept : count - kept + 1]
    return sizes >= limit


def depths(blocks: Sequence[str]) -> list[float]:
    """Place of each tensor among the layers, by the first number in its name.

    The first layer is 0 and the last is 1; a tensor without a number in its name is 0.
    """
    found = [re.search(r"(?:^|\.)(\d+)\.", name) for name in blocks]
    numbers = sorted({int(number[1]) for number in found if number})
    last = max(1, len(numbers) - 1)
    return [numbers.index(int(number[1])) / last if number else 0.0 for number in found]
