"""Both losses of SRFT, which trains on demonstrations and on its own responses in one stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.losses.base import Direction
from tradeoff.methods.losses.demonstrations import Luffy, Weighted
from tradeoff.methods.losses.groups import Grouped, Writer
from tradeoff.methods.losses.records import Array, ResponseGroup, Responses, WrittenGroup, fixed
from tradeoff.settings import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class SrftDemonstrations(Weighted):
    """SFT that counts by the entropy H of the policy, and the shape of LUFFY beside it.

    The weight is ``half exp(sign H) + gamma p / (p + gamma)^2``, where H is in nats. In a language
    model p and H are those of each token.

    Attributes
    ----------
    half
        Weight of SFT where the policy is certain; not negative.
    sign
        Factor of the entropy in the exponent. -1: SFT counts less where the policy is open.
    gamma
        As for :class:`Luffy`; positive.

    Notes
    -----
    Card J45, after a second-hand description: a re-implementation has -1, and the authors' code is
    said to have 1. With no entropy this is a half of SFT plus LUFFY. Costs nothing more.
    """

    name: ClassVar[str] = "srft_demonstrations"
    title: ClassVar[str] = "SRFT demonstrations"
    source: ClassVar[str] = "arXiv 2506.19767"
    compares: ClassVar[Direction | None] = "entropy"
    half: NotNegative = 0.5
    sign: float = -1.0
    gamma: Positive = 0.1

    def weights(self, tokens: Responses) -> Array:
        known = tokens.divergence
        entropy = 0 * tokens.log_probs if known is None else known
        certain = array_namespace(entropy).exp(self.sign * entropy)
        return self.half * certain + Luffy(gamma=self.gamma).weights(tokens)

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "the trainer keeps no probabilities of other tokens, and so no entropy"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class SrftOwn(Grouped):
    """Policy gradient of own responses: right ones count by the entropy H, wrong ones as minus one.

    A response is right if the judge, see :class:`tradeoff.methods.losses.groups.Grpo`, gives it
    more than the policy's mean; the gain of a right one is ``right exp(sign H)``. Where responses
    are drawn, the judge is exact, a response is right if its reward is 1, and each counts by the
    mean over its tokens; H is the group's mean negative log-probability per token.

    Attributes
    ----------
    right
        Gain of a right response where the policy is certain; not negative.
    sign
        Factor of the entropy in the exponent.

    Notes
    -----
    Card J45, after a second-hand description. A verifier tells right from wrong in the published
    method, and the judge here is ours. Costs as GRPO.
    """

    name: ClassVar[str] = "srft_own"
    title: ClassVar[str] = "SRFT own responses"
    source: ClassVar[str] = "arXiv 2506.19767"
    needs_reference: ClassVar[bool] = False
    asks: ClassVar[tuple[str, ...]] = ("rewards",)
    right: NotNegative = 0.1
    sign: float = 1.0

    def of_group(self, group: ResponseGroup) -> Array:
        mean = array_namespace(group.log_probs).sum(
            group.shares * group.rewards, axis=-1, keepdims=True
        )
        return self._of_right(group, group.rewards > mean)

    @property
    def writers(self) -> tuple[Writer, ...]:
        return tuple("policy" for _ in range(self.written))

    def of_written(self, group: WrittenGroup) -> Array:
        return self._of_right(group, group.rewards == 1)

    def _of_right(self, group: ResponseGroup, right: Array) -> Array:
        xp = array_namespace(group.log_probs)
        known, share = fixed(group.per_token(group.finite)), group.shares
        entropy = -xp.sum(share * known, axis=-1, keepdims=True)
        gain = self.right * xp.exp(self.sign * entropy) + 0 * share
        gain = xp.where(right, gain, xp.zeros_like(gain) - 1)
        return -xp.sum(share * gain * group.per_token(group.finite), axis=-1)
