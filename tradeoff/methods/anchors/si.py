"""Synaptic intelligence: a penalty by how much each weight lowered the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.anchors.base import QuadraticAnchor
from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.settings import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class SynapticIntelligence(QuadraticAnchor):
    """Holds each weight by what it contributed to the fall of the loss in earlier stages.

    Attributes
    ----------
    weight, stages
        Factor of the penalty, which no 1/2 divides, as in the paper; and where it acts.
    damping
        Added to the squared change of a weight before its contribution is divided by it; positive.

    Notes
    -----
    Card C06, after a second-hand description. The contribution is the sum of ``-gradient * change``
    over the updates of a stage, without the penalty's own gradient; one below zero counts as zero,
    so that no weight is pushed away. No passes of its own are needed.
    """

    name: ClassVar[str] = "si"
    title: ClassVar[str] = "SI"
    source: ClassVar[str] = "arXiv 1703.04200, equation (5)"
    staged: ClassVar[bool] = True
    weight: NotNegative = 1.0
    damping: Positive = 1e-3

    def start(self, weights: Array) -> State:
        zero = array_namespace(weights).zeros_like(weights)
        more = dict.fromkeys(("importance", "fall", "gradient"), zero)
        return {**super().start(weights), "before": copied(weights), **more}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        if moment.begins and moment.stage:
            xp = array_namespace(weights)
            fall, moved = state["fall"], weights - state["anchor"]
            share = xp.where(fall > 0, fall, xp.zeros_like(fall)) / (moved**2 + self.damping)
            state = {**state, "importance": state["importance"] + share, "fall": 0 * fall}
        return super().begin(weights, {**state, "before": copied(weights)}, moment)

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        return super().direct(gradient, weights, {**state, "gradient": copied(gradient)}, moment)

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        fall = state["fall"] - state["gradient"] * (weights - state["before"])
        return weights, {**state, "fall": fall}

    def importance(self, state: State) -> Array:
        return 2 * state["importance"]
