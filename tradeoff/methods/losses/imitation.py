"""Losses of pairs that imitate the better response, by how good it seems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.losses.base import PreferenceLoss
from tradeoff.methods.losses.records import Array, Pairs, Responses, fixed, sigmoid, softplus
from tradeoff.settings import NotNegative, Positive, Within


@dataclass(frozen=True, kw_only=True)
class RewardWeighted(PreferenceLoss):
    """Reward-weighted regression: SFT on both responses, with weights of a softmax of rewards.

    The chosen response has one unit of reward more than the rejected one.

    Attributes
    ----------
    temperature
        Of the softmax; positive. Small: SFT on chosen responses. Large: SFT on both.

    Notes
    -----
    Card S12, after a second-hand description, a transfer: the paper weighs videos by a learned
    reward. Costs nothing more.
    """

    name: ClassVar[str] = "rwr"
    title: ClassVar[str] = "RWR"
    source: ClassVar[str] = "arXiv 2501.13918"
    needs_reference: ClassVar[bool] = False
    convex: ClassVar[bool] = True
    temperature: Positive = 1.0

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = _mean_nll(pairs.chosen), _mean_nll(pairs.rejected)
        share = sigmoid(chosen * 0 + 1 / self.temperature)
        return share * chosen + (1 - share) * rejected


@dataclass(frozen=True, kw_only=True)
class FaultAware(PreferenceLoss):
    """SFT on the chosen response, with more weight where the policy prefers the rejected one.

    Attributes
    ----------
    beta
        Inverse temperature of the preference; positive.
    extra
        Most additional weight, not negative; 0 is SFT on chosen responses.

    Notes
    -----
    Card S03, after a second-hand description. The published method weighs the tokens in which both
    responses differ, by a rule that is not known; weight and unit, the whole response, are ours.
    Costs the reference's log-probabilities.
    """

    name: ClassVar[str] = "fait"
    title: ClassVar[str] = "FAIT"
    source: ClassVar[str] = "arXiv 2503.16913"
    stopped: ClassVar[bool] = True
    beta: Positive = 0.1
    extra: NotNegative = 1.0

    def losses(self, pairs: Pairs) -> Array:
        weight = 1 + self.extra * sigmoid(-self.beta * pairs.margin)
        return fixed(weight) * _mean_nll(pairs.chosen)


@dataclass(frozen=True, kw_only=True)
class Ulma(PreferenceLoss):
    """SFT on chosen responses, and a classifier that turns rejected ones down.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    shift
        Reward at which a rejected response is as likely accepted as not.

    Notes
    -----
    Card J36. Convex for a beta of at most 1, as SFT then outweighs what the classifier bends. Costs
    the reference's log-probabilities.
    """

    name: ClassVar[str] = "ulma"
    title: ClassVar[str] = "ULMA"
    source: ClassVar[str] = "arXiv 2312.02554"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1
    shift: float = 0.0

    def losses(self, pairs: Pairs) -> Array:
        return _mean_nll(pairs.chosen) + softplus(self.beta * pairs.rejected.ratio + self.shift)


@dataclass(frozen=True, kw_only=True)
class GatedSft(PreferenceLoss):
    """SFT on the chosen response of pairs that the policy gets wrong, DPO on the others (HPT).

    A pair is wrong if the chosen response has no larger log-probability per token.

    Attributes
    ----------
    beta
        Inverse temperature of DPO; positive.
    weight
        Of SFT; not negative.

    Notes
    -----
    Card J47. The published gate counts successes among responses that the policy writes; a pair is
    our replacement. Costs the reference's log-probabilities.
    """

    name: ClassVar[str] = "hpt"
    title: ClassVar[str] = "HPT gate"
    source: ClassVar[str] = "arXiv 2509.04419"
    beta: Positive = 0.1
    weight: NotNegative = 1.0

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = _mean_nll(pairs.chosen), _mean_nll(pairs.rejected)
        wrong = fixed(chosen) >= fixed(rejected)
        dpo = softplus(-self.beta * pairs.margin)
        return array_namespace(chosen).where(wrong, self.weight * chosen, dpo)


@dataclass(frozen=True, kw_only=True)
class Mpo(PreferenceLoss):
    """DPO, a classifier of single responses, and SFT on the chosen one, in a weighted sum.

    Attributes
    ----------
    beta
        Inverse temperature of both; positive.
    preference, quality, generation
        Weights of DPO, of the classifier (BCO) and of SFT per token; not negative.

    Notes
    -----
    Card J31, after a second-hand description. Convex where `generation` is no less than ``beta *
    quality``. Costs the reference's log-probabilities.
    """

    name: ClassVar[str] = "mpo"
    title: ClassVar[str] = "MPO"
    source: ClassVar[str] = "arXiv 2411.10442"
    beta: Positive = 0.1
    preference: NotNegative = 0.8
    quality: NotNegative = 0.2
    generation: NotNegative = 1.0
    convex: ClassVar[bool] = True

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = self.beta * pairs.chosen.ratio, self.beta * pairs.rejected.ratio
        judged = softplus(-chosen) + softplus(rejected)
        found = self.preference * softplus(rejected - chosen) + self.quality * judged
        return found + self.generation * _mean_nll(pairs.chosen)


@dataclass(frozen=True, kw_only=True)
class ExpectedReward(PreferenceLoss):
    """Exact policy gradient of a reward of 1 for chosen and -1 for rejected responses.

    Attributes
    ----------
    baseline
        Reward of every other response, which is taken off both.

    Notes
    -----
    Card S11, a transfer of CodeRL without its critic: responses that no row lists count as the
    baseline. Costs nothing more. Whole responses of language models have hardly any probability.
    """

    name: ClassVar[str] = "expected_reward"
    title: ClassVar[str] = "expected reward"
    source: ClassVar[str] = "arXiv 2207.01780"
    needs_reference: ClassVar[bool] = False
    baseline: Annotated[float, Within(-1, 1)] = 0.0

    def losses(self, pairs: Pairs) -> Array:
        xp = array_namespace(pairs.chosen.log_probs)
        chosen, rejected = xp.exp(pairs.chosen.log_probs), xp.exp(pairs.rejected.log_probs)
        return (1 + self.baseline) * rejected - (1 - self.baseline) * chosen

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "whole responses have hardly any probability there, and so no slope"
        return super().unsupported(scale)


def _mean_nll(responses: Responses) -> Array:
    """(n,) negative log-likelihood per token."""
    return -responses.per_token(responses.log_probs)
