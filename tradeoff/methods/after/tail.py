"""The mean of the last weights of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tradeoff.methods.after.base import After
from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.settings import Share


@dataclass(frozen=True, kw_only=True)
class TailAverage(After):
    """Mean of the weights after the last updates of a stage; before them, the weights.

    Attributes
    ----------
    share
        Share of the updates of a stage whose weights are averaged; at least one update.

    Notes
    -----
    Card C19. With constant steps it replaces their decay.
    """

    name: ClassVar[str] = "tail_average"
    title: ClassVar[str] = "tail average"
    source: ClassVar[str] = "arXiv 1109.5647, section 3"
    share: Share = 0.5

    def start(self, weights: Array) -> State:
        return {"mean": copied(weights)}

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        averaged = max(1, round(self.share * moment.length))
        number = max(1, moment.clock - (moment.length - averaged))
        return weights, {"mean": state["mean"] + (weights - state["mean"]) / number}

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        return state["mean"]
