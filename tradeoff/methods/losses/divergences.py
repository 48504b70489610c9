"""Losses that compare the policy with the reference over all responses of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from array_api_compat import array_namespace

from tradeoff.methods.losses.base import PreferenceLoss, SftLoss
from tradeoff.methods.losses.demonstrations import Dft
from tradeoff.methods.losses.records import Array, Pairs, Responses, fixed, sigmoid
from tradeoff.settings import NotNegative, Positive

Direction = Literal["forward", "reverse"]


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


def divergence(log_probs: Array, reference: Array, direction: Direction) -> Array:
    """(n,) divergences between the policy and the reference over K responses or tokens.

    Parameters
    ----------
    log_probs, reference
        (n, K) log-probabilities; minus infinity where there is no response.
    direction
        "forward": KL(reference || policy). "reverse": KL(policy || reference).
    """
    xp = array_namespace(log_probs)
    first, second = (reference, log_probs) if direction == "forward" else (log_probs, reference)
    present = first > -float("inf")
    zero = xp.zeros_like(first)
    gap = xp.where(present, first, zero) - xp.where(present, second, zero)
    return xp.sum(xp.exp(first) * gap, axis=-1)
