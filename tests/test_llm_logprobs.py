"""Token log-probabilities equal those of the plain formula, in values and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_models import tiny_llama, tiny_neox
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from tradeoff.llm import logprobs, models
from tradeoff.llm._data import Pair
from tradeoff.llm.batches import pairs
from tradeoff.llm.config import Lora
from tradeoff.llm.logprobs import Policy, token_log_probs

VOCABULARY = 50
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return logits.log_softmax(1).gather(1, labels[:, None])[:, 0]


def problem(
    rows: int = 7, vocabulary: int = 11, bias: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    made = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 5, generator=made, dtype=torch.float64)
    weight = torch.randn(vocabulary, 5, generator=made, dtype=torch.float64)
    shift = torch.randn(vocabulary, generator=made, dtype=torch.float64) if bias else None
    labels = torch.randint(vocabulary, (rows,), generator=made)
    return hidden, weight, shift, labels


@pytest.fixture(params=[1, 22, 2**22], ids=["a row at a time", "two rows", "all at once"])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logprobs._CHUNK, "cpu", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", ["all", "head", "hidden", "none"])
def test_values_and_gradients_are_those_of_the_formula(trained: str, bias: bool) -> None:
    hidden, weight, shift, labels = problem(bias=bias)
    hidden.requires_grad_(trained in ("all", "hidden"))
    for value in (weight, shift):
        if value is not None:
            value.requires_grad_(trained in ("all", "head"))
    leaves = [x for x in (hidden, weight, shift) if x is not None and x.requires_grad]
    upstream = torch.linspace(-1, 2, len(labels), dtype=torch.float64)
    found = token_log_probs(hidden, weight, shift, labels)
    expected = plain(hidden, weight, shift, labels)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert found.requires_grad == bool(leaves)
    if leaves:
        ours = torch.autograd.grad(found, leaves, upstream)
        theirs = torch.autograd.grad(expected, leaves, upstream)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_are_finite_differences(frozen: bool) -> None:
    hidden, weight, shift, labels = problem(rows=3, vocabulary=6)
    assert shift is not None
    hidden.requires_grad_()
    if not frozen:
        weight.requires_grad_()
        shift.requires_grad_()
    function: Callable[..., Tensor] = lambda h, w, b: token_log_probs(h, w, b, labels)  # noqa: E731
    assert torch.autograd.gradcheck(function, (hidden, weight, shift))


@given(st.integers(1, 9), st.integers(2, 30), st.integers(1, 200), st.booleans())
@settings(max_examples=40)
def test_any_size_and_any_chunk_agree(rows: int, vocabulary: int, chunk: int, bias: bool) -> None:
    given_ = problem(rows, vocabulary, bias, seed=rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(logprobs._CHUNK, "cpu", chunk)
        torch.testing.assert_close(token_log_probs(*given_), plain(*given_))


@pytest.mark.parametrize("frozen", [True, False])
def test_mixed_precision_stays_near_and_keeps_types(frozen: bool) -> None:
    hidden, weight, shift, labels = (
        x.float() if x is not None and x.is_floating_point() else x
        for x in problem(rows=30, vocabulary=40)
    )
    weight.requires_grad_(not frozen)
    hidden.requires_grad_()
    exact = torch.autograd.grad(plain(hidden, weight, shift, labels).sum(), hidden)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = token_log_probs(hidden, weight, shift, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(hidden, weight, shift, labels), rtol=0.02, atol=0.05)
    found.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32
    torch.testing.assert_close(hidden.grad, exact, rtol=0.05, atol=0.05)
    assert (weight.grad is None) == frozen


def test_bfloat16_weights_give_float32_log_probabilities() -> None:
    hidden, weight, _, labels = problem(rows=30, vocabulary=40)
    low = hidden.bfloat16(), weight.bfloat16()
    found = token_log_probs(*low, None, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), plain(low[0].double(), low[1].double(), None, labels), rtol=0.02, atol=0.05
    )


class Largest(TorchDispatchMode):
    """Record the largest tensor that any operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.elements = max(self.elements, found.numel())
        return found


@pytest.mark.parametrize("frozen", [True, False])
def test_logits_are_never_whole(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logprobs._CHUNK, "cpu", 300)
    hidden, weight, _, labels = problem(rows=64, vocabulary=100)
    weight.requires_grad_(not frozen)
    hidden.requires_grad_()
    with Largest() as seen:
        token_log_probs(hidden, weight, None, labels).sum().backward()
    # A chunk of three rows, the states and the weights themselves. The logits would be 6,400.
    assert seen.elements == max(300, 64 * 5, 100 * 5)


# ---------------------------------------------------------------------- whole models


def few_pairs() -> list[Pair]:
    made = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(1, VOCABULARY, (n,), generator=made).numpy()  # noqa: E731
    found = []
    for start, chosen, rejected in ((3, 4, 6), (1, 2, 1), (7, 5, 5)):
        prompt = draw(start)
        both = [
            torch.cat([torch.from_numpy(prompt), torch.from_numpy(draw(n))]).numpy()
            for n in (chosen, rejected)
        ]
        found.append(Pair(both[0], both[1], start))
    return found


def oracle(model: Any, items: list[Pair]) -> Tensor:
    """Response log-probabilities from the model's own logits, one sequence at a time."""
    found = []
    for tokens, start in [(x.chosen, x.start) for x in items] + [
        (x.rejected, x.start) for x in items
    ]:
        ids = torch.from_numpy(tokens)[None]
        log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        found.append(log_probs[start - 1 : -1].gather(1, ids[0, start:, None]).sum())
    return torch.stack(found)


def cohere(scale: float) -> Any:
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=scale))


def gemma2() -> Any:
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0, sliding_window=64)
    return Gemma2ForCausalLM(config)


MODELS: dict[str, tuple[Callable[[], Any], Lora | None, bool]] = {
    "llama": (lambda: tiny_llama(VOCABULARY), None, True),
    "llama-tied": (lambda: tiny_llama(VOCABULARY, tie_word_embeddings=True), None, True),
    "neox": (lambda: tiny_neox(VOCABULARY), None, True),
    "llama-lora": (lambda: tiny_llama(VOCABULARY), Lora(rank=2, targets=("q_proj",)), True),
    "neox-lora": (lambda: tiny_neox(VOCABULARY), Lora(rank=2, targets=("query_key_value",)), True),
    "llama-dora": (lambda: tiny_llama(VOCABULARY), Lora(rank=2, dora=True), True),
    "head-lora": (lambda: tiny_llama(VOCABULARY), Lora(rank=2, targets=("lm_head",)), False),
    "gemma2": (gemma2, None, False),
    "cohere": (lambda: cohere(0.0625), None, False),
}


@pytest.mark.parametrize("name", MODELS)
def test_responses_are_those_of_the_models_own_logits(name: str) -> None:
    make, lora, linear = MODELS[name]
    torch.manual_seed(0)
    model = make()
    if lora is not None:
        model = models.with_adapters(model, lora)
        for key, value in model.named_parameters():  # Otherwise adapters change nothing.
            if "lora_B" in key:
                torch.nn.init.normal_(value, std=0.1)
    policy = Policy(model.double())
    assert policy._linear_head is linear
    items = few_pairs()
    expected = oracle(model, items)
    found = policy.responses(pairs(items, "padded", 0))
    # Gemma normalises in float32 for any input.
    close = 1e-7 if name == "gemma2" else 1e-10
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    trained = [p for p in model.parameters() if p.requires_grad]
    upstream = torch.linspace(-1, 1, len(found), dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found, trained, upstream),
        torch.autograd.grad(expected, trained, upstream),
        # Some of these models normalise in float32 for any input.
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_soft_cap_is_seen_where_random_weights_give_small_logits() -> None:
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=30.0))
    logits = model(input_ids=torch.arange(4)[None]).logits
    # At this size the cap changes almost nothing, but it matters in training.
    assert float(logits.detach().abs().max()) < 3
    assert not Policy(model)._linear_head


def test_trying_the_head_leaves_no_trace() -> None:
    model = tiny_llama(VOCABULARY).train()
    before = copy.deepcopy(model.state_dict())
    Policy(model)
    assert model.training
    assert not model.lm_head._forward_pre_hooks
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
