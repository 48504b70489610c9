"""The load-balancing loss of mixtures of experts, as transformers defines it.

Without it, training may send ever more tokens to few experts. TRL adds it where a model asks for
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
    """How many experts each token is sent to; None where a model has no routers that it shows."""
    config: Any = below_adapters(model).config.get_text_config()
    if not hasattr(config, "router_aux_loss_coef"):
        return None
    found = getattr(config, "num_experts_per_tok", None)
    return None if found is None else int(found)


def check(model: nn.Module, weight: float | None) -> None:
    """An `InputError` if a weight is given for a model without routers."""
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
    """Load-balancing loss of a pass over all layers; ``experts`` where tokens are spread evenly.

    ``E * sum_e f_e p_e``, with the share of assignments f_e and the mean probability p_e of
    expert e (arXiv 2101.03961, equations 4 to 6); shares are counted for each of the `experts`.

    Parameters
    ----------
    logits
        Of each layer's router, for T tokens and E experts.
    used
        (T,) whether a token is none that only fills a row.
    experts
        Experts that each token is sent to.
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
    """Which tokens of a pass are none that only fill a row."""
    if batch.ends is None:
        return torch.ones_like(batch.tokens, dtype=torch.bool).flatten()
    places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    return (places < batch.ends[:, None]).flatten()
