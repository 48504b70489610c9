"""Sparse masks: the weights that matter most to a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, State, copied, largest
from tradeoff.methods.parameters.base import Mask
from tradeoff.settings import BelowOne, Count, Share


@dataclass(frozen=True, kw_only=True)
class LotteryTicket(Mask):
    """Trains all weights first, then those alone that had moved most, from the start of the stage.

    In the first part of a stage all weights move. Then they are set back to what they were as the
    stage began, and the ones that had moved most are trained for the rest of it.

    Attributes
    ----------
    share
        Share of the weights of each tensor that is trained, in [0, 1]; at least one weight.
    search
        Share of the updates of a stage that searches, in [0, 1).

    Notes
    -----
    Card S35. The optimiser is not begun anew within a stage, so that moments of the search act on
    the first updates after it.
    """

    name: ClassVar[str] = "lt_sft"
    title: ClassVar[str] = "LT-SFT"
    source: ClassVar[str] = "arXiv 2110.07560, section 3"
    share: Share = 0.1
    search: BelowOne = 0.5

    def free(self, weights: Array, state: State, moment: Moment) -> Array:
        return weights == weights

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        weights, state = super().begin(weights, state, moment)
        searched = round(self.search * moment.length)
        if searched and moment.clock == searched + 1:
            xp = array_namespace(weights)
            free = largest(xp.abs(weights - state["kept"]), self.share)
            return copied(state["kept"]), {**state, "free": free}
        return weights, state


@dataclass(frozen=True, kw_only=True)
class TopGradient(Mask):
    """The weights move whose gradients are largest as a stage begins.

    Attributes
    ----------
    share
        Share of the weights of each tensor that moves, in [0, 1]; at least one weight.
    count
        Rows whose gradients are summed; their passes are part of what the method costs.

    Notes
    -----
    Ours, after card S35. The objective is that of the stage; SFT in a stage that follows both.
    """

    name: ClassVar[str] = "top_gradient"
    title: ClassVar[str] = "top gradient"
    share: Share = 0.1
    count: Count = 64

    @property
    def label(self) -> str:
        """Name for legends."""
        return self.title if self.share == 0.1 else f"{self.title} ({self.share:g})"

    def start(self, weights: Array) -> State:
        zero = array_namespace(weights).zeros_like(weights)
        return {**super().start(weights), "sum": zero}

    def free(self, weights: Array, state: State, moment: Moment) -> Array:
        return weights == weights

    def rows(self, moment: Moment) -> tuple[int, int]:
        return moment.objective or 0, self.count if moment.begins else 0

    def observe(self, gradient: Array, state: State, moment: Moment) -> State:
        return {**state, "sum": state["sum"] + gradient}

    def conclude(self, state: State, moment: Moment) -> State:
        sizes = array_namespace(state["sum"]).abs(state["sum"])
        return {**state, "free": largest(sizes, self.share), "sum": 0 * sizes}
