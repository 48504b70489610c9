"""Checks of which tokens a model attends to, on a few short sequences before training.

A model that attends to later tokens, or to other rows of a pass, has small losses and learns
nothing from them, and no error would follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tradeoff.errors import InputError
from tradeoff.llm import batches, varlen
from tradeoff.llm._data import Pair
from tradeoff.llm._reference_values import evaluating
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.models import below_adapters, context, vocabulary

_LONG = 8192
"""Longest context, in tokens, up to which such a row is tried."""
UNFIT = (RuntimeError, TypeError, ValueError)
"""Errors of models that do not take a mask of some shape."""


def precise(model: torch.nn.Module) -> bool:
    """Whether all weights have at least 32 bits."""
    return all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())


@torch.no_grad()
def check_causal(policy: Policy) -> None:
    """Raise an `InputError` if a later token changes the predictions at all earlier ones."""
    base = below_adapters(policy.model)
    size, device = vocabulary(base), next(policy.parameters()).device
    tokens = torch.arange(6, device=device)[None] % size
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % size
    with evaluating(policy), _attending(base, "eager"):
        try:
            found, changed = (
                policy.model(input_ids=part, use_cache=False).logits[0].float()
                for part in (tokens, other)
            )
        except torch.OutOfMemoryError:
            raise
        except UNFIT:  # a model that needs more than tokens; the first pass gives its error
            return
    apart = (found - changed).abs().amax(1)
    # With 16 bits, rounding may differ at some positions, as between passes of experts.
    seen = apart[:-1].max() / 1e-3 if precise(policy) else apart[:-1].min() / 0.02
    if float(seen) > float(apart[-1]):
        raise InputError(
            "the model attends to later tokens, so it would see the response that it predicts",
            field="model",
            value=str(base.config.model_type),
            remedy="Use a causal model; one like BERT is causal with is_decoder = true in its "
            "config.json.",
        )


@torch.no_grad()
def check_varlen(policy: Policy, items: Sequence[Pair]) -> None:
    """Raise an `InputError` if a model with attention "varlen" differs from its eager attention."""
    if policy.attention != varlen.NAME:
        return
    device = next(policy.parameters()).device
    batch = batches.pairs(items, "padded", 0).to(device)
    with evaluating(policy):
        with _attending(below_adapters(policy.model), "eager"):
            expected = policy.responses(batch)
        try:
            fits = close(policy, policy.responses(batch), expected)
        except (torch.OutOfMemoryError, InputError):
            raise
        except UNFIT:
            fits = False
    if not fits:
        raise InputError(
            "the model's attention needs a mask or a bias",
            field="attention",
            value=varlen.NAME,
            remedy="Use attention = 'sdpa' or 'eager'.",
        )


@torch.no_grad()
def leaks(policy: Policy, items: Sequence[Pair], layout: batches.Layout) -> bool:
    """Whether other tokens in the first response change the others of a packed row.

    The state of a recurrent layer does, also where it is too small to show.
    """
    if getattr(below_adapters(policy.model), "_is_stateful", False):
        return True
    device, (first, *rest) = next(policy.parameters()).device, items
    size = vocabulary(policy.model)
    chosen = np.r_[first.chosen[: first.start], (first.chosen[first.start :] + 1) % size]
    found, changed = (
        policy.responses(batches.pairs([pair, *rest], layout, 0).to(device))[1:]
        for pair in (first, replace(first, chosen=chosen))
    )
    tolerance = 1e-5 if precise(policy) else 5e-2
    return not torch.allclose(found, changed, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def endless(policy: Policy, items: Sequence[Pair], layout: batches.Layout) -> bool:
    """Whether a packed row may have more tokens than the model's context.

    A model without SDPA may have a mask or a bias of that size; GPT-Neo and MPT do.
    """
    base = below_adapters(policy.model)
    limit = context(base.config)
    if limit is None or limit > _LONG or getattr(base, "_supports_sdpa", False):
        return True
    pair, device = items[0], next(policy.parameters()).device
    enough = 1 + limit // max(pair.lengths)
    found = policy.responses(batches.pairs([pair] * enough, layout, 0).to(device))
    return close(policy, found[-2:], found[:2])


def close(policy: Policy, found: Float[Tensor, " S"], expected: Float[Tensor, " S"]) -> bool:
    """Whether log-probabilities of responses are equal up to rounding."""
    # In bf16, another order of the same sums moves a response of SmolLM2 by up to .25.
    rtol, atol = (1e-4, 1e-3) if precise(policy) else (5e-2, 0.5)
    return torch.allclose(found, expected, rtol=rtol, atol=atol)


@contextmanager
def _attending(base: Any, name: str) -> Iterator[None]:
    """Context manager: the model uses this attention, which needs no device."""
    before = base.config._attn_implementation
    base.config._attn_implementation = name
    try:
        yield
    finally:
        base.config._attn_implementation = before
