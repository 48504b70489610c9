"""The three layouts hold the same sequences, apart from each other, and give the same losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_models import bpe_tokenizer_hf, tiny_llama, tiny_neox
from llm_runs import trainer
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from tradeoff.errors import InputError
from tradeoff.llm import batches, setup
from tradeoff.llm.batches import LAYOUTS, Batch
from tradeoff.llm.data import Example, Pair
from tradeoff.llm.evaluation.policy import LoadedPolicy
from tradeoff.llm.logprobs import Policy

VOCABULARY = 40
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
some = st.lists(sizes, min_size=1, max_size=5)


def make_pairs(shapes: list[tuple[int, int, int]], seed: int = 0) -> list[Pair]:
    draw = np.random.default_rng(seed)
    found = []
    for start, chosen, rejected in shapes:
        prompt = draw.integers(1, VOCABULARY, start)
        sides = [np.append(prompt, draw.integers(1, VOCABULARY, n)) for n in (chosen, rejected)]
        found.append(Pair(sides[0], sides[1], start))
    return found


def make_examples(shapes: list[tuple[int, int, int]], seed: int = 0) -> list[Example]:
    return [Example(pair.chosen, pair.start) for pair in make_pairs(shapes, seed)]


def policy(name: str) -> Policy:
    make = {"llama": tiny_llama, "neox": tiny_neox}[name.removesuffix("-eager")]
    attention = "eager" if name.endswith("eager") else "sdpa"
    return Policy(make(VOCABULARY, attn_implementation=attention).double())


POLICIES = {name: policy(name) for name in ("llama", "neox", "llama-eager", "neox-eager")}


def losses_and_gradients(policy: Policy, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    found = policy.responses(batch)
    weights = torch.linspace(-1, 2, len(found), dtype=found.dtype)
    return found.detach(), list(torch.autograd.grad(found @ weights, list(policy.parameters())))


@pytest.mark.parametrize("name", POLICIES)
@given(some, st.integers(0, 99))
@settings(max_examples=8)
def test_layouts_give_the_same_values_and_gradients(
    name: str, shapes: list[tuple[int, int, int]], seed: int
) -> None:
    items = make_pairs(shapes, seed)
    expected = losses_and_gradients(POLICIES[name], batches.pairs(items, "padded", 0))
    # These models normalise, and eager attention adds up, in float32 whatever they are given.
    for layout in ("packed", "shared"):
        found = losses_and_gradients(POLICIES[name], batches.pairs(items, layout, 0))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    examples = make_examples(shapes, seed)
    sft = [
        losses_and_gradients(POLICIES[name], batches.demonstrations(examples, layout, 0))
        for layout in LAYOUTS
    ]
    torch.testing.assert_close(sft[1], sft[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sft[2], sft[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sft[0][0], expected[0][: len(items)], rtol=1e-4, atol=1e-6)


@given(some, st.sampled_from(LAYOUTS))
def test_every_completion_token_is_scored_once_from_the_one_before(
    shapes: list[tuple[int, int, int]], layout: Any
) -> None:
    items = make_pairs(shapes)
    batch = batches.pairs(items, layout, 0)
    responses = [(x.chosen, x.start) for x in items] + [(x.rejected, x.start) for x in items]
    flat, places = batch.tokens.flatten(), batch.positions.flatten()
    for i, (tokens, start) in enumerate(responses):
        own = batch.owner == i
        assert batch.labels[own].tolist() == tokens[start:].tolist()
        # What predicts a token is the token before it, at the place before its own.
        assert places[batch.select[own]].tolist() == list(range(start - 1, len(tokens) - 1))
        assert flat[batch.select[own]].tolist() == tokens[start - 1 : -1].tolist()
    assert batch.lengths.tolist() == [len(tokens) - start for tokens, start in responses]
    assert len(batch.owner) == sum(batch.lengths.tolist())


@given(some)
def test_packed_rows_hold_no_filling_and_shared_ones_each_prompt_once(
    shapes: list[tuple[int, int, int]],
) -> None:
    items = make_pairs(shapes)
    total = sum(len(x.chosen) + len(x.rejected) for x in items)
    assert batches.pairs(items, "packed", 0).tokens.shape == (1, total)
    shared = batches.pairs(items, "shared", 0)
    assert shared.tokens.shape == (1, total - sum(x.start for x in items))
    longest = max(max(x.lengths) for x in items)
    assert batches.pairs(items, "padded", 0).tokens.shape == (2 * len(items), longest)


def brute_force(items: list[Pair], shared: bool) -> np.ndarray:
    """Who sees whom, from a list that says of each token what it is."""
    about: list[tuple[Any, int]] = []
    if shared:
        for i, x in enumerate(items):
            about += [((i, "prompt"), p) for p in range(x.start)]
            about += [((i, "chosen"), p) for p in range(x.start, len(x.chosen))]
            about += [((i, "rejected"), p) for p in range(x.start, len(x.rejected))]
    else:
        for side in ("chosen", "rejected"):
            for i, x in enumerate(items):
                about += [((i, side), p) for p in range(len(getattr(x, side)))]
    sees = np.zeros((len(about), len(about)), dtype=bool)
    for a, ((pair, part), place) in enumerate(about):
        for b, ((other, seen), earlier) in enumerate(about):
            related = pair == other and (part == seen or (shared and seen == "prompt"))
            sees[a, b] = related and earlier <= place
    return sees


@given(some, st.booleans())
def test_the_mask_is_that_of_brute_force(shapes: list[tuple[int, int, int]], shared: bool) -> None:
    items = make_pairs(shapes)
    batch = batches.pairs(items, "shared" if shared else "packed", 0)
    np.testing.assert_array_equal(batch.mask()[0, 0].numpy(), brute_force(items, shared))


@given(some)
def test_sums_over_responses_are_those_of_a_loop(shapes: list[tuple[int, int, int]]) -> None:
    batch = batches.pairs(make_pairs(shapes), "shared", 0)
    values = torch.arange(1.0, len(batch.owner) + 1)
    expected = [float(values[batch.owner == i].sum()) for i in range(len(batch.lengths))]
    assert batch.per_response(values).tolist() == expected


def test_a_token_of_another_sequence_changes_nothing() -> None:
    items = make_pairs([(3, 4, 5), (2, 6, 3)])
    changed = [Pair(items[0].chosen[::-1].copy(), items[0].rejected, 1), items[1]]
    before = POLICIES["llama"].responses(batches.pairs(items, "packed", 0))
    after = POLICIES["llama"].responses(batches.pairs(changed, "packed", 0))
    same = torch.isclose(before, after, rtol=1e-12, atol=1e-12)
    assert same.tolist() == [False, True, False, True]  # the prompt of pair 0 is shorter now


# ---------------------------------------------------------------------- models that cannot pack


def test_a_model_that_reads_on_across_sequences_is_refused() -> None:
    vocabulary = len(bpe_tokenizer_hf())
    settings = {"vocab_size": vocabulary, "hidden_size": 16, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**settings, state_size=4, bos_token_id=None))
    with pytest.raises(InputError, match="keep packed sequences apart") as caught:
        trainer(model=model, layout="packed")
    assert "padded" in str(caught.value.remedy)
    assert trainer(model=model).config.layout == "padded"


def test_a_sliding_window_that_a_block_mask_would_replace_is_refused() -> None:
    vocabulary = len(bpe_tokenizer_hf())
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=16,
    )
    with pytest.raises(InputError, match="sliding window of 16"):
        trainer(model=MistralForCausalLM(config), layout="packed")
    trainer(model=MistralForCausalLM(config), layout="padded")
    trainer(model=MistralForCausalLM(config), layout="packed", max_length=16)
    assert trainer(model=MistralForCausalLM(config)).config.layout == "padded"
    assert trainer(model=MistralForCausalLM(config), max_length=16).config.layout == "packed"


@pytest.mark.parametrize(
    ("device", "attention", "layout"),
    [
        ("cpu", "sdpa", "packed"),
        ("cpu", "eager", "packed"),
        ("cuda", "sdpa", "padded"),
        ("cuda", "flash_attention_2", "packed"),
        ("cuda", "flex_attention", "packed"),
    ],
)
def test_where_no_layout_is_named_it_is_the_quickest(
    device: str, attention: str, layout: str
) -> None:
    policy = Policy(tiny_llama(50))
    policy.model.config._attn_implementation = attention
    assert setup.quickest(policy, torch.device(device)) == layout


def test_an_evaluation_that_names_no_layout_takes_the_one_that_every_model_can_do() -> None:
    loaded = LoadedPolicy.of(tiny_llama(len(bpe_tokenizer_hf())), bpe_tokenizer_hf())
    assert loaded.scorer.config.layout == "auto"
    assert loaded.scorer.layout == "padded"


def test_shared_prompts_do_not_go_with_a_masked_first_token() -> None:
    from tradeoff.llm.config import Defects

    with pytest.raises(InputError, match="layout"):
        trainer(layout="shared", defects=Defects(mask_first_token=True))
