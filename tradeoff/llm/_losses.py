"""The losses of both objectives on a batch, and the values that are logged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tradeoff import objectives
from tradeoff.llm.config import TrainConfig
from tradeoff.methods.losses import Pairs, PreferenceLoss, Responses, SftLoss
from tradeoff.methods.losses.base import losses_of


@dataclass(frozen=True)
class PairLosses:
    """Values of each pair.

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
        """Sums over the pairs, by the names of TRL."""
        chosen, rejected = self.chosen.detach(), self.rejected.detach()
        return {
            "loss": self.loss.detach().sum(),
            "rewards/chosen": chosen.sum(),
            "rewards/rejected": rejected.sum(),
            "rewards/margins": (chosen - rejected).sum(),
            "rewards/accuracies": (chosen > rejected).sum().to(chosen.dtype),
        }

    def dpo(self) -> Float[Tensor, " n"]:
        """The loss of DPO at these rewards, also if another loss is trained."""
        return objectives.dpo(self.chosen - self.rejected, 1.0)


def preference(
    log_probs: Float[Tensor, " S"],
    reference: Float[Tensor, " S"],
    lengths: Int[Tensor, " S"],
    config: TrainConfig,
    trained: PreferenceLoss | None = None,
) -> PairLosses:
    """Preference losses of n pairs.

    Parameters
    ----------
    log_probs, reference
        log pi(y|x) and log pi_ref(y|x), in nats; S = 2n, all chosen responses first.
    lengths
        Number of tokens of each response.
    config
        Settings with the loss, its beta, its label smoothing, and the weight of SFT on the chosen
        response.
    trained
        The loss in place of that of the settings, if a method trains another one.
    """
    parts = zip(*(part.chunk(2) for part in (log_probs, reference, lengths)), strict=True)
    pairs = Pairs(*(Responses(*part) for part in parts))
    loss = losses_of(trained or config.preference_loss(), pairs)
    if trained is None and config.chosen_nll:
        loss = loss - config.chosen_nll * pairs.chosen.per_token(pairs.chosen.log_probs)
    return PairLosses(
        loss,
        config.beta * pairs.chosen.ratio,
        config.beta * pairs.rejected.ratio,
    )


def sft_sum(
    token_log_probs: Float[Tensor, " M"],
    trained: SftLoss | None = None,
    weights: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, ""]:
    """Summed negative log-likelihood of the scored tokens; divide by their number over the update.

    Parameters
    ----------
    token_log_probs
        Log-probabilities in nats.
    trained
        The loss of a token in place of this, if a method trains another one.
    weights
        Weights of the tokens, if that loss has some.
    """
    if trained is None:
        return -torch.sum(token_log_probs)
    return torch.sum(losses_of(trained, Responses(token_log_probs, weights=weights)))
