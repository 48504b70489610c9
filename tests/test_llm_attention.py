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
from transformers import MistralConfig, MistralForCausalLM
from transformers import modeling_flash_attention_utils as flash
from transformers.integrations import flex_attention as flex

from tradeoff.errors import InputError
from tradeoff.llm import batches, varlen
from tradeoff.llm._data import Example, Pair
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


@pytest.mark.slow
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


# ---------------------------------------------------------------------- varlen


@MODELS
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_varlen_attention_keeps_sequences_apart(make: Any, layout: Any) -> None:
    varlen.register()
    policy = loud(make(50))
    ours = like(policy, make, varlen.NAME)
    for build, items in ((batches.pairs, PAIRS), (batches.demonstrations, ROWS)):
        values, slopes = [], []
        for one, chosen in ((policy, "padded"), (ours, layout)):
            one.model.zero_grad()
            found = one.responses(build(items, chosen, 0))  # type: ignore[operator]
            found.sum().backward()
            values.append(found.detach())
            slopes.append([p.grad.clone() for p in one.model.parameters() if p.grad is not None])
        torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-4)
        for first, second in zip(*slopes, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_varlen_attention_is_told_bounds_heads_and_window(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def kernel(query: Tensor, *parts: Any, **settings: Any) -> Tensor:
        calls.append({"shapes": [query.shape, parts[0].shape], "rest": parts[2:], **settings})
        return torch.zeros_like(query)

    def older(
        q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, m: int, n: int, *,
        scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:  # fmt: skip
        return kernel(q, k, v, a, b, m, n, scale=scale, window_size=window_size)

    monkeypatch.setattr(varlen, "_has_kernel", lambda query: True)
    query, key = torch.zeros(1, 4, 7, 8), torch.zeros(1, 2, 7, 8)
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    given = {"scaling": 0.5, "cu_seq_lens_q": ends, "max_length_q": 4, "sliding_window": 3}
    for one in (kernel, older):
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", one)
        found, _ = varlen.attend(None, query, key, key, None, **given)
        assert found.shape == (1, 7, 4, 8)
    assert [call["window_size"] for call in calls] == [(2, 0), (2, 0)]
    assert calls[1]["shapes"] == [(7, 4, 8), (7, 4, 8)], "keys are repeated where torch is older"
    assert calls[0]["rest"][2:] == (4, 4)
    with pytest.raises(InputError, match="needs softcap"):
        varlen.attend(None, query, key, key, None, softcap=30.0)


@pytest.mark.parametrize("window", [None, 5])
def test_varlen_attention_sees_a_sliding_window_and_the_mask_of_generation(
    window: int | None,
) -> None:
    varlen.register()
    config = MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=window,
    )  # fmt: skip
    models = []
    for attention in ("sdpa", varlen.NAME):
        torch.manual_seed(0)
        config._attn_implementation = attention
        models.append(MistralForCausalLM(config).eval())
    first, second = (Policy(model) for model in models)
    batch = batches.pairs(PAIRS, "padded", 0)
    torch.testing.assert_close(second(batch), first(batch), rtol=1e-4, atol=1e-4)
    packed = second(batches.pairs(PAIRS, "packed", 0))
    torch.testing.assert_close(packed, first(batch), rtol=1e-4, atol=1e-4)
    prompts = torch.tensor([[0, 0, 0, 7, 8, 9, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
    answers = [
        model.generate(prompts, attention_mask=mask, max_new_tokens=6, do_sample=False)
        for model in models
    ]
    assert torch.equal(*answers)
