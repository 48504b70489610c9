"""Losses of demonstrations that the policy goes on from, with rewards of an exact judge."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from tradeoff.methods.losses.base import SftLoss
from tradeoff.methods.losses.records import Array, Responses
from tradeoff.settings import NotNegative, Share, Within

Group = Annotated[int, Within(2, 256)]


@dataclass(frozen=True, eq=False)
class RolledOut:
    """Responses that a policy wrote to B prompts, N to each.

    Attributes
    ----------
    rewards
        (B, N) rewards of the judge.
    begun
        (B, N, T) whether a token is of the demonstration that the response begins with.
    own
        (B, N, T) whether the policy wrote it.
    entropies
        (B, T) entropy of the policy where it predicts each token of the last response of a group,
        in nats, if the loss asks for it; zeros otherwise.
    """

    rewards: Float[np.ndarray, "B N"]
    begun: Bool[np.ndarray, "B N T"]
    own: Bool[np.ndarray, "B N T"]
    entropies: Float[np.ndarray, "B T"]

    @property
    def advantages(self) -> Float[np.ndarray, "B N"]:
        """Rewards less their mean in the group, over their standard deviation (GRPO)."""
        apart = self.rewards - self.rewards.mean(axis=1, keepdims=True)
        spread = self.rewards.std(axis=1, keepdims=True)
        return np.asarray(np.where(spread > 0, apart / np.maximum(spread, 1e-12), 0.0))

    @property
    def shares(self) -> Float[np.ndarray, "B N 1"]:
        """What each token of a response counts in the mean over all responses."""
        tokens = (self.begun | self.own).sum(axis=2, keepdims=True)
        return np.asarray(1 / (self.rewards.size * np.maximum(tokens, 1)))


@dataclass(frozen=True, kw_only=True)
class Rollouts(SftLoss):
    """Policy gradient of responses that the policy writes, some after a part of a demonstration.

    Attributes
    ----------
    group
        Responses to each prompt.
    by_entropy
        Whether it asks for entropies of the last response of a group, a class attribute.
    """

    by_token: ClassVar[bool] = True
    by_entropy: ClassVar[bool] = False
    group: Group = 8

    def losses(self, tokens: Responses) -> Array:
        weights = tokens.weights
        return -tokens.log_probs if weights is None else -weights * tokens.log_probs

    @property
    def forwards(self) -> float:
        # A response costs a pass to write, and three to learn from; one gradient is counted before.
        return 4.0 * self.group - 3.0 + float(self.by_entropy)

    @abstractmethod
    def hints(self, progress: float, coins: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
        """Share of the demonstration that each response begins with, in [0, 1].

        Parameters
        ----------
        progress
            Share of the updates of the stage that are done, in [0, 1).
        coins
            Draws from [0, 1).
        """

    @abstractmethod
    def weights(self, written: RolledOut) -> Float[np.ndarray, "B N T"]:
        """Weights of the negative log-probabilities of all tokens, whose sum is the loss."""

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex":
            return "every response is one token there, which has no part to go on from"
        if scale == "llm":
            return "the trainer writes no responses while it trains, and has no exact judge"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class PrefixRft(Rollouts):
    """Groups of own responses and one that begins with a demonstration (Prefix-RFT).

    The reward is 1 for the demonstrated response, else 0. Own tokens count by the advantage in the
    group. Tokens of the prefix count by the reward less the mean reward of the other responses,
    where the policy is least sure of them.

    Attributes
    ----------
    group
        As for :class:`Rollouts`.
    high
        Largest share of a demonstration in a prefix, in [0, 1]. The share is drawn between it and
        a bound that falls from there to zero over the stage, as a cosine.
    kept
        Share of the prefix tokens that count, from that of the largest entropy on, in [0, 1].

    Notes
    -----
    Card S27. One update for each group, so that nothing is clipped. Costs a pass to write and a
    gradient for each response, and a pass of the last ones for their entropies.
    """

    name: ClassVar[str] = "prefix_rft"
    title: ClassVar[str] = "Prefix-RFT"
    source: ClassVar[str] = "arXiv 2507.01679"
    by_entropy: ClassVar[bool] = True
    high: Share = 0.95
    kept: Share = 0.2

    def hints(self, progress: float, coins: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
        low = self.high * (1 + np.cos(np.pi * progress)) / 2
        found = np.zeros_like(coins)
        found[:, -1] = low + (self.high - low) * coins[:, -1]
        return found

    def weights(self, written: RolledOut) -> Float[np.ndarray, "B N T"]:
        found = written.advantages[:, :, None] * written.own
        gain = written.rewards[:, -1] - written.rewards[:, :-1].mean(axis=1)
        for row, (begun, entropy) in enumerate(
            zip(written.begun[:, -1], written.entropies, strict=True)
        ):
            places = np.flatnonzero(begun)
            count = int(np.ceil(self.kept * len(places)))
            best = places[np.argsort(-entropy[places], kind="stable")[:count]]
            found[row, -1, best] = gain[row]
        return np.asarray(found * written.shares)


@dataclass(frozen=True, kw_only=True)
class HintedRollouts(Rollouts):
    """Groups of responses that all begin with a part of the demonstration, and SFT on that part.

    The reward is 1 for the demonstrated response, else 0.

    Attributes
    ----------
    group
        As for :class:`Rollouts`.
    start
        Share of the demonstration in the first hints, in [0, 1]; 0 is GRPO.
    until
        Share of the updates of a stage over which hints shorten to nothing, as a cosine.
    hint
        Weight of SFT on the tokens of hints, not negative.

    Notes
    -----
    Card J49 (UFT). One update for each group, so that nothing is clipped. Costs a pass to write and
    a gradient for each response.
    """

    name: ClassVar[str] = "uft_rl"
    title: ClassVar[str] = "UFT (hints)"
    source: ClassVar[str] = "arXiv 2505.16984"
    start: Share = 0.95
    until: Annotated[float, Within(0, 1, "(]")] = 0.6
    hint: NotNegative = 0.001

    def hints(self, progress: float, coins: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
        left = (1 + np.cos(np.pi * min(progress / self.until, 1.0))) / 2
        return np.full_like(coins, self.start * left)

    def weights(self, written: RolledOut) -> Float[np.ndarray, "B N T"]:
        found = written.advantages[:, :, None] * written.own * written.shares
        return np.asarray(found + self.hint * written.begun / max(1, written.begun.sum()))
