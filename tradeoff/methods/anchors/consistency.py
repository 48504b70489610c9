"""One answer to two views of a prompt: the policy learns from its own running average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tradeoff.methods.anchors.base import Sees
from tradeoff.methods.anchors.policies import KlToBase
from tradeoff.methods.hooks import Array, Moment, State
from tradeoff.schedules import FORWARD
from tradeoff.settings import NotNegative, Share


@dataclass(frozen=True, kw_only=True)
class ViewConsistency(KlToBase):
    """Holds the policy's answer to a noisy prompt near an averaged policy's answer to the prompt.

    In a view each feature is multiplied by a factor of its own, evenly spread about 1. With
    networks these are the numbers that a prompt consists of. With a language model these are the
    embeddings of the prompt's tokens; an answer is the law of each next token of the response.

    Attributes
    ----------
    weight, stages, direction, of, temperature, exact
        As for :class:`KlToBase`, with the averaged policy for the earlier one.
    noise
        Standard deviation of the factors, not negative; 0: the prompt as it is.
    decay
        Share of the averaged policy that is kept in an update, in [0, 1]; 0: the policy itself.

    Notes
    -----
    Card S29, a transfer of an abstract: views of images become noisy features. Each update in which
    it acts costs one gradient, of the noisy prompt, and one forward pass of the averaged policy.
    """

    name: ClassVar[str] = "view_consistency"
    title: ClassVar[str] = "two views"
    source: ClassVar[str] = "arXiv 2410.23370"
    sees: ClassVar[Sees] = "views"
    weight: NotNegative = 1.0
    stages: Literal["last", "all"] = "all"
    of: Literal["sft", "preference"] = "sft"
    noise: NotNegative = 0.5
    decay: Share = 0.996

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        kept = self.decay * state["anchor"] + (1 - self.decay) * weights
        return weights, {"anchor": kept}

    def costs(self, moment: Moment) -> tuple[float, float]:
        sft, preference = super().costs(moment)
        return sft * (1 + FORWARD), preference * (1 + FORWARD)
