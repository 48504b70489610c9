"""Updates that are merged, one by one, with what the first stage changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from array_api_compat import array_namespace

from tradeoff.methods.after.base import After
from tradeoff.methods.hooks import Array, Moment, State, copied, largest
from tradeoff.settings import Share


@dataclass(frozen=True, kw_only=True)
class OnlineMerging(After):
    """Each update after the first stage is thinned out, and pulled along what that stage changed.

    ``weights <- before + alpha * pull + (1 - alpha) * thinned(update)``, where ``pull`` is the
    change of the weights from the start of the run to the start of the stage. The first stage is
    trained as ever.

    Attributes
    ----------
    alpha
        Weight of the pull, in [0, 1].
    keep
        Share of the entries of an update that is kept, in [0, 1]; "top" counts by tensor.
    sparse
        "random" keeps entries by a coin (OnDARE), without scaling them up. "top" keeps the largest
        ones, and drops of both summands what is against the sign of their sum (OnTIES).

    Notes
    -----
    Card C21. With ``keep=1`` and plain gradient steps of size s, a fixed point has ``(1 - alpha) *
    gradient = (alpha / s) * pull``. Published scripts, of many more updates, have an alpha of 1e-7
    and keep 0.01.
    """

    name: ClassVar[str] = "online_merging"
    title: ClassVar[str] = "online merging"
    source: ClassVar[str] = "arXiv 2405.17931, Algorithm 1"
    staged: ClassVar[bool] = True
    alpha: Share = 1e-4
    keep: Share = 0.5
    sparse: Literal["random", "top"] = "random"

    def start(self, weights: Array) -> State:
        xp = array_namespace(weights)
        pull = xp.zeros_like(weights)
        return {"base": copied(weights), "pull": pull, "before": copied(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        pull = weights - state["base"] if moment.begins and moment.stage else state["pull"]
        return weights, {**state, "pull": pull, "before": copied(weights)}

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        if moment.stage == 0:
            return weights, state
        xp = array_namespace(weights)
        moved, zero = weights - state["before"], xp.zeros_like(weights)
        pull = self.alpha * state["pull"]
        if self.sparse == "random":
            moved = xp.where(moment.uniform() < self.keep, moved, zero)
            return state["before"] + pull + (1 - self.alpha) * moved, state
        moved = (1 - self.alpha) * xp.where(largest(xp.abs(moved), self.keep), moved, zero)
        sign = xp.sign(moved + pull)
        agreeing = (xp.where(xp.sign(part) == sign, part, zero) for part in (moved, pull))
        return state["before"] + sum(agreeing), state
