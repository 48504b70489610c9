"""Losses without a reference policy, and losses of pairs that carry SFT on the chosen response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.errors import InputError
from tradeoff.methods.losses.base import PreferenceLoss
from tradeoff.methods.losses.records import Array, Pairs, Responses, softplus
from tradeoff.settings import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class SimPo(PreferenceLoss):
    """Logistic loss of the margin of mean log-probabilities, less a target; no reference.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    gamma
        Target of beta times the margin.
    """

    name: ClassVar[str] = "simpo"
    title: ClassVar[str] = "SimPO"
    source: ClassVar[str] = "arXiv 2405.14734, equation (6)"
    needs_reference: ClassVar[bool] = False
    convex: ClassVar[bool] = True
    beta: Positive = 2.0
    gamma: float = 0.5

    def reward(self, responses: Responses) -> Array:
        """(n,) rewards, of which the margin is the difference."""
        return responses.per_token(responses.log_probs)

    def losses(self, pairs: Pairs) -> Array:
        margin = self.reward(pairs.chosen) - self.reward(pairs.rejected)
        return softplus(self.gamma - self.beta * margin)


@dataclass(frozen=True, kw_only=True)
class AlphaPo(SimPo):
    """SimPO whose reward is ``(1 - p^-alpha) / alpha`` of the mean probability p.

    Attributes
    ----------
    beta, gamma
        As for :class:`SimPo`.
    alpha
        Shape of the reward, not zero; towards zero this is SimPO.

    Notes
    -----
    Card J25, after a second-hand description.
    """

    name: ClassVar[str] = "alphapo"
    title: ClassVar[str] = "AlphaPO"
    source: ClassVar[str] = "arXiv 2501.03884"
    convex: ClassVar[bool] = False
    alpha: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not abs(self.alpha) > 0:
            remedy = "Give another number, or use SimPo."
            raise InputError("zero is SimPO", field="alpha", value=self.alpha, remedy=remedy)

    def reward(self, responses: Responses) -> Array:
        mean = super().reward(responses)
        return (1 - array_namespace(mean).exp(-self.alpha * mean)) / self.alpha


@dataclass(frozen=True, kw_only=True)
class Cpo(PreferenceLoss):
    """DPO without a reference, plus SFT on the chosen response.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    alpha
        Weight of the chosen response's negative log-likelihood per token; not negative.
    """

    name: ClassVar[str] = "cpo"
    title: ClassVar[str] = "CPO"
    source: ClassVar[str] = "arXiv 2401.08417, equation (3)"
    needs_reference: ClassVar[bool] = False
    convex: ClassVar[bool] = True
    beta: Positive = 0.1
    alpha: NotNegative = 1.0

    def losses(self, pairs: Pairs) -> Array:
        margin = pairs.chosen.log_probs - pairs.rejected.log_probs
        return softplus(-self.beta * margin) + self.alpha * _mean_nll(pairs.chosen)


@dataclass(frozen=True, kw_only=True)
class Rpo(PreferenceLoss):
    """DPO plus SFT on the chosen response (iterative reasoning preference optimisation).

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    alpha
        Weight of the chosen response's negative log-likelihood per token; not negative.

    Notes
    -----
    Card J28, after a second-hand description.
    """

    name: ClassVar[str] = "rpo"
    title: ClassVar[str] = "RPO"
    source: ClassVar[str] = "arXiv 2404.19733, equation (1)"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1
    alpha: NotNegative = 1.0

    @property
    def label(self) -> str:
        """Name for legends."""
        return self.title if self.alpha == 1 else f"{self.title} ({self.alpha:g})"

    def losses(self, pairs: Pairs) -> Array:
        return softplus(-self.beta * pairs.margin) + self.alpha * _mean_nll(pairs.chosen)


@dataclass(frozen=True, kw_only=True)
class Slic(PreferenceLoss):
    """Hinge loss of log-probabilities, plus SFT on the chosen response; no reference.

    Attributes
    ----------
    delta
        Margin that is asked for, in nats; positive.
    alpha
        Weight of the chosen response's negative log-likelihood per token; not negative.

    Notes
    -----
    Card J06, after a second-hand description.
    """

    name: ClassVar[str] = "slic"
    title: ClassVar[str] = "SLiC"
    source: ClassVar[str] = "arXiv 2305.10425, equation (7)"
    needs_reference: ClassVar[bool] = False
    convex: ClassVar[bool] = True
    delta: Positive = 1.0
    alpha: NotNegative = 0.1

    def losses(self, pairs: Pairs) -> Array:
        short = self.delta - pairs.chosen.log_probs + pairs.rejected.log_probs
        hinge = array_namespace(short).clip(short, min=0.0)
        return hinge + self.alpha * _mean_nll(pairs.chosen)


@dataclass(frozen=True, kw_only=True)
class Orpo(PreferenceLoss):
    """SFT on the chosen response, plus a logistic loss of the log-odds ratio; no reference.

    Attributes
    ----------
    weight
        Of the odds ratio; not negative.
    """

    name: ClassVar[str] = "orpo"
    title: ClassVar[str] = "ORPO"
    source: ClassVar[str] = "arXiv 2403.07691, equation (6)"
    needs_reference: ClassVar[bool] = False
    weight: NotNegative = 0.1

    def losses(self, pairs: Pairs) -> Array:
        ratio = _log_odds(pairs.chosen) - _log_odds(pairs.rejected)
        return _mean_nll(pairs.chosen) + self.weight * softplus(-ratio)


def _mean_nll(responses: Responses) -> Array:
    """(n,) negative log-likelihood per token."""
    return -responses.per_token(responses.log_probs)


def _log_odds(responses: Responses) -> Array:
    """(n,) log of p / (1 - p), where log p is the mean over the tokens.

    A p that rounds to one counts as the largest number below one, whose odds are finite.
    """
    mean = responses.per_token(responses.log_probs)
    xp = array_namespace(mean)
    mean = xp.clip(mean, max=-float(xp.finfo(mean.dtype).eps))
    return mean - xp.log(-xp.expm1(mean))
