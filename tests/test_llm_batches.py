"""The three layouts hold the same sequences, separate them, and give the same losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_models import bpe_tokenizer_hf, tiny_llama, tiny_neox
from llm_runs import LORA, begin, trainer
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from tradeoff.errors import InputError
from tradeoff.llm import batches, waste
from tradeoff.llm._corpora import Corpora
from tradeoff.llm._cuts import Extents, passes
from tradeoff.llm._data import Example, Pair, Tokenised
from tradeoff.llm.batches import LAYOUTS, Batch
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.evaluation.policy import LoadedPolicy
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.meter import Costs

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
    # These models normalise in float32, and eager attention adds in float32, for any input.
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
        # The token before a token predicts it, at the position before its own.
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
    """The pairs of tokens that may attend to each other, from a description of each token."""
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
    assert same.tolist() == [False, True, False, True]  # The prompt of pair 0 is shorter now.


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


@pytest.mark.parametrize(
    ("device", "attention", "layouts"),
    [
        ("cpu", "sdpa", LAYOUTS),
        ("cpu", "eager", LAYOUTS),
        ("cuda", "sdpa", ("padded",)),
        ("cuda", "flash_attention_2", ("packed",)),
        ("cuda", "flex_attention", ("packed", "shared")),
    ],
)
def test_what_may_be_the_quickest(device: str, attention: str, layouts: tuple[str, ...]) -> None:
    assert waste.candidates(attention, device) == layouts


SMOLLM2 = Costs(weights=134_400_000, head=28_311_552, layers=30, width=576, trained=False)


@pytest.mark.parametrize(
    ("prompt", "response", "spread", "at_once", "expected"),
    [
        (200, 4, 1, 2, ["shared", "padded", "packed"]),
        (1, 100, 1, 2, ["padded", "shared", "packed"]),
        (1, 1, 8, 8, ["shared", "packed", "padded"]),
    ],
)
def test_the_quickest_layout_is_the_one_of_least_waste(
    prompt: int, response: int, spread: int, at_once: int, expected: list[str]
) -> None:
    """Long prompts are shared, rows of one length padded, and rows of many lengths packed."""

    def tokens(count: int) -> np.ndarray:
        return np.arange(count) % 50

    lengths = [response * (1 + i % spread) ** 2 for i in range(32)]
    pairs = tuple(Pair(tokens(prompt + n), tokens(prompt + n), prompt) for n in lengths)
    sft = tuple(Example(tokens(prompt + n), prompt) for n in lengths)
    made = [Tokenised(items, np.arange(32), 0, 0, "") for items in (sft, pairs)]
    config = TrainConfig(batch_size=8, rows_per_forward=at_once)
    found = waste.quickest(SMOLLM2, Corpora(*made, (), ()), config, "sdpa", "cpu")
    assert found == expected


@pytest.mark.parametrize(
    ("device", "attention", "precision", "spread", "least", "most"),
    [
        ("cuda", "sdpa", "bf16", 8, 0.3, 0.9),
        ("cuda", "sdpa", "bf16", 1, 0.0, 0.01),
        ("cuda", "varlen", "bf16", 8, 0.0, 0.0),
        ("cuda", "flex_attention", "bf16", 8, 0.0, 0.0),
        ("cuda", "sdpa", "fp32", 8, 0.0, 0.0),
        ("cpu", "sdpa", "bf16", 8, 0.0, 0.0),
    ],
)
def test_what_varlen_would_save(
    device: str, attention: str, precision: Any, spread: int, least: float, most: float
) -> None:
    lengths = [1 + i % spread * 40 for i in range(32)]
    pairs = tuple(Pair(np.arange(1 + n), np.arange(1 + n), 1) for n in lengths)
    sft = tuple(Example(np.arange(1 + n), 1) for n in lengths)
    made = [Tokenised(items, np.arange(32), 0, 0, "") for items in (sft, pairs)]
    config = TrainConfig(
        batch_size=8, rows_per_forward=8, layout="padded", precision=precision
    )  # fmt: skip
    saved = waste.saved_by_bounds(SMOLLM2, Corpora(*made, (), ()), config, attention, device)
    assert least <= saved <= most


# ---------------------------------------------------------------------- a budget of tokens


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=12),
    st.integers(1, 200),
    st.integers(1, 3),
    st.sampled_from(LAYOUTS),
)
def test_passes_keep_to_their_budget(
    responses: list[tuple[int, int]], budget: int, processes: int, layout: str
) -> None:
    lengths = np.array(responses) + 3
    extents = Extents(lengths, np.full(len(lengths), 3))
    config = TrainConfig(tokens_per_pass=budget, layout=layout)
    rows = np.arange(len(lengths))
    parts = [list(passes(rows, extents, config, p, processes)) for p in range(processes)]
    assert len({len(part) for part in parts}) == 1
    read = np.concatenate([own for part in parts for own, keep in part if keep])
    assert sorted(read) == rows.tolist()
    for own, _ in (pair for part in parts for pair in part):
        assert len(own) == 1 or extents.tokens(own, layout) <= budget


def test_a_budget_changes_passes_and_no_gradient() -> None:
    runs = [
        trainer("mix", **more) for more in ({}, {"tokens_per_pass": 64}, {"tokens_per_pass": 1})
    ]
    counts, tables = [], []
    for run in runs:
        counts.append(len(begin(run).feed.passes(0, run.plan.rule, run._follow)))
        run.feed.positions = [0, 0]
        run.update()
        tables.append(torch.cat([w.flatten() for w in run._bare.parameters()]))
    assert counts[2] == 8  # Each row by itself.
    assert counts[1] != counts[0]
    for other in tables[1:]:
        torch.testing.assert_close(other, tables[0], rtol=1e-4, atol=1e-5)


def test_adapters_under_autocast_need_no_cast() -> None:
    """peft casts inputs to float32, and autocast casts them back: the bits are the same."""
    run = trainer("mix", precision="bf16", lora=LORA, dropout="never")
    with torch.no_grad():
        for name, weight in run.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    items = run.data.preference[:4]
    batch = batches.pairs(items, "padded", 0)
    run.policy.eval()
    found = []
    for scope in (run.scorer.autocast(), torch.autocast("cpu", torch.bfloat16)):
        run.model.zero_grad()
        with scope:
            run.policy(batch).sum().backward()
        grads = [p.grad.flatten() for p in run.model.parameters() if p.grad is not None]
        found.append(torch.cat(grads))
    assert torch.equal(*found)
    assert all(getattr(m, "cast_input_dtype_enabled", True) for m in run.model.modules())


def test_an_evaluation_that_names_no_layout_takes_the_one_that_every_model_can_do() -> None:
    loaded = LoadedPolicy.of(tiny_llama(len(bpe_tokenizer_hf())), bpe_tokenizer_hf())
    assert loaded.scorer.config.layout == "auto"
    assert loaded.scorer.layout == "padded"


def test_shared_prompts_do_not_go_with_a_masked_first_token() -> None:
    from tradeoff.llm.defects import Defects

    with pytest.raises(InputError, match="layout"):
        trainer(layout="shared", defects=Defects(mask_first_token=True))


def test_a_collator_of_ones_own_makes_every_batch() -> None:
    """Rows filled to a multiple of eight tokens, as for a compiled model."""
    seen: list[int] = []

    def filled(items: Any, layout: Any, pad: int) -> batches.Batch:
        batch = batches.collate(items, layout, pad)
        rows, time = batch.tokens.shape
        wide = -(-time // 8) * 8
        seen.append(wide)
        row, column = batch.select // time, batch.select % time
        tokens = torch.nn.functional.pad(batch.tokens, (0, wide - time), value=pad)
        positions = torch.arange(wide).expand(rows, wide)
        return replace(batch, tokens=tokens, positions=positions, select=row * wide + column)

    settings = {"steps": 2, "evaluate_every": 2, "layout": "padded"}
    runs = [trainer("mix", **settings, **more) for more in ({}, {"collator": filled})]
    ends = [run.train(progress=False).table.iloc[-1] for run in runs]
    assert len(seen) > 4
    for name in ("sft_loss", "preference_loss"):
        assert ends[1][name] == pytest.approx(ends[0][name], abs=1e-5)
    assert ".filled-" in runs[1].identity["own_collator"]  # with a digest, as it is local
    assert "own_collator" not in runs[0].identity
