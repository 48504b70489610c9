"""The load-balancing loss of mixtures of experts, as transformers defines it.

Without it, training may send more and more tokens to a few experts. TRL adds it if a model asks for
it; here it is a setting, ``router_loss``.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tradeoff.errors import InputError
from tradeoff.llm.batches import Batch
from tradeoff.llm.models import below_adapters


def experts_per_token(model: nn.Module) -> int | None:
    """Number of experts for each token; None if the model exposes no routers."""
    config: Any = below_adapters(model).config.get_text_config()
    if not hasattr(config, "router_aux_loss_coef"):
        return None
    found = getattr(config, "num_experts_per_tok", None)
    return None if found is None else int(found)


def check(model: nn.Module, weight: float | None) -> None:
    """Raise an `InputError` if a weight is given for a model without routers."""
    if weight and experts_per_token(model) is None:
        raise InputError(
            "the model has no routers",
            field="router_loss",
            value=weight,
            remedy="Leave it out; it is for mixtures of experts.",
        )


def balance(
    logits: tuple[Float[Tensor, "*T E"], ...], used: Bool[Tensor, " T"], experts: int
) -> Float[Tensor, ""]:
    """Load-balancing loss of a pass over all layers; it is ``experts`` if tokens are spread evenly.

    The loss is ``E * sum_e f_e p_e``, with the share of assignments f_e and the mean probability
    p_e of expert e (arXiv 2101.03961, equations 4 to 6). Shares are counted for each of the
    `experts`.

    Parameters
    ----------
    logits
        Logits of each layer's router, for T tokens and E experts.
    used
        (T,) False at padding.
    experts
        Number of experts for each token.
    """
    weight = used.to(torch.float32)
    assigned: list[Tensor] = []
    likely: list[Tensor] = []
    for layer in logits:
        shares = layer.reshape(-1, layer.shape[-1]).float().softmax(-1)
        chosen = torch.zeros_like(shares).scatter_(1, shares.topk(experts, dim=-1).indices, 1.0)
        assigned.append(weight @ chosen)
        likely.append(weight @ shares)
    total = weight.sum() * len(logits)
    frequency, probability = torch.stack(assigned).sum(0), torch.stack(likely).sum(0)
    return logits[0].shape[-1] * (frequency / total * probability / total).sum()


def used(batch: Batch) -> Bool[Tensor, " T"]:
    """Mask of the tokens of a pass, False at padding."""
    if batch.ends is None:
        return torch.ones_like(batch.tokens, dtype=torch.bool).flatten()
    places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    return (places < batch.ends[:, None]).flatten()
