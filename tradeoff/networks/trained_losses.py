"""Losses of methods on small networks: the interface of their tasks, and their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tradeoff.methods.after import Resa
from tradeoff.methods.losses import (
    Pairs,
    PreferenceLoss,
    ResponseGroup,
    Responses,
    SftLoss,
    TokenWeighted,
)
from tradeoff.methods.losses.base import losses_of
from tradeoff.methods.losses.groups import Grouped
from tradeoff.methods.losses.records import WrittenGroup
from tradeoff.methods.losses.rollouts import Rollouts
from tradeoff.methods.transforms import Retrieved, Written


@dataclass(frozen=True)
class Tokens:
    """Log-probabilities of the tokens of some demonstrations.

    Attributes
    ----------
    log_probs
        (B, T), in nats; or (M,), with the demonstrations one after the other.
    counted
        Mask of the same shape: 1 at a token of the response, 0 at padding.
    owners
        (M,) number of the demonstration of each token, if they follow one another.
    weights
        Weight of each token, of the same shape; None: ones.
    entropies
        Entropy of the policy where it predicts each token, of the same shape, in nats, as
        constants; None where they were not asked for.
    """

    log_probs: Tensor
    counted: Tensor
    owners: Int[Tensor, " M"] | None = None
    weights: Tensor | None = None
    entropies: Tensor | None = None

    def sums(self, values: Tensor, rows: int) -> Float[Tensor, " B"]:
        """Sum of the values of each demonstration's tokens."""
        kept = values * self.counted
        if self.owners is None:
            return kept.sum(-1)
        return kept.new_zeros(rows).index_add(0, self.owners, kept)


@runtime_checkable
class RecordsTask(Protocol):
    """Members beyond `tasks.Task` that a task needs for methods with their own losses."""

    def tokens(self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]) -> Tokens:
        """Log-probabilities of the tokens of training demonstrations under one run."""

    def pair_log_probs(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B 2"]]:
        """Log-probabilities and lengths of both responses of training pairs under one run."""


@dataclass(frozen=True)
class Reading:
    """What the policy reads in place of the tokens of some demonstrations, and what these weigh.

    Attributes
    ----------
    hidden
        (B, time) where a response token is replaced by padding, if it is read; None: nowhere.
    fed_back
        Share of the policy's likeliest tokens in the embeddings of response tokens.
    weights
        (N, time) weight of each token of all N training demonstrations; None: ones.
    entropies
        Whether the loss asks for the entropy of the policy at each token.
    """

    hidden: Bool[Tensor, "B time"] | None = None
    fed_back: float = 0.0
    weights: Float[Tensor, "N time"] | None = None
    entropies: bool = False


@runtime_checkable
class WeightedTask(Protocol):
    """Members of a task that knows what the tokens of demonstrations are, for losses that ask."""

    def token_weights(self, loss: TokenWeighted) -> Float[Tensor, "N time"]:
        """Weight of each token of the training demonstrations, of mean one over all of them."""

    def read(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"], reading: Reading
    ) -> Tokens:
        """As `RecordsTask.tokens`, with weights, or where the policy reads something else."""


@runtime_checkable
class TokenTask(WeightedTask, Protocol):
    """Members of a task whose responses have several tokens, for methods that look at these."""

    @property
    def time(self) -> int:
        """Length of the table of the tokens of demonstrations."""

    def weighted_pairs(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"], loss: PreferenceLoss
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B 2"]]:
        """As `RecordsTask.pair_log_probs`, with the weights that a loss gives to tokens."""

    def rollouts(
        self,
        params: Mapping[str, Tensor],
        index: Int[Tensor, " B"],
        loss: Rollouts,
        progress: float,
        coins: Float[np.ndarray, "B N"],
        seed: int,
    ) -> Float[Tensor, ""]:
        """Loss of responses that one run writes to the prompts of some demonstrations."""

    def demonstrated_logits(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> list[Float[Tensor, "_ vocabulary"]]:
        """Logits of each token of the responses of some training demonstrations."""


@runtime_checkable
class FiniteTask(Protocol):
    """Member of a task with finitely many responses, for losses with a divergence."""

    def every_log_prob(
        self, params: Mapping[str, Tensor], objective: int, index: Int[Tensor, " B"]
    ) -> Float[Tensor, "B K"]:
        """Log-probabilities of all responses to the prompts of some training rows."""


@runtime_checkable
class JudgedTask(Protocol):
    """Member of a task whose responses a judge can rate, for losses of written responses."""

    def judged(self, reference: Mapping[str, Tensor]) -> Float[Tensor, "R J K"]:
        """Rewards of all responses to the prompts of all training pairs, for stacked references."""


@runtime_checkable
class WritingTask(Protocol):
    """Member of a task with too many responses to list, and an exact judge of those written."""

    def written(
        self,
        params: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
        index: Int[Tensor, " B"],
        loss: Grouped,
        seed: int,
    ) -> WrittenGroup:
        """Responses to the prompts of some training pairs, as a loss wants them."""


@runtime_checkable
class ViewTask(Protocol):
    """Members of a task whose prompts are numbers to the policy, for anchors of views."""

    @property
    def prompt_size(self) -> int:
        """How many numbers a prompt consists of, at most."""

    def viewed(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        index: Int[Tensor, " B"],
        factors: Float[Tensor, "B dx"] | None = None,
    ) -> tuple[Float[Tensor, "M K"], Float[Tensor, " M"] | None]:
        """Log-probabilities of all K responses, or next tokens, where prompts are times factors.

        And what each of the M places counts; None: all alike.
        """


@runtime_checkable
class FeatureTask(Protocol):
    """Members of a task whose last layer has features, for anchors that keep these."""

    @property
    def head_name(self) -> str:
        """Name of the parameter that maps features to logits, whatever else it is used for."""

    def features(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> Float[Tensor, "M w"]:
        """Features of training demonstrations, the input of the last layer."""

    def responses(self, index: Int[Tensor, "*runs B"]) -> Int[Tensor, "*runs M"]:
        """Demonstrated responses, or next tokens, of these features, from 0 on."""


@runtime_checkable
class LookedUpTask(Protocol):
    """Member of a task whose demonstrations can be looked up."""

    def looked_up(self, transform: Retrieved) -> Any:
        """The task with demonstrations as a transform writes them, to train on."""


@runtime_checkable
class RewritingTask(Protocol):
    """Member of a task whose policy can write responses in place of those of its rows."""

    def rewritten(self, transform: Written) -> Any:
        """The task with rows as a transform has them written, to train on."""


@runtime_checkable
class AddedTask(Protocol):
    """Member of a task whose networks take what a method adds to them.

    Names of parameters tell of it, see `tradeoff.methods.parameters.added`.
    """

    def expert_shares(
        self, params: Mapping[str, Tensor], objective: int, index: Int[Tensor, " B"]
    ) -> Float[Tensor, "L B E"]:
        """Shares of the experts in each layer, for the prompts of some training rows."""


@runtime_checkable
class CarryingTask(Protocol):
    """Member of a task whose networks have hidden layers, for what is read through them."""

    def carried(
        self,
        source: dict[str, Tensor],
        base: dict[str, Tensor],
        part: Resa,
        updates: int,
        rows: int,
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        """Stacked weights of a base with what an adapter learned behind a source's autoencoder."""


@runtime_checkable
class ThinkingTask(Protocol):
    """Member of a task whose language models read latent vectors before each response.

    The parameter `tradeoff.methods.parameters.added.LATENT` has them.
    """

    def thoughts(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> Float[Tensor, "B some width"]:
        """States of the last layer in some training demonstrations under one run.

        They are that of the prompt's last token; the means over the prompt and over the response;
        and those of the latent vectors.
        """


def sft_value(
    loss: SftLoss,
    tokens: Tokens,
    reference: Tensor | None,
    rows: int,
    apart: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean loss of some demonstrations, over tokens or, if the loss says so, over responses.

    Parameters
    ----------
    loss
        The loss.
    tokens
        Log-probabilities under the policy.
    reference
        Log-probabilities of the same tokens under the reference policy, if the loss needs them.
    rows
        Number of demonstrations.
    apart
        Divergences from the reference, if the loss needs them; a response is then one token.
    """
    if loss.per_response:
        lengths = tokens.sums(torch.ones_like(tokens.log_probs), rows)
        known = None if reference is None else tokens.sums(reference, rows)
        own = tokens.sums(tokens.log_probs, rows)
        return losses_of(loss, Responses(own, known, lengths)).mean()
    of_tokens = tokens.entropies if apart is None else apart[:, None]
    record = Responses(tokens.log_probs, reference, None, of_tokens, tokens.weights)
    values = losses_of(loss, record)
    return (values * tokens.counted).sum() / tokens.counted.sum()


def pair_value(
    loss: PreferenceLoss,
    log_probs: Float[Tensor, "B 2"],
    lengths: Float[Tensor, "B 2"],
    reference: Float[Tensor, "B 2"] | None,
    apart: Float[Tensor, " B"] | None = None,
    group: ResponseGroup | None = None,
) -> Float[Tensor, ""]:
    """Mean loss of some pairs.

    Parameters
    ----------
    loss
        The loss.
    log_probs, lengths
        Log-probabilities of both responses under the policy; their numbers of tokens.
    reference
        Log-probabilities under the reference policy, if the loss needs them.
    apart
        Divergences from the reference, if the loss needs them.
    group
        All responses to the prompts, if the loss looks at them.
    """
    known = (None, None) if reference is None else reference.unbind(1)
    sides = zip(log_probs.unbind(1), known, lengths.unbind(1), strict=True)
    pairs = Pairs(*(Responses(*side, apart) for side in sides), group=group)
    return losses_of(loss, pairs).mean()
