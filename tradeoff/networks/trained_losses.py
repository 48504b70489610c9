"""Losses of methods on small networks: what they need of a task, and their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tradeoff.methods.losses import Pairs, PreferenceLoss, Responses, SftLoss


@dataclass(frozen=True)
class Tokens:
    """Log-probabilities of the tokens of some demonstrations.

    Attributes
    ----------
    log_probs
        (B, T), in nats; or (M,), of all demonstrations after one another.
    counted
        Of the same shape: 1 where a token is of the response, 0 where it fills up.
    owners
        (M,) number of the demonstration of each token, where they stand after one another.
    """

    log_probs: Tensor
    counted: Tensor
    owners: Int[Tensor, " M"] | None = None

    def sums(self, values: Tensor, rows: int) -> Float[Tensor, " B"]:
        """Sum of the values of each demonstration's tokens."""
        kept = values * self.counted
        if self.owners is None:
            return kept.sum(-1)
        return kept.new_zeros(rows).index_add(0, self.owners, kept)


@runtime_checkable
class RecordsTask(Protocol):
    """What methods with losses of their own ask of a task, beside `tasks.Task`."""

    def tokens(self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]) -> Tokens:
        """Log-probabilities of the tokens of training demonstrations under one run."""

    def pair_log_probs(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B 2"]]:
        """Log-probabilities of both responses of training pairs under one run, and lengths."""


@runtime_checkable
class FiniteTask(Protocol):
    """What losses with a divergence ask of a task: all responses of each prompt."""

    def every_log_prob(
        self, params: Mapping[str, Tensor], objective: int, index: Int[Tensor, " B"]
    ) -> Float[Tensor, "B K"]:
        """Log-probabilities of all responses to the prompts of some training rows."""


def sft_value(
    loss: SftLoss,
    tokens: Tokens,
    reference: Tensor | None,
    rows: int,
    apart: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean loss of some demonstrations: over their tokens, or over responses if the loss is so.

    Parameters
    ----------
    loss
        The loss.
    tokens
        Under the policy.
    reference
        Log-probabilities of the same tokens under the reference policy, if the loss needs them.
    rows
        How many demonstrations these are.
    apart
        Divergences from the reference, if the loss asks for them; responses are then one token.
    """
    if loss.per_response:
        lengths = tokens.sums(torch.ones_like(tokens.log_probs), rows)
        known = None if reference is None else tokens.sums(reference, rows)
        own = tokens.sums(tokens.log_probs, rows)
        return loss.losses(Responses(own, known, lengths)).mean()
    values = loss.losses(
        Responses(tokens.log_probs, reference, None, None if apart is None else apart[:, None])
    )
    return (values * tokens.counted).sum() / tokens.counted.sum()


def pair_value(
    loss: PreferenceLoss,
    log_probs: Float[Tensor, "B 2"],
    lengths: Float[Tensor, "B 2"],
    reference: Float[Tensor, "B 2"] | None,
    apart: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean loss of some pairs.

    Parameters
    ----------
    loss
        The loss.
    log_probs, lengths
        Of both responses under the policy; tokens of each.
    reference
        Log-probabilities under the reference policy, if the loss needs them.
    apart
        Divergences from the reference, if the loss asks for them.
    """
    known = (None, None) if reference is None else reference.unbind(1)
    sides = zip(log_probs.unbind(1), known, lengths.unbind(1), strict=True)
    return loss.losses(Pairs(*(Responses(*side, apart) for side in sides))).mean()
