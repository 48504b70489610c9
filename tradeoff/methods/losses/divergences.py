"""Losses that compare the policy with the reference over all responses of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.losses.base import Direction, PreferenceLoss, SftLoss
from tradeoff.methods.losses.demonstrations import Dft
from tradeoff.methods.losses.records import Array, Pairs, Responses, fixed, sigmoid, softplus
from tradeoff.settings import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Asft(SftLoss):
    """DFT plus a weight times the divergence of the policy from the reference.

    Attributes
    ----------
    weight
        Factor of ``KL(reference || policy)``, at each token; 0 is DFT.

    Notes
    -----
    Card S17. DFT drifts away from what it does not see, which the divergence repairs.
    """

    name: ClassVar[str] = "asft"
    title: ClassVar[str] = "ASFT"
    source: ClassVar[str] = "arXiv 2509.23753, equation (9)"
    needs_reference: ClassVar[bool] = True
    compares: ClassVar[Direction | None] = "forward"
    weight: NotNegative = 0.05

    def losses(self, tokens: Responses) -> Array:
        return Dft().losses(tokens) + self.weight * tokens.known_divergence

    @property
    def divergence_slope(self) -> float:
        return self.weight


@dataclass(frozen=True, kw_only=True)
class Kto(PreferenceLoss):
    """Gains of the chosen response and losses of the rejected one, from a reference point.

    With rewards ``r = beta log(pi / pi_ref)`` and the point ``z = beta KL(pi || pi_ref)`` of the
    prompt, as a constant: ``desirable (1 - sigmoid(r_chosen - z)) + undesirable (1 - sigmoid(z -
    r_rejected))``.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    desirable, undesirable
        Weights of both terms, not negative.

    Notes
    -----
    Card J10. The published point is an estimate from the mismatched pairs of a batch; here it is
    the divergence itself. Without it this is APO-zero.
    """

    name: ClassVar[str] = "kto"
    title: ClassVar[str] = "KTO"
    source: ClassVar[str] = "arXiv 2402.01306, equation (8)"
    compares: ClassVar[Direction | None] = "reverse"
    beta: Positive = 0.1
    desirable: NotNegative = 1.0
    undesirable: NotNegative = 1.0

    def losses(self, pairs: Pairs) -> Array:
        point = self.beta * fixed(pairs.chosen.known_divergence)
        gain = sigmoid(self.beta * pairs.chosen.ratio - point)
        loss = sigmoid(point - self.beta * pairs.rejected.ratio)
        return self.desirable * (1 - gain) + self.undesirable * (1 - loss)

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "the divergence of whole responses can only be estimated, from extra passes"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class _OfPrompts(PreferenceLoss):
    """A loss of pairs that also looks at all responses of their prompt."""

    beta: Positive = 0.1

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "the trainer keeps no probabilities of other responses, or of other tokens"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class Tdpo(_OfPrompts):
    """DPO that also holds the divergence of the prompt near the reference (TDPO2).

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    alpha
        Weight of ``KL(reference || policy)`` of the rejected response; not negative, 0 is DPO.

    Notes
    -----
    Card J17. The divergence of the chosen response is a constant. Of responses of one token both
    belong to one prompt, so that the loss is that of DPO and its gradient has a pull to the
    reference. Costs the reference's probabilities.
    """

    name: ClassVar[str] = "tdpo"
    title: ClassVar[str] = "TDPO"
    source: ClassVar[str] = "arXiv 2404.11999"
    compares: ClassVar[Direction | None] = "forward"
    convex: ClassVar[bool] = True
    alpha: NotNegative = 0.5

    def losses(self, pairs: Pairs) -> Array:
        more = pairs.rejected.known_divergence - fixed(pairs.chosen.known_divergence)
        return softplus(-self.beta * (pairs.margin - self.alpha * more))

    def divergence_slopes(self, pairs: Pairs) -> Array:
        return self.alpha * self.beta * sigmoid(-self.beta * pairs.margin)


@dataclass(frozen=True, kw_only=True)
class AnchoredDpo(_OfPrompts):
    """DPO plus a weight times the divergence of the policy from the reference on its prompts.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    weight
        Factor of ``KL(reference || policy)``; not negative, 0 is DPO.

    Notes
    -----
    Card J52. Costs the reference's probabilities.
    """

    name: ClassVar[str] = "anchored_dpo"
    title: ClassVar[str] = "anchored DPO"
    source: ClassVar[str] = "arXiv 2203.02155"
    compares: ClassVar[Direction | None] = "forward"
    convex: ClassVar[bool] = True
    weight: NotNegative = 0.1

    def losses(self, pairs: Pairs) -> Array:
        return softplus(-self.beta * pairs.margin) + self.weight * pairs.chosen.known_divergence

    def divergence_slopes(self, pairs: Pairs) -> Array:
        return self.weight + 0 * pairs.chosen.log_probs


@dataclass(frozen=True, kw_only=True)
class Wpo(_OfPrompts):
    """DPO whose pairs count as much as the policy itself would write both responses.

    The weight is ``min(1, p_chosen / q * p_rejected / q)`` as a constant, where q is the sum of the
    squared probabilities of all responses.

    Attributes
    ----------
    beta
        Inverse temperature; positive.

    Notes
    -----
    Card J13. Costs the probabilities of all responses. Published runs have a beta of 0.01; this
    default is that of DPO.
    """

    name: ClassVar[str] = "wpo"
    title: ClassVar[str] = "WPO"
    source: ClassVar[str] = "arXiv 2406.11827"
    compares: ClassVar[Direction | None] = "collision"
    stopped: ClassVar[bool] = True

    def losses(self, pairs: Pairs) -> Array:
        xp = array_namespace(pairs.chosen.log_probs)
        likely = sum(
            r.per_token(r.log_probs - r.known_divergence) for r in (pairs.chosen, pairs.rejected)
        )
        weight = xp.exp(xp.clip(likely, max=0.0))
        return fixed(weight) * softplus(-self.beta * pairs.margin)


def divergence(log_probs: Array, reference: Array, direction: Direction) -> Array:
    """(n,) divergences between the policy and the reference over K responses or tokens.

    Parameters
    ----------
    log_probs, reference
        (n, K) log-probabilities; minus infinity where there is no response.
    direction
        "forward": KL(reference || policy). "reverse": KL(policy || reference). "collision": of the
        policy alone, the logarithm of the sum of its squared probabilities. "entropy": that of the
        policy alone.
    """
    xp = array_namespace(log_probs)
    if direction == "collision":
        return xp.log(xp.sum(xp.exp(2 * log_probs), axis=-1))
    if direction == "entropy":
        known = xp.where(log_probs > -float("inf"), log_probs, xp.zeros_like(log_probs))
        return -xp.sum(xp.exp(log_probs) * known, axis=-1)
    first, second = (reference, log_probs) if direction == "forward" else (log_probs, reference)
    present = first > -float("inf")
    zero = xp.zeros_like(first)
    gap = xp.where(present, first, zero) - xp.where(present, second, zero)
    return xp.sum(xp.exp(first) * gap, axis=-1)
