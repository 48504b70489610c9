"""The base of penalties that hold the weights near earlier ones."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tradeoff.errors import InputError
from tradeoff.methods.hooks import Array, Hook, Moment, State, copied
from tradeoff.settings import NotNegative

Sees = Literal["", "responses", "views", "features"]


@dataclass(frozen=True, kw_only=True)
class Anchor(Hook):
    """Adds the gradient of a penalty to that of each update.

    Attributes
    ----------
    weight
        Factor of the penalty, not negative.
    stages
        "last": the penalty acts in the last stage of the schedule, which is the whole run where it
        has no stages. "all": it acts in every stage.
    sees
        What it asks of the policy: "" nothing, "responses" the probabilities of all responses to a
        prompt, "views" these where a prompt is changed, "features" what enters the last layer; a
        class attribute.

    Notes
    -----
    The anchor is where the weights are as a stage begins.
    """

    kind: ClassVar[str] = "anchor"
    sees: ClassVar[Sees] = ""
    weight: NotNegative = 1.0
    stages: Literal["last", "all"] = "last"

    def policy(self, moment: Moment) -> Any:
        """What the engine tells of the policy.

        Raises
        ------
        InputError
            If it tells nothing.
        """
        if moment.policy is None:
            raise InputError(
                "the anchor compares policies, and the problem has none",
                field="anchor",
                value=self.name,
                remedy="Use a LogLinear problem, or an anchor of weights such as l2_sp.",
            )
        return moment.policy

    def acts(self, moment: Moment) -> bool:
        """Whether the penalty acts in an update."""
        return self.weight > 0 and (self.stages == "all" or moment.in_last)


@dataclass(frozen=True, kw_only=True)
class NoAnchor(Anchor):
    """No penalty: the identity of the slot."""

    name: ClassVar[str] = "free"
    title: ClassVar[str] = "no anchor"
    weight: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class QuadraticAnchor(Anchor):
    """``weight / 2 * sum(importance * (weights - anchor) ** 2)``."""

    def start(self, weights: Array) -> State:
        return {"anchor": copied(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        return weights, {**state, "anchor": copied(weights)} if moment.begins else state

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        if not self.acts(moment):
            return gradient, state
        pull = self.importance(state) * (weights - state["anchor"])
        return gradient + self.weight * pull, state

    @abstractmethod
    def importance(self, state: State) -> Array:
        """How much each weight (..., d) counts; a number if all count alike."""
