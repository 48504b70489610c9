"""The two objectives of a batch, and what is told about them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tradeoff import objectives
from tradeoff.llm.config import TrainConfig


@dataclass(frozen=True)
class PairLosses:
    """One value per pair.

    Attributes
    ----------
    loss
        Preference loss.
    chosen, rejected
        beta (log pi - log pi_ref) of each response: the implicit rewards.
    """

    loss: Float[Tensor, " n"]
    chosen: Float[Tensor, " n"]
    rejected: Float[Tensor, " n"]

    def sums(self) -> dict[str, Tensor]:
        """Sums over the pairs, under the names of TRL."""
        chosen, rejected = self.chosen.detach(), self.rejected.detach()
        return {
            "loss": self.loss.detach().sum(),
            "rewards/chosen": chosen.sum(),
            "rewards/rejected": rejected.sum(),
            "rewards/margins": (chosen - rejected).sum(),
            "rewards/accuracies": (chosen > rejected).sum().to(chosen.dtype),
        }


def preference(
    log_probs: Float[Tensor, " S"],
    reference: Float[Tensor, " S"],
    lengths: Int[Tensor, " S"],
    config: TrainConfig,
) -> PairLosses:
    """Preference losses of n pairs.

    Parameters
    ----------
    log_probs, reference
        log pi(y|x) and log pi_ref(y|x), in nats; S = 2n, all chosen responses first.
    lengths
        Tokens of each response.
    config
        Names the loss, its beta and its label smoothing.
    """
    kind = objectives.PREFERENCE_LOSSES[config.loss]
    ratio = log_probs - reference
    chosen, rejected = ratio.chunk(2)
    scored = (ratio / lengths).chunk(2) if kind.per_token else (chosen, rejected)
    margins = objectives.margin(*scored)
    return PairLosses(
        kind.function(margins, config.beta, config.label_smoothing),
        config.beta * chosen,
        config.beta * rejected,
    )


def sft_sum(token_log_probs: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """Negative log-likelihood of all scored tokens; divide by their number over the update."""
    return -torch.sum(token_log_probs)
