"""Methods of prompts, features and additions on the language model: limits and sums by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tradeoff.arena.network_board import network_left_out
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.methods import Method
from tradeoff.methods.anchors import DrTune, ViewConsistency
from tradeoff.methods.transforms.retrieved import InContext, SearchInstruct
from tradeoff.networks.followed import Choices
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.train import grid, train
from tradeoff.schedules import Alright, Mix

DATA = generate(
    Language(
        sft_rows=24,
        preference_rows=16,
        test_rows=8,
        documents=60,
        skills=("count", "sort"),
        preferences=("polite", "short"),
    )
)
TOKENIZER = train_tokenizer(DATA.corpus, 290)
SHAPE = LanguageModelConfig(
    vocabulary=len(TOKENIZER), width=16, layers=2, heads=2, hidden=24, context=96
)
MODEL = LanguageModel(SHAPE, 3).double()
TASK = LanguageTask.of(MODEL, DATA, TOKENIZER, evaluation_rows=8)
PADDED = replace(TASK, ragged=False)
PARAMS = {name: value.detach() for name, value in MODEL.named_parameters()}
INDEX = torch.tensor([3, 0, 7, 3])
SETTINGS: dict[str, Any] = {
    "steps": 3,
    "learning_rate": 1e-2,
    "batch_size": 3,
    "evaluate_every": 3,
}


def trained(method: Any, task: Any = TASK, **settings: Any) -> Any:
    return train(task, grid([method], [1]), **{**SETTINGS, **settings})


def assert_same_bits(first: Any, second: Any) -> None:
    for name, value in first.params.items():
        assert torch.equal(value, second.params[name]), name


def prompt_of(batch: Any, row: int) -> list[int]:
    mask = batch.mask[row]
    return batch.tokens[row, : int(mask.int().argmax())].tolist()


def answer_of(batch: Any, row: int) -> list[int]:
    return batch.tokens[row][batch.mask[row]].tolist()


MIX = trained(Mix())


# ---------------------------------------------------------------------- demonstrations looked up


@pytest.mark.parametrize("none", [InContext(count=0), SearchInstruct(expansion=0)])
def test_nothing_looked_up_is_mix_bit_for_bit(none: Any) -> None:
    assert_same_bits(trained(Method(Mix(), data=none)), MIX)


def test_examples_stand_before_a_row_and_carry_no_loss() -> None:
    part, old = InContext(count=2), TASK.sft
    new = TASK.looked_up(part).sft
    places = part.shown([np.array(prompt_of(old, row)) for row in range(len(old))])
    for row in range(len(old)):
        examples = [prompt_of(old, k) + answer_of(old, k) for k in places[row]]
        lengths = [len(prompt_of(old, row) + answer_of(old, row)), *map(len, examples)]
        while sum(lengths) > SHAPE.context:
            lengths.pop(1)
            examples.pop(0)
        assert prompt_of(new, row) == [*chain(*examples), *prompt_of(old, row)]
        assert answer_of(new, row) == answer_of(old, row)
    done = trained(Method(Mix(), data=part))
    assert not torch.equal(done.params["norm.weight"], MIX.params["norm.weight"])
    begun = [run.table[run.table.step == 0].sft_loss_train.item() for run in (done, MIX)]
    assert begun[0] == begun[1]  # Examples are there in training alone.
    assert Method(Mix(), data=part).updates(400) == 100


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4))
def test_new_prompts_are_mixtures_answered_from_the_nearest(
    seed: int, expansion: int, documents: int
) -> None:
    """By brute force, over words with repetitions."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(5, 9, size=rng.integers(1, 6)) for _ in range(6)]
    answers = [rng.integers(5, 9, size=rng.integers(1, 5)) for _ in range(6)]
    part = SearchInstruct(expansion=expansion, noise=0.0, error=0.0, documents=documents, seed=seed)
    new = part.written(prompts, answers)
    assert len(new) == 6 * expansion

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        counts = [np.bincount(x, minlength=9) for x in (one, other)]
        return float(counts[0] @ counts[1] / np.linalg.norm(counts[0]) / np.linalg.norm(counts[1]))

    for k, (prompt, answer) in enumerate(new):
        first = prompts[k // expansion]
        assert len(prompt) == len(first)
        assert any(
            all(a in (b, *c) for a, b, c in zip(prompt, first, _padded(x, first), strict=True))
            for x in prompts
        )
        near = sorted(range(6), key=lambda j: -round(cosine(prompt, prompts[j]), 9))[:documents]
        least = round(cosine(prompt, prompts[near[-1]]), 9)
        tied = [j for j in range(6) if round(cosine(prompt, prompts[j]), 9) == least]
        if len(tied) > 1:
            continue  # Which of the equal ones is looked at is a matter of rounding.
        support = [np.mean([cosine(answers[i], answers[j]) for j in near]) for i in near]
        best = [answers[i] for i, s in zip(near, support, strict=True) if s > max(support) - 1e-9]
        assert any(np.array_equal(answer, one) for one in best)


def _padded(other: np.ndarray, like: np.ndarray) -> list[tuple[int, ...]]:
    return [(int(other[k]),) if k < len(other) else () for k in range(len(like))]


def test_new_rows_come_after_the_old_ones() -> None:
    part, old = SearchInstruct(expansion=2, error=1.0), TASK.sft
    new = TASK.looked_up(part).sft
    assert len(new) == 3 * len(old)
    assert torch.equal(new.tokens[: len(old), : old.tokens.shape[1]], old.tokens)
    assert (new.kept[len(old) :] == -1).all()
    known = {tuple(answer_of(old, row)) for row in range(len(old))}
    assert all(tuple(answer_of(new, row)) in known for row in range(len(old), len(new)))
    done = trained(Method(Mix(), data=part))
    assert np.isfinite(done.table.sft_loss).all()
    assert not torch.equal(done.params["norm.weight"], MIX.params["norm.weight"])
    assert Method(Mix(), data=part).updates(400) == 200
    noisy = replace(part, noise=1.0).written([np.array([1, 2])] * 4, [np.array([3])] * 4)
    assert all(set(prompt.tolist()) <= {1, 2} for prompt, _ in noisy)


# ---------------------------------------------------------------------- views of prompts


def gradient_of(method: Method, **more: Any) -> dict[str, torch.Tensor]:
    """What a method adds to the gradient of SFT in the first update."""
    about = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.5, "clip": None, **more}
    plain, own = (trained(m, **about).params for m in (Method(method.schedule), method))
    return {name: (plain[name][0] - own[name][0]) / 0.5 for name in PARAMS}


@pytest.mark.parametrize("anchor", [ViewConsistency(weight=0.0), DrTune(weight=0.0)])
def test_without_weight_an_anchor_is_mix_bit_for_bit(anchor: Any) -> None:
    assert_same_bits(trained(Method(Mix(), anchor=anchor)), MIX)


def test_one_view_and_no_memory_have_no_slope() -> None:
    same = ViewConsistency(noise=0.0, decay=0.0, weight=5.0)
    for part, moves in ((same, False), (replace(same, noise=0.5), True)):
        found = gradient_of(Method(Mix(), anchor=part))
        assert (max(float(slope.abs().max()) for slope in found.values()) > 1e-6) == moves
    done = trained(Method(Mix(), anchor=ViewConsistency()), evaluate_every=3).table
    # One gradient and a forward pass beside each of the three updates.
    assert done[done.step == 3].sft_updates.item() == 3 + 4


@pytest.mark.parametrize("of", ["sft", "preference"])
def test_the_pull_of_a_noisy_prompt_is_the_slope_of_its_divergence(
    of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, with factors between the embeddings and the first layer."""
    part = ViewConsistency(noise=0.7, weight=1.0, decay=0.0, exact=True, of=of)
    seen: list[torch.Tensor] = []
    factors = Choices.factors

    def told(*given: Any) -> Any:
        seen.append(torch.from_numpy(factors(*given)))
        return factors(*given)

    monkeypatch.setattr(Choices, "factors", told)
    found = gradient_of(Method(Alright(lam=0.0), anchor=part))
    model = LanguageModel(SHAPE, 3).double()
    rows = TASK.sft if of == "sft" else TASK.pairs
    noise = seen[0][0].unflatten(1, (-1, SHAPE.width))
    apart, count = torch.zeros(()).double(), 0
    for row in range(len(rows)):
        for tokens, mask in zip(
            *(x[row].view(-1, x.shape[-1]) for x in (rows.tokens, rows.mask)), strict=True
        ):
            first = int(mask.int().argmax())
            scale = torch.ones(len(tokens), SHAPE.width).double()
            scale[:first] = noise[row, :first]
            with torch.no_grad():
                known = model(tokens[None])[0, :-1][mask[1:]].log_softmax(-1)
            hook = model.embed_tokens.register_forward_hook(lambda _, __, x, s=scale: x * s)
            own = model(tokens[None])[0, :-1][mask[1:]].log_softmax(-1)
            hook.remove()
            apart = apart + (known.exp() * (known - own)).sum()
            count += int(mask.sum())
    (apart / count).backward()
    for name, weights in model.named_parameters():
        assert_close(found[name], weights.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("objective", [0, 1])
def test_padded_rows_have_the_views_of_packed_ones(objective: int) -> None:
    factors = torch.rand(4, TASK.prompt_size).double() + 0.5
    packed, ones = TASK.viewed(PARAMS, objective, INDEX, factors)
    assert (ones == 1).all()
    padded, counted = PADDED.viewed(PARAMS, objective, INDEX, factors)
    assert_close(padded[counted == 1], packed, rtol=1e-10, atol=1e-10)
    for part in (ViewConsistency(), DrTune(count=20)):
        one, other = (trained(Method(Mix(), anchor=part), task) for task in (TASK, PADDED))
        for name, value in one.params.items():
            assert_close(value, other.params[name], rtol=1e-7, atol=1e-9)


# ---------------------------------------------------------------------- features of an earlier one


def test_features_lead_to_the_logits_of_the_next_tokens() -> None:
    model = LanguageModel(SHAPE, 3).double()
    mean = round(float(TASK.sft.mask.sum()) / len(TASK.sft))
    logits, wanted = [], []
    for row in INDEX.tolist():
        places = TASK.sft.mask[row].nonzero()[:, 0].tolist()
        scores = model(TASK.sft.tokens[row][None])[0]
        for k in range(mean):
            place = places[k * len(places) // mean]
            logits.append(scores[place - 1])
            wanted.append(int(TASK.sft.tokens[row, place]))
    for task in (TASK, PADDED):
        found = task.features(PARAMS, INDEX) @ PARAMS[TASK.head_name].T
        assert_close(found, torch.stack(logits).detach(), rtol=1e-9, atol=1e-9)
        assert task.responses(INDEX).tolist() == wanted
        assert task.responses(INDEX[None]).tolist() == [wanted]
    untied = replace(TASK, base=LanguageModel(replace(SHAPE, tied=False)))
    assert untied.head_name == "lm_head.weight" == untied.last_layer_name


def test_the_head_learns_from_features_of_the_earlier_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By hand in the first update, in which both policies are one."""
    seen: list[torch.Tensor] = []
    batch = Choices.batch

    def told(*given: Any) -> Any:
        seen.append(torch.from_numpy(batch(*given)))
        return batch(*given)

    monkeypatch.setattr(Choices, "batch", told)
    found = gradient_of(Method(Alright(lam=0.0), anchor=DrTune(weight=0.7, count=10**4)))
    index = seen[-1][0]
    features, head = TASK.features(PARAMS, index), PARAMS[TASK.head_name].clone().requires_grad_()
    lengths = features.norm(dim=-1, keepdim=True)
    logits = features / lengths * lengths.mean() @ head.T
    torch.nn.functional.cross_entropy(logits, TASK.responses(index)).backward()
    assert head.grad is not None
    for name, slope in found.items():
        expected = 0.7 * head.grad if name == TASK.head_name else torch.zeros_like(slope)
        assert_close(slope, expected, rtol=1e-7, atol=1e-10)
    done = trained(Method(Mix(), anchor=DrTune()), evaluate_every=3).table
    assert done[done.step == 3].sft_updates.item() == 3 + 2  # Two forward passes in each update.


# ---------------------------------------------------------------------- the board


@pytest.mark.parametrize(
    "name", ["uds", "search_instruct", "in_context", "dr_tune", "view_consistency"]
)
def test_the_board_of_language_models_takes_them(name: str) -> None:
    assert network_left_out(name, "language") is None
