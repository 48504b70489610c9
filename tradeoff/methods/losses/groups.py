"""Policy gradients of groups of written responses, whose rewards are compared within a group.

Where all responses to a prompt are known, no group is drawn: a loss is the mean over all groups, as
if they were without end. Its cost is that of groups of the published size. Where there are too many
responses, as in a language model, groups of that size are written, and an exact judge rates them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Float, Int

from tradeoff.methods.losses.base import PreferenceLoss
from tradeoff.methods.losses.records import Array, Pairs, ResponseGroup, WrittenGroup, fixed
from tradeoff.schedules import FORWARD
from tradeoff.settings import NotNegative, Within

Writer = Literal["policy", "reference"]
"""Who writes a response."""
SIZE = 8
"""Responses of a group."""
SMALL = 1e-6
"""Added to the standard deviation of a group's rewards, so that equal rewards give no slope."""


@dataclass(frozen=True, kw_only=True)
class Grouped(PreferenceLoss):
    """A loss of all responses to the prompt of a pair, in place of the pair.

    Attributes
    ----------
    written, trained
        Responses to a prompt that the published method writes and has judged, and those whose
        gradients it takes, class attributes; both count in ``cost``.
    """

    grouped: ClassVar[bool] = True
    stopped: ClassVar[bool] = True
    written: ClassVar[int] = SIZE
    trained: ClassVar[int] = SIZE

    @property
    def counts(self) -> tuple[int, int]:
        """Responses to a prompt that are written, and those whose gradients are taken."""
        return self.written, self.trained

    @property
    def cost(self) -> float:
        return cost_of(*self.counts, self.needs_reference)

    def priced(self, pair: float, response: float | None = None) -> float:
        if response is None or not self.writers:
            return super().priced(pair)
        written, trained = self.counts
        # The judge is a rule, which costs no pass.
        return response * (FORWARD * (written + self.needs_reference * trained) + trained)

    @abstractmethod
    def of_group(self, group: ResponseGroup) -> Array:
        """(n,) one loss for each prompt, given all its responses."""

    @property
    def writers(self) -> tuple[Writer, ...]:
        """Who writes each response to a prompt, where responses are drawn.

        Empty where the loss needs all responses.
        """
        return ()

    @property
    def drawn_at(self) -> float:
        """Temperature at which responses are drawn."""
        return 1.0

    def kept(self, rewards: Float[np.ndarray, "n N"]) -> Int[np.ndarray, "n K"]:
        """Numbers of the written responses that are trained on, as many to each prompt.

        Parameters
        ----------
        rewards
            Of all written responses, by an exact judge.
        """
        return np.tile(np.arange(rewards.shape[1]), (len(rewards), 1))

    def of_written(self, group: WrittenGroup) -> Array:
        """(n,) one loss for each prompt, given the written responses that are :meth:`kept`."""
        return self.of_group(group)

    def losses(self, pairs: Pairs) -> Array:
        return self.of_group(pairs.known_group)

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "the trainer writes no responses while it trains"
        return super().unsupported(scale)


def cost_of(written: int, trained: int, reference: bool) -> float:
    """Cost of responses to a prompt, in gradients of a given pair.

    Parameters
    ----------
    written
        Responses that are written and judged: a forward pass for each of both.
    trained
        Responses whose gradients are taken. A gradient of a given pair has two of them.
    reference
        Whether the reference policy reads those, too, which costs a forward pass each.
    """
    return (FORWARD * (2 * written + reference * trained) + trained) / 2


@dataclass(frozen=True, kw_only=True)
class Grpo(Grouped):
    """Policy gradient of rewards, less their mean in a group and over their deviation (GRPO).

    Without a divergence from the reference, and without clipping, as the policy that writes is the
    one that is trained. Where all responses are known, the judge is a linear reward that is fitted
    to the training pairs, see :func:`tradeoff.methods.losses.judges.fitted_reward`, as no verifier
    exists for such problems. A response that is drawn counts by the mean over its tokens, and its
    judge is exact.

    Notes
    -----
    Identity I24: with rewards of 0 and 1 this ascends the mean of ``2 arcsin(sqrt(p))``, where p is
    the probability of a response of reward 1. Costs eight responses that are written, judged and
    trained on.
    """

    name: ClassVar[str] = "grpo"
    title: ClassVar[str] = "GRPO"
    source: ClassVar[str] = "arXiv 2402.03300, section 4.1"
    needs_reference: ClassVar[bool] = False
    asks: ClassVar[tuple[str, ...]] = ("rewards",)

    def of_group(self, group: ResponseGroup) -> Array:
        xp = array_namespace(group.log_probs)
        share = group.shares
        rewards = self.rewards(group)
        excess = rewards - xp.sum(share * rewards, axis=-1, keepdims=True)
        spread = xp.sqrt(xp.sum(share * excess**2, axis=-1, keepdims=True))
        gain = self.advantages(excess / (spread + SMALL), group)
        return -xp.sum(share * gain * group.per_token(group.finite), axis=-1)

    @property
    def writers(self) -> tuple[Writer, ...]:
        return tuple("policy" for _ in range(self.written))

    def rewards(self, group: ResponseGroup) -> Array:
        """(n, K) rewards of the responses."""
        return group.rewards

    def advantages(self, plain: Array, group: ResponseGroup) -> Array:
        """(n, K) advantages, given those of GRPO."""
        return plain


@dataclass(frozen=True, kw_only=True)
class Egpo(Grpo):
    """GRPO with a bonus for the entropy of the policy in each advantage A, under a bound.

    The bonus is the lesser of ``alpha H`` and ``|A| / kappa``, where H is the entropy at the prompt
    in nats. It lifts good responses and spares bad ones, and no advantage changes its sign. Where
    responses are drawn, H is the group's mean negative log-probability per token, which estimates
    the entropy per token.

    Attributes
    ----------
    alpha
        Weight of the entropy; not negative, 0 is GRPO.
    kappa
        Bound of the bonus; above 1.

    Notes
    -----
    Card S20, after a second-hand description. The published formula is not known; this form, its
    settings and its judge, which is that of :class:`Grpo`, are ours. Costs as GRPO.
    """

    name: ClassVar[str] = "egpo"
    title: ClassVar[str] = "EGPO"
    source: ClassVar[str] = "arXiv 2508.05118"
    alpha: NotNegative = 0.4
    kappa: Annotated[float, Within(1, 1e6, "(]")] = 2.0

    def advantages(self, plain: Array, group: ResponseGroup) -> Array:
        xp = array_namespace(plain)
        known = fixed(group.per_token(group.finite))
        entropy = -xp.sum(group.shares * known, axis=-1, keepdims=True)
        return plain + xp.minimum(self.alpha * entropy + 0 * plain, xp.abs(plain) / self.kappa)


@dataclass(frozen=True, kw_only=True)
class SemanticReward(Grpo):
    """GRPO whose reward is the likeness of a response to the reference answer.

    Likeness is the cosine of the features of both, which is 1 for the reference answer itself. That
    answer is the chosen response of a pair; the rejected one is not looked at, and there is no
    judge. Features of a written response are the mean states of the base model's last layer at its
    tokens.

    Notes
    -----
    Card S24, a transfer of an abstract: features stand for a frozen encoder, and chosen responses
    for expert explanations. Costs as GRPO, with the encoder in place of the judge.
    """

    name: ClassVar[str] = "semantic_reward"
    title: ClassVar[str] = "semantic reward"
    source: ClassVar[str] = "arXiv 2509.13081"
    asks: ClassVar[tuple[str, ...]] = ("likeness",)

    def rewards(self, group: ResponseGroup) -> Array:
        return group.likeness

    def priced(self, pair: float, response: float | None = None) -> float:
        # The encoder reads all responses and the chosen one.
        encoded = 0.0 if response is None else response * FORWARD * (self.written + 1)
        return super().priced(pair, response) + encoded
