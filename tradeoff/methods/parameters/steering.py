"""Gradients that are turned: towards what a stage changed, or by a memory of both objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.methods.parameters.base import Parameters
from tradeoff.methods.parameters.shifted import unit
from tradeoff.schedules import OBJECTIVES
from tradeoff.settings import NotNegative, Share


@dataclass(frozen=True, kw_only=True)
class Drift(Parameters):
    """After the first stage, updates are pulled along what the weights changed so far.

    With D the change from the first weights to those with which the stage begins:

    Attributes
    ----------
    strength
        Of the pull, not negative.
    pull
        "scaled": ``gradient - strength * length of gradient * unit D``, which stops only where the
        gradient does if the strength is below one. "absolute": ``gradient - strength * D``.
        "adaptive": as scaled, times ``(1 + cosine of gradient and D) / 2``.

    Notes
    -----
    Card S02. Lengths and directions are by tensor. The published method takes D from another model;
    here it is that of the stages before. Costs nothing more.
    """

    name: ClassVar[str] = "drift"
    title: ClassVar[str] = "DRIFT"
    source: ClassVar[str] = "arXiv 2510.15050"
    staged: ClassVar[bool] = True
    strength: NotNegative = 0.3
    pull: Literal["scaled", "absolute", "adaptive"] = "scaled"

    def start(self, weights: Array) -> State:
        return {"base": copied(weights), "change": array_namespace(weights).zeros_like(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        return weights, {**state, "change": weights - state["base"]} if moment.begins else state

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        if moment.stage == 0:
            return gradient, state
        xp, change = array_namespace(gradient), state["change"]
        if self.pull == "absolute":
            return gradient - self.strength * change, state
        along = unit(change)
        length = xp.sum(gradient * gradient, axis=-1, keepdims=True) ** 0.5
        factor = self.strength * length
        if self.pull == "adaptive":
            cosine = xp.sum(unit(gradient) * along, axis=-1, keepdims=True)
            factor = factor * 0.5 * (1 + cosine)
        return gradient - factor * along, state


@dataclass(frozen=True, kw_only=True)
class GradientMemory(Parameters):
    """Follows the weighted sum of a running mean of each objective's gradients.

    An update renews the mean of the objective that it follows. Until both have been followed, the
    other one counts as zero. An update that follows both, or either by a coin, renews one mean of
    what is followed instead.

    Attributes
    ----------
    lam
        Weight of the preference objective, in [0, 1].
    recent
        Weight of the newest gradient in a mean, in [0, 1].

    Notes
    -----
    Card X03, ours; meant for turns that are fixed, such as ``Evenly``. Costs nothing more, and two
    copies of the gradients.
    """

    name: ClassVar[str] = "gradient_memory"
    title: ClassVar[str] = "gradient memory"
    source: ClassVar[str] = "ours"
    lam: Share = 0.5
    recent: Share = 0.5

    def start(self, weights: Array) -> State:
        zero = array_namespace(weights).zeros_like(weights)
        return dict.fromkeys((*OBJECTIVES, "both"), zero) | {
            f"seen {name}": zero[..., :1] for name in (*OBJECTIVES, "both")
        }

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        xp = array_namespace(gradient)
        name = "both" if moment.objective is None else OBJECTIVES[moment.objective]
        seen = state[f"seen {name}"]
        recent = xp.where(seen > 0, 0 * seen + self.recent, 0 * seen + 1)
        mean = state[name] + recent * (gradient - state[name])
        state = {**state, name: mean, f"seen {name}": seen + 1}
        if name == "both":
            return mean, state
        return (1 - self.lam) * state["sft"] + self.lam * state["preference"], state
