"""Losses of demonstrations.

Most weigh each token's negative log-likelihood by a function of its probability, which autograd
takes as a constant; the slope of each in log p is minus that weight.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.errors import InputError
from tradeoff.methods.losses.base import SftLoss
from tradeoff.methods.losses.records import Array, Responses, fixed, sigmoid, softplus
from tradeoff.settings import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Nll(SftLoss):
    """Negative log-likelihood: what supervised fine-tuning minimises."""

    name: ClassVar[str] = "nll"
    title: ClassVar[str] = "NLL"
    source: ClassVar[str] = "arXiv 2410.15483, equation (4)"
    convex: ClassVar[bool] = True

    def losses(self, tokens: Responses) -> Array:
        return -tokens.log_probs


@dataclass(frozen=True, kw_only=True)
class Weighted(SftLoss):
    """Negative log-likelihood with a weight that depends on the probability of the token."""

    @abstractmethod
    def weights(self, tokens: Responses) -> Array:
        """(n,) weight of each token; not negative."""

    def losses(self, tokens: Responses) -> Array:
        return -fixed(self.weights(tokens)) * tokens.log_probs


@dataclass(frozen=True, kw_only=True)
class Dft(Weighted):
    """Weight p: the implied loss is 1 - p, which hardly sees unlikely tokens."""

    name: ClassVar[str] = "dft"
    title: ClassVar[str] = "DFT"
    source: ClassVar[str] = "arXiv 2508.05629"

    def weights(self, tokens: Responses) -> Array:
        return array_namespace(tokens.log_probs).exp(tokens.log_probs)


@dataclass(frozen=True, kw_only=True)
class Chord(Weighted):
    """Weight p (1 - p): tokens that are neither known nor hopeless count most (CHORD-phi)."""

    name: ClassVar[str] = "chord"
    title: ClassVar[str] = "CHORD-φ"
    source: ClassVar[str] = "arXiv 2508.11408"

    def weights(self, tokens: Responses) -> Array:
        p = array_namespace(tokens.log_probs).exp(tokens.log_probs)
        return p * (1 - p)


@dataclass(frozen=True, kw_only=True)
class Luffy(Weighted):
    """Weight gamma p / (p + gamma)^2, which lifts rare tokens: the opposite shape to DFT.

    Attributes
    ----------
    gamma
        Probability at which the weight is largest; positive.
    """

    name: ClassVar[str] = "luffy"
    title: ClassVar[str] = "LUFFY"
    source: ClassVar[str] = "arXiv 2504.14945"
    gamma: Positive = 0.1

    def weights(self, tokens: Responses) -> Array:
        p = array_namespace(tokens.log_probs).exp(tokens.log_probs)
        return self.gamma * p / (p + self.gamma) ** 2


@dataclass(frozen=True, kw_only=True)
class ImportanceSft(Weighted):
    """Weight (p / p_ref)^power, kept between two bounds (iw-SFT, by token).

    Attributes
    ----------
    power
        Exponent of the ratio; 0 is plain SFT.
    low, high
        Bounds of the weight.
    """

    name: ClassVar[str] = "iw_sft"
    title: ClassVar[str] = "iw-SFT"
    source: ClassVar[str] = "arXiv 2507.12856"
    needs_reference: ClassVar[bool] = True
    power: float = 1.0
    low: NotNegative = 0.2
    high: NotNegative = 1.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise InputError(
                f"the bounds are not in order, as high is {self.high:g}",
                field="low",
                value=self.low,
                remedy="Give 0 <= low <= high.",
            )

    def weights(self, tokens: Responses) -> Array:
        xp = array_namespace(tokens.log_probs)
        return xp.clip(xp.exp(self.power * tokens.ratio), min=self.low, max=self.high)


@dataclass(frozen=True, kw_only=True)
class Uft(SftLoss):
    """Squared distance of the implicit reward's sigmoid from one: a pull that saturates.

    Attributes
    ----------
    beta
        Inverse temperature of the implicit reward; positive.

    Notes
    -----
    Card J37, after a second-hand description. The paper has a beta of 0.01; this default is
    that of DPO.
    """

    name: ClassVar[str] = "uft"
    title: ClassVar[str] = "UFT"
    source: ClassVar[str] = "arXiv 2410.21438"
    needs_reference: ClassVar[bool] = True
    per_response: ClassVar[bool] = True
    beta: Positive = 0.1

    def losses(self, tokens: Responses) -> Array:
        return sigmoid(-self.beta * tokens.ratio) ** 2


@dataclass(frozen=True, kw_only=True)
class Poft(SftLoss):
    """Logistic loss of the demonstration's mean log-probability over that of the reference.

    The published method compares with the mean of several aligned models; here these are the
    reference policy.
    """

    name: ClassVar[str] = "poft"
    title: ClassVar[str] = "PoFT"
    source: ClassVar[str] = "arXiv 2412.12865"
    needs_reference: ClassVar[bool] = True
    per_response: ClassVar[bool] = True
    convex: ClassVar[bool] = True

    def losses(self, tokens: Responses) -> Array:
        return softplus(-tokens.per_token(tokens.ratio))
