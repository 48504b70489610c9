"""Elastic weight consolidation: a penalty by the Fisher information of what was learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from array_api_compat import array_namespace

from tradeoff.methods.anchors.base import QuadraticAnchor
from tradeoff.methods.hooks import Array, Moment, State
from tradeoff.schedules import OBJECTIVES
from tradeoff.settings import Count, NotNegative, Share


@dataclass(frozen=True, kw_only=True)
class Ewc(QuadraticAnchor):
    """Holds each weight by the diagonal of the empirical Fisher information.

    Before a stage the gradients of single rows are squared and averaged. Those passes are part of
    what the method costs.

    Attributes
    ----------
    weight, stages
        Factor of the penalty, and where it acts.
    count
        Rows whose gradients are squared.
    of
        Objective whose loss these are gradients of, "sft" or "preference".
    decay
        Share of the information of earlier stages that is kept, in [0, 1].

    Notes
    -----
    Card C02, after a second-hand description. The labels are those of the data (empirical Fisher),
    which is less than the Fisher information of the policy where it fits the data well.
    """

    name: ClassVar[str] = "ewc"
    title: ClassVar[str] = "EWC"
    source: ClassVar[str] = "arXiv 1612.00796, equation (3)"
    count: Count = 64
    of: Literal["sft", "preference"] = "sft"
    decay: Share = 1.0
    weight: NotNegative = 1.0

    def start(self, weights: Array) -> State:
        zero = array_namespace(weights).zeros_like(weights)
        return {**super().start(weights), "fisher": zero, "sum": zero}

    def rows(self, moment: Moment) -> tuple[int, int]:
        wanted = self.acts(moment) and moment.begins
        return OBJECTIVES.index(self.of), self.count if wanted else 0

    def observe(self, gradient: Array, state: State, moment: Moment) -> State:
        return {**state, "sum": state["sum"] + gradient**2}

    def conclude(self, state: State, moment: Moment) -> State:
        found = self.decay * state["fisher"] + state["sum"] / self.count
        return {**state, "fisher": found, "sum": 0 * state["sum"]}

    def importance(self, state: State) -> Array:
        return state["fisher"]
