"""The base of merges: branches of one run, each with its share of the updates."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from tradeoff.methods.hooks import Array, Hook, Moment, State, copied
from tradeoff.schedules import OBJECTIVES
from tradeoff.settings import Share


@dataclass(frozen=True, kw_only=True)
class Merge(Hook):
    """Makes one policy of the ends of two branches.

    Each stage of the schedule trains a branch, of the objective that it follows. So one run has
    both branches, they share its budget as the schedule says, and a checkpoint has all of it.

    Attributes
    ----------
    lam
        Weight of the preference branch where a merge has weights, in [0, 1].
    branches
        "parallel": each branch starts from the first weights. "sequential": the second one starts
        where the first one ended.
    """

    kind: ClassVar[str] = "merge"
    staged: ClassVar[bool] = True
    lam: Share = 0.5
    branches: Literal["parallel", "sequential"] = "parallel"

    def start(self, weights: Array) -> State:
        return {name: copied(weights) for name in ("base", *OBJECTIVES)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        if moment.begins and moment.stage and self.branches == "parallel":
            weights = copied(state[self.branch(moment)])
        return weights, state

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        if moment.clock < moment.length:
            return weights, state
        return weights, {**state, self.branch(moment): copied(weights)}

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        ends = {**state, self.branch(moment): weights}
        return self.merged(ends["base"], ends["sft"], ends["preference"], moment)

    def branch(self, moment: Moment) -> str:
        """Which branch is trained; a method refuses stages that follow both objectives."""
        assert moment.objective is not None
        return OBJECTIVES[moment.objective]

    @abstractmethod
    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        """One tensor (..., d) of the merged policy.

        Parameters
        ----------
        base, sft, preference
            (..., d) the first weights, and those at the ends of both branches.
        moment
            Tells which tensor it is.
        """


def generator(seed: int, moment: Moment) -> np.random.Generator:
    """Draws of a tensor by its name, the same in all runs and at all updates."""
    return np.random.default_rng((seed, zlib.crc32(moment.name.encode())))


@dataclass(frozen=True, kw_only=True)
class NoMerge(Hook):
    """The weights as they are: the identity of the slot."""

    name: ClassVar[str] = "unmerged"
    title: ClassVar[str] = "no merge"
    kind: ClassVar[str] = "merge"
