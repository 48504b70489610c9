"""The bases of losses of demonstrations and of losses of pairs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from tradeoff.methods.losses.records import Array, Pairs, Responses
from tradeoff.parts import Part

Direction = Literal["forward", "reverse", "collision", "entropy"]
"""What a divergence compares, see :func:`tradeoff.methods.losses.divergences.divergence`."""


@dataclass(frozen=True, kw_only=True)
class SftLoss(Part):
    """A loss of demonstrations.

    Attributes
    ----------
    per_response
        Whether it is a loss of whole responses, a class attribute; else of tokens, and the loss
        of a batch is the mean over its tokens. Where a response is one token, both agree.
    needs_reference
        Whether it compares with the reference policy, a class attribute.
    convex
        Whether it is convex in the parameters of a log-linear policy, a class attribute.
    compares
        Direction of the divergence from the reference that it asks for, "forward" or "reverse", a
        class attribute; None if it asks for none. "entropy" asks for that of the policy instead.
    """

    kind: ClassVar[str] = "sft"
    compares: ClassVar[Direction | None] = None
    per_response: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    convex: ClassVar[bool] = False

    @abstractmethod
    def losses(self, tokens: Responses) -> Array:
        """(n,) one loss for each token, or each response where ``per_response``."""

    @property
    def divergence_slope(self) -> float:
        """Slope of the loss in the divergence from the reference."""
        return 0.0

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm" and self.needs_reference:
            return "the trainer keeps no reference log-probabilities of demonstrations"
        return None


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss(Part):
    """A loss of preference pairs.

    Attributes
    ----------
    needs_reference
        Whether it compares with the reference policy, a class attribute.
    margin_only
        Whether it depends on the log-probabilities through :attr:`Pairs.margin` alone, a class
        attribute. Such a loss needs no normaliser of a log-linear policy.
    whole_batch
        Whether the loss of a pair depends on the other pairs of its batch, a class attribute.
    convex
        Whether it is convex in the parameters of a log-linear policy, a class attribute.
    compares
        Direction of the divergence from the reference that it asks for; see :class:`SftLoss`.
        "collision" asks for the logarithm of the sum of squared probabilities instead.
    stopped
        Whether a factor of the loss is taken as a constant, so that slopes are not those of the
        value, a class attribute.
    grouped
        Whether it looks at all responses to the prompt of a pair, see
        :class:`tradeoff.methods.losses.ResponseGroup`; a class attribute.
    asks
        What it wants to know of them beside their probabilities: "rewards", "likeness"; a class
        attribute.
    """

    kind: ClassVar[str] = "preference"
    compares: ClassVar[Direction | None] = None
    needs_reference: ClassVar[bool] = True
    margin_only: ClassVar[bool] = False
    stopped: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    convex: ClassVar[bool] = False
    grouped: ClassVar[bool] = False
    asks: ClassVar[tuple[str, ...]] = ()

    @property
    def cost(self) -> float:
        """Cost of a gradient, in gradients of as many pairs that are given."""
        return 1.0

    @abstractmethod
    def losses(self, pairs: Pairs) -> Array:
        """(n,) one loss for each pair."""

    def divergence_slopes(self, pairs: Pairs) -> Array | None:
        """(n,) slopes in the divergence of the prompt; None where it counts as a constant."""
        return None

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex" and self.whole_batch:
            return "an update there sees one pair, and the loss sorts those of a batch"
        return None


@dataclass(frozen=True, kw_only=True)
class MarginLoss(PreferenceLoss):
    """A loss of the margin over the reference."""

    margin_only: ClassVar[bool] = True

    @abstractmethod
    def of_margin(self, margins: Array) -> Array:
        """(n,) losses of (n,) margins, in nats."""

    def losses(self, pairs: Pairs) -> Array:
        return self.of_margin(pairs.margin)
