"""Packed rows with the attention of GPUs, whose kernels are replaced by plain ones here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from llm_models import tiny_llama, tiny_neox
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import modeling_flash_attention_utils as flash
from transformers.integrations import flex_attention as flex

from tradeoff.llm import batches
from tradeoff.llm.data import Example, Pair
from tradeoff.llm.logprobs import Policy

MODELS = pytest.mark.parametrize("make", [tiny_llama, tiny_neox])
RNG = np.random.default_rng(0)


def tokens(count: int) -> np.ndarray:
    return RNG.integers(1, 50, count)


def pair(prompt: int) -> Pair:
    start = tokens(prompt)
    chosen, rejected = (np.concatenate([start, tokens(n)]) for n in (6, 3))
    return Pair(chosen, rejected, prompt)


PAIRS = [pair(prompt) for prompt in (5, 9, 14)]
ROWS = [Example(tokens(n), 3) for n in (4, 11, 8)]


def loud(model: Any) -> Policy:
    """Weights so large that attention to a wrong token changes the result."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.ndim > 1 else 1)
    return Policy(model.eval())


def like(policy: Policy, make: Callable[..., Any], attention: str) -> Policy:
    """A model with the same weights and another attention."""
    model = make(50)
    model.load_state_dict(policy.model.state_dict())
    model.config._attn_implementation = attention
    return Policy(model.eval())


@MODELS
@pytest.mark.parametrize("layout", ["packed", "shared"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
def test_flex_attention_keeps_sequences_apart(
    make: Any, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfused(query: Tensor, key: Tensor, value: Tensor, training: bool, **settings: Any) -> Any:
        return flex_attention(query, key, value, **settings)

    monkeypatch.setattr(flex, "compile_friendly_flex_attention", unfused)
    policy = loud(make(50))
    ours = like(policy, make, "flex_attention")
    with torch.no_grad():
        expected = policy.responses(batches.pairs(PAIRS, "padded", 0))
        batch = batches.pairs(PAIRS, layout, 0)
        torch.testing.assert_close(ours.responses(batch), expected, rtol=1e-4, atol=1e-4)
        # Without the blocks each sequence would attend to those before it.
        time = batch.tokens.shape[1]
        causal = create_block_mask(lambda b, h, q, k: q >= k, None, None, time, time, device="cpu")
        monkeypatch.setattr(batches.Batch, "_block_mask", lambda self: causal)
        assert (ours.responses(batch) - expected).abs().max() > 1e-2


@MODELS
def test_flash_attention_is_told_where_sequences_begin(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def varlen(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        """The specified result of the kernel, sequence by sequence."""
        calls.append(settings)
        found = torch.empty_like(query)
        bounds = settings["cu_seqlens_q"].tolist()
        assert bounds == settings["cu_seqlens_k"].tolist()
        assert settings["max_seqlen_q"] == settings["max_seqlen_k"] == max(np.diff(bounds))
        assert settings["cu_seqlens_q"].dtype == torch.int32
        for start, end in pairwise(bounds):
            parts = (part[None, start:end].transpose(1, 2) for part in (query, key, value))
            one = scaled_dot_product_attention(
                *parts, is_causal=True, scale=settings["softmax_scale"], enable_gqa=True
            )
            found[start:end] = one.transpose(1, 2)[0]
        return found

    def settings_of(**given: Any) -> dict[str, Any]:
        names = ("max_seqlen_q", "max_seqlen_k", "softmax_scale")
        return {name: given.get(name) for name in names}

    kernels = (None, varlen, None, None, None), (settings_of, settings_of)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: kernels)
    monkeypatch.setattr(flash, "_flash_supports_window_size", True, raising=False)
    # Reading the boundaries from the positions, in every layer, waits for the device.
    monkeypatch.delattr(flash, "_prepare_from_posids")
    policy = loud(make(50))
    ours = like(policy, make, "flash_attention_2")
    for build, items in ((batches.pairs, PAIRS), (batches.demonstrations, ROWS)):
        with torch.no_grad():
            expected = policy.responses(build(items, "padded", 0))
            found = ours.responses(build(items, "packed", 0))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(calls) == 2 * policy.model.config.num_hidden_layers
