"""Anchors of what the policy says: divergences from an earlier one on the prompts of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tradeoff.methods.anchors.base import Anchor, Sees
from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.settings import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class KlToBase(Anchor):
    """Holds the policy near that of the first weights, by the KL divergence on prompts of pairs.

    Attributes
    ----------
    weight, stages
        Factor of the divergence, and where it acts.
    direction
        "forward": KL(base || policy), convex on log-linear policies. "reverse": KL(policy || base).
        "logits": squared distance of the logits of all responses.
    of
        Objective of the rows whose prompts are looked at, "sft" or "preference".
    temperature
        Divides the logits; positive. The divergence is multiplied by its square.
    exact
        Look at the prompts of all rows in each update, which still counts as one gradient; else at
        that of one row, which is drawn, and with networks at those of a batch.

    Notes
    -----
    Cards C05 and J52. Each update in which it acts costs one more gradient. With language models,
    whose responses are too many, it is the mean divergence of the laws of the next token, over the
    tokens of the responses of the rows.
    """

    name: ClassVar[str] = "kl_base"
    title: ClassVar[str] = "KL to base"
    source: ClassVar[str] = "arXiv 2203.02155"
    sees: ClassVar[Sees] = "responses"
    weight: NotNegative = 0.3
    direction: Literal["forward", "reverse", "logits"] = "forward"
    of: Literal["sft", "preference"] = "preference"
    temperature: Positive = 1.0
    exact: bool = False

    def start(self, weights: Array) -> State:
        return {"anchor": copied(weights)}

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        if not self.acts(moment):
            return gradient, state
        pull = self.policy(moment).pull_of(self, weights, state["anchor"], moment)
        return gradient + self.weight * pull, state

    def costs(self, moment: Moment) -> tuple[float, float]:
        one = float(self.acts(moment))
        return (one, 0.0) if self.of == "sft" else (0.0, one)

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "hooks there see weights and gradients, not the probabilities of responses"
        if scale == "networks" and self.direction == "logits":
            return "tasks there give the probabilities of responses, not their logits"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class LearningWithoutForgetting(KlToBase):
    """Distils the policy with which a stage begins, on prompts of demonstrations.

    Attributes
    ----------
    weight, stages, direction, of, temperature, exact
        As for :class:`KlToBase`.

    Notes
    -----
    Card C04, after a second-hand description. From the SFT optimum with temperature 1 the
    divergence is the SFT loss less its least value, so that this trains as Mix with ``lam = 1 / (1
    + weight)``, without labels.
    """

    name: ClassVar[str] = "lwf"
    title: ClassVar[str] = "LwF"
    source: ClassVar[str] = "arXiv 1606.09282"
    weight: NotNegative = 1.0
    of: Literal["sft", "preference"] = "sft"

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        return weights, {"anchor": copied(weights)} if moment.begins else state
