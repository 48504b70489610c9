"""Direct preference optimisation of pairs that the policy itself writes, under a judge.

Where all responses to a prompt are known, no pair is drawn: a loss is the mean over all pairs that
could be. The judge is then a linear reward that is fitted to the training pairs and to nothing
else, see :func:`tradeoff.methods.losses.judges.fitted_reward`. Where there are too many responses,
as in a language model, responses are written and an exact judge compares them. Between responses of
one reward it prefers neither, and they make no pair. Which pair is written, and which response
wins, counts as a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Float, Int

from tradeoff.methods.losses.groups import Grouped, Writer
from tradeoff.methods.losses.records import (
    Array,
    ResponseGroup,
    WrittenGroup,
    fixed,
    sigmoid,
    softplus,
)
from tradeoff.settings import NotNegative, Positive, Within


@dataclass(frozen=True, kw_only=True)
class OnlineDpo(Grouped):
    """DPO of two responses of the policy, of which a judge prefers one (online DPO, OAIF).

    A fitted judge prefers with the probability of Bradley and Terry for its rewards, and an exact
    one for sure. The reference stays what it is.

    Attributes
    ----------
    beta
        Inverse temperature of DPO; positive.
    temperature
        Of the draws; positive.
    against
        Who writes the second response: the "policy" itself, or the "reference".

    Notes
    -----
    Card J34, after a second-hand description; the judge is ours. Identity I18: the best policy of
    all is ``pi_ref exp(reward / beta)``, whoever writes. Costs two responses that are written,
    judged, and passed through the reference, on top of a given pair.
    """

    name: ClassVar[str] = "online_dpo"
    title: ClassVar[str] = "online DPO"
    source: ClassVar[str] = "arXiv 2402.04792"
    asks: ClassVar[tuple[str, ...]] = ("rewards",)
    written: ClassVar[int] = 2
    trained: ClassVar[int] = 2
    beta: Positive = 0.1
    temperature: Positive = 0.9
    against: Literal["policy", "reference"] = "policy"

    def of_group(self, group: ResponseGroup) -> Array:
        first, second = self.drawn(group.log_probs), self.other(group)
        wins = sigmoid(_less(group.rewards))
        margin = self.beta * _less(group.ratio)
        law = first[..., :, None] * second[..., None, :]
        xp = array_namespace(law)
        return xp.sum(law * (softplus(margin) - wins * margin), axis=(-2, -1))

    @property
    def writers(self) -> tuple[Writer, ...]:
        return ("policy", self.against)

    @property
    def drawn_at(self) -> float:
        return self.temperature

    def of_written(self, group: WrittenGroup) -> Array:
        return _of_winner(self.beta, group)

    def drawn(self, log_probs: Array) -> Array:
        """(n, K) law of a response, as a constant."""
        xp = array_namespace(log_probs)
        warm = fixed(log_probs) / self.temperature
        odds = xp.exp(warm - xp.max(warm, axis=-1, keepdims=True))
        return odds / xp.sum(odds, axis=-1, keepdims=True)

    def other(self, group: ResponseGroup) -> Array:
        """(n, K) law of the second response, as a constant."""
        own = self.against == "policy"
        return self.drawn(group.log_probs if own else group.known_reference)


@dataclass(frozen=True, kw_only=True)
class Xpo(OnlineDpo):
    """Online DPO that also makes responses of the reference less likely, so as to explore (XPO).

    Attributes
    ----------
    beta, temperature, against
        As for :class:`OnlineDpo`.
    alpha
        Weight of the mean log-probability of what the reference writes; not negative, 0 is online
        DPO.

    Notes
    -----
    Card J35, after a second-hand description. Costs as online DPO, and one more response where the
    policy writes both.
    """

    name: ClassVar[str] = "xpo"
    title: ClassVar[str] = "XPO"
    source: ClassVar[str] = "arXiv 2405.21046, algorithm 1"
    against: Literal["policy", "reference"] = "reference"
    alpha: NotNegative = 1e-5

    def of_group(self, group: ResponseGroup) -> Array:
        xp = array_namespace(group.log_probs)
        usual = xp.sum(self.drawn(group.known_reference) * group.finite, axis=-1)
        return super().of_group(group) + self.alpha * usual

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.writers), len(self.writers)

    @property
    def writers(self) -> tuple[Writer, ...]:
        more: tuple[Writer, ...] = () if self.against == "reference" else ("reference",)
        return (*super().writers, *more)

    def of_written(self, group: WrittenGroup) -> Array:
        # The last response is the reference's.
        return super().of_written(group) + self.alpha * group.finite[..., -1]


@dataclass(frozen=True, kw_only=True)
class BestAgainstWorst(Grouped):
    """DPO of the best against the worst of several responses of the policy (BOLT, online part).

    Attributes
    ----------
    beta
        Inverse temperature of DPO; positive.
    samples
        Responses that are written for a prompt; at least 2. Where all have one reward there is no
        pair.

    Notes
    -----
    Card S30, without its rewards for format. The policy writes anew for every update; the published
    one does so in each of three rounds. Long demonstrations, with which it begins, are those of the
    problem: name it after SFT, as in ``sft-dpo+bolt``. Costs all responses, written and judged.
    """

    name: ClassVar[str] = "bolt"
    title: ClassVar[str] = "BOLT"
    source: ClassVar[str] = "arXiv 2502.03860, section 3.3"
    asks: ClassVar[tuple[str, ...]] = ("rewards",)
    trained: ClassVar[int] = 2
    beta: Positive = 0.1
    samples: Annotated[int, Within(2, 1024)] = 8

    @property
    def counts(self) -> tuple[int, int]:
        return self.samples, self.trained

    def of_group(self, group: ResponseGroup) -> Array:
        margin = self.beta * _less(group.ratio)
        xp = array_namespace(margin)
        return xp.sum(self.law(group) * softplus(-margin), axis=(-2, -1))

    @property
    def writers(self) -> tuple[Writer, ...]:
        return tuple("policy" for _ in range(self.samples))

    def kept(self, rewards: Float[np.ndarray, "n N"]) -> Int[np.ndarray, "n 2"]:
        return np.stack([rewards.argmax(axis=1), rewards.argmin(axis=1)], axis=1)

    def of_written(self, group: WrittenGroup) -> Array:
        return _of_winner(self.beta, group)

    def law(self, group: ResponseGroup) -> Array:
        """(n, K, K) probability that the first is the best and the second the worst, a constant.

        Of several responses of the best or worst reward, the first one written counts.
        """
        share = array_namespace(group.log_probs).exp(fixed(group.log_probs))
        xp = array_namespace(share)
        above = _less(group.rewards)
        zero, all_of = xp.zeros_like(above), share[..., None, :] + 0 * above
        level = xp.sum(xp.where(above == 0, all_of, zero), axis=-1)
        below = xp.sum(xp.where(above >= 0, all_of, zero), axis=-1)
        # All n draws lie between both levels, less those that miss the one, the other, or both.
        top, bottom = level[..., :, None], level[..., None, :]
        between = below[..., :, None] - below[..., None, :] + bottom
        chances = [
            xp.clip(between - cut, min=0.0) ** self.samples
            for cut in (0 * between, top, bottom, top + bottom)
        ]
        both = xp.clip(chances[0] - chances[1] - chances[2] + chances[3], min=0.0)
        within = share / xp.where(level > 0, level, level + 1)
        found = both * within[..., :, None] * within[..., None, :]
        return xp.where(above > 0, found, zero)


def _of_winner(beta: float, group: WrittenGroup) -> Array:
    """(n,) DPO of the first two responses, of which that of more reward wins; zero for a tie."""
    rewards: Array = group.rewards
    better = rewards[..., 0] - rewards[..., 1]
    margin = beta * (group.ratio[..., 0] - group.ratio[..., 1])
    xp = array_namespace(margin)
    sides = xp.where(better > 0, softplus(-margin), softplus(margin))
    return xp.where(better == 0, xp.zeros_like(margin), sides)


def _less(values: Array) -> Array:
    """(n, K, K) differences: the first less the second."""
    return values[..., :, None] - values[..., None, :]
