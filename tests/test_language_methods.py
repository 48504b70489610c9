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

from tests.small_language import DATA
from tradeoff.arena.network_board import network_left_out
from tradeoff.arena.network_runs import configuration
from tradeoff.arena.networks import network
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.methods import Method, find
from tradeoff.methods.anchors import DrTune, KlToBase, LearningWithoutForgetting, ViewConsistency
from tradeoff.methods.parameters import LoraMoe, SmallModel
from tradeoff.methods.parameters.added import SHIFT, UP, is_added
from tradeoff.methods.transforms.retrieved import InContext, SearchInstruct
from tradeoff.networks._added_to_models import functional_call
from tradeoff.networks.followed import Choices
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.train import grid, train
from tradeoff.schedules import Alright, Mix

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


def drawn(patch: pytest.MonkeyPatch, name: str) -> list[torch.Tensor]:
    """What runs draw by a method of `Choices` while it is patched, in order."""
    seen, own = [], getattr(Choices, name)

    def told(*given: Any) -> Any:
        found = own(*given)
        seen.append(torch.from_numpy(found.copy()))
        return found

    patch.setattr(Choices, name, told)
    return seen


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
    seen = drawn(monkeypatch, "factors")
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


@pytest.mark.slow
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


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_policy_is_held_by_the_laws_of_its_next_tokens(direction: Any) -> None:
    """By hand, from the policy of one update to that of the base, or where it has no slope."""
    for part in (KlToBase(weight=0.0), LearningWithoutForgetting(weight=0.0)):
        assert_same_bits(trained(Method(Mix(), anchor=part)), MIX)
    about: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.5, "clip": None}
    part = KlToBase(weight=0.6, direction=direction, of="sft", exact=True)
    first, plain = (trained(Alright(lam=0.0), steps=n, **about).params for n in (1, 2))
    held = trained(Method(Alright(lam=0.0), anchor=part), steps=2, **about).params
    model = LanguageModel(SHAPE, 3).double()
    counted = TASK.sft.mask[:, 1:]
    base = model(TASK.sft.tokens)[:, :-1][counted].log_softmax(-1).detach()
    model.load_state_dict({name: value[0] for name, value in first.items()})
    own = model(TASK.sft.tokens)[:, :-1][counted].log_softmax(-1)
    one, other = (base, own) if direction == "forward" else (own, base)
    (one.exp() * (one - other)).sum(-1).mean().backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None
        slope = (plain[name][0] - held[name][0]) / 0.5
        assert_close(slope, 0.6 * weights.grad, rtol=1e-6, atol=1e-10)


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
    seen = drawn(monkeypatch, "batch")
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
    "name",
    [
        "uds",
        "search_instruct",
        "in_context",
        "dr_tune",
        "view_consistency",
        "lora_moe",
        "levi",
        "kl_base",
        "lwf",
    ],
)
def test_the_board_of_language_models_takes_them(name: str) -> None:
    assert network_left_out(name, "language") is None


# ---------------------------------------------------------------------- what is added

LEVI = Method(Mix(), parameters=SmallModel(size=3))
EXPERTS = Method(Mix(), parameters=LoraMoe(experts=3, rank=2))
UNTIED = LanguageTask.of(
    LanguageModel(replace(SHAPE, tied=False), 3).double(), DATA, TOKENIZER, evaluation_rows=8
)


@pytest.mark.slow
@pytest.mark.parametrize("method", [LEVI, EXPERTS], ids=["levi", "experts"])
@pytest.mark.parametrize("task", [TASK, UNTIED], ids=["tied", "untied"])
def test_what_is_added_begins_with_the_policy_and_moves_alone(method: Method, task: Any) -> None:
    done, plain = trained(method, task), trained(Mix(), task)
    for name in ("sft_loss", "preference_loss"):
        first = [run.table[run.table.step == 0][name].item() for run in (done, plain)]
        assert first[0] == first[1]
    for name, value in task.base.named_parameters():
        moves = method is LEVI and name == "lm_head.weight"
        assert torch.equal(done.params[name][0], value) != moves, name
    assert done.table.sft_loss.iloc[-1] != done.table.sft_loss.iloc[0]
    added = {name: value for name, value in done.params.items() if is_added(name)}
    begins_with_zeros = [name for name in added if name.endswith((UP, "head.weight", SHIFT))]
    assert (SHIFT in added) == (method is LEVI and task is TASK)
    assert all(added[name].abs().max() > 1e-5 for name in begins_with_zeros)
    # Without it, the policy is the base.
    bare = {
        name: torch.zeros_like(value) if name in begins_with_zeros else value
        for name, value in done.params.items()
    }
    if task is UNTIED:
        bare["lm_head.weight"] = task.initial([1])["lm_head.weight"]
    base = task.initial([1])
    assert_close(task.token_loss(bare, task.sft), task.token_loss(base, task.sft))


@pytest.mark.slow
@pytest.mark.parametrize("method", [LEVI, EXPERTS], ids=["levi", "experts"])
def test_padded_rows_get_what_packed_ones_do(method: Method) -> None:
    one, other = (trained(method, task) for task in (TASK, PADDED))
    for name, value in one.params.items():
        assert_close(value, other.params[name], rtol=1e-7, atol=1e-9)
    params = {name: value[0] for name, value in one.params.items()}
    if method is EXPERTS:
        for objective in (0, 1):
            shares = [t.expert_shares(params, objective, INDEX) for t in (TASK, PADDED)]
            assert shares[0].shape == (14, 4, 3)  # Seven matrices in each of two blocks.
            assert_close(shares[0].sum(-1), torch.ones(14, 4).double())
            assert_close(shares[0], shares[1], rtol=1e-9, atol=1e-12)
    # Generation reads a cache; it writes what is likeliest under the policy.
    prompt = prompt_of(TASK.sft, 0)
    text = TOKENIZER.decode(prompt)
    (written,) = TASK.answer(params, [text], max_new_tokens=3)
    tokens = list(TOKENIZER.encode(text))
    start = len(tokens)
    for _ in range(3):
        index = torch.tensor([tokens])
        tokens.append(int(_logits(params, index)[0, -1].argmax()))
    cut = tokens[start:]
    cut = cut[: cut.index(TOKENIZER.eos)] if TOKENIZER.eos in cut else cut
    assert written == TOKENIZER.decode(cut)


def _logits(params: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    return functional_call(LanguageModel(SHAPE).double(), params, (tokens,))


def test_one_expert_is_lora() -> None:
    """Its matrices, merged into those of the model, make the same policy."""
    one = Method(Mix(), parameters=LoraMoe(experts=1, rank=2, alpha=6.0))
    params = {name: value[0] for name, value in trained(one).params.items()}
    merged = {}
    for name in PARAMS:
        merged[name] = params[name].clone()
        if name + UP in params:
            merged[name] += 6.0 / 2 * params[f"{name}.up"][0] @ params[f"{name}.down"][0]
    assert sum(name.endswith(UP) for name in params) == 14
    tokens = TASK.sft.tokens[:4]
    assert_close(_logits(params, tokens), _logits(merged, tokens), rtol=1e-9, atol=1e-10)
    assert (_logits(merged, tokens) - _logits(PARAMS, tokens)).abs().max() > 1e-4


def test_the_small_network_reads_the_states_between_blocks() -> None:
    """By hand: its layers, one beside each state, and the shift of the last layer."""
    params = {name: value[0] for name, value in trained(LEVI).params.items()}
    tokens = TASK.sft.tokens[:2]
    model = LanguageModel(SHAPE, 3).double()
    states: list[torch.Tensor] = []
    for block in model.layers:
        block.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    model.norm.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    with torch.no_grad():
        found = model(tokens)
        side = torch.zeros(*tokens.shape, 0).double()
        for k, x in enumerate(states[:3]):
            unit = x / (x.square().mean(-1, keepdim=True) + 2.2e-16).sqrt()
            weight, bias = params[f"side.body.{k}.weight"], params[f"side.body.{k}.bias"]
            inner = torch.cat([side, unit], dim=-1) @ weight.T + bias
            side = inner * torch.sigmoid(inner)
        found = (
            found + side @ params["side.head.weight"].T + model.norm(states[2]) @ params[SHIFT].T
        )
    assert_close(_logits(params, tokens), found, rtol=1e-8, atol=1e-9)


def test_routers_follow_the_balance() -> None:
    """Before adapters say anything, the first step of a router is that of the balance alone."""
    parts = [LoraMoe(experts=4, rank=2, balance=balance) for balance in (0.0, 2.0)]
    about: dict[str, Any] = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.5, "clip": None}
    with pytest.MonkeyPatch.context() as patch:
        seen = drawn(patch, "batch")
        done = [
            trained(Method(Alright(lam=0.0), parameters=part), **about).params for part in parts
        ]
    begun = {
        name: (torch.zeros_like(value[0]) if name.endswith(UP) else value[0].clone())
        for name, value in done[0].items()
    }
    begun = {name: value.requires_grad_() for name, value in begun.items()}
    shares = TASK.expert_shares(begun, 0, next(x for x in reversed(seen) if len(x))[0])
    value = 2.0 * (shares.var((1, 2), correction=0) / shares.mean((1, 2)) ** 2).mean()
    names = [name for name in begun if name.endswith(".router")]
    for name, slope in zip(
        names, torch.autograd.grad(value, [begun[n] for n in names]), strict=True
    ):
        assert_close(done[0][name][0] - done[1][name][0], 0.5 * slope, rtol=1e-6, atol=1e-10)


def test_what_is_added_is_paid_by_its_multiplications() -> None:
    """By hand, for one block of width 32, 8 experts of rank 4, and 19 tokens, of which 10 score."""
    shapes = {"embed_tokens.weight": (384, 32), "layers.0.norm.weight": (32,)}
    shapes |= {f"layers.0.{k}_proj.weight": (32, 32) for k in "qkvo"}
    shapes |= {"layers.0.up.weight": (88, 32), "layers.0.down.weight": (32, 88)}
    block, head = 4 * 32 * 32 + 2 * 88 * 32 + 32, 384 * 32
    whole = 3 * (19 * block + 10 * head)
    experts = 4 * 8 * (4 * 64 + 32) + 8 * (4 * 120 + 32) + 8 * (4 * 120 + 88)
    expected = (19 * (2 * block + 3 * experts) + 2 * 10 * head) / whole
    assert LoraMoe().gradient_cost(shapes, 19, 10) == pytest.approx(expected)
    ladder = 4 * 32 + 4 * (32 + 4) + 4 * 384
    expected = (19 * block + 10 * (3 * head + 3 * ladder)) / whole
    assert SmallModel(size=4).gradient_cost(shapes, 19, 10) == pytest.approx(expected)


@pytest.mark.slow
def test_updates_of_the_board_are_as_many_as_the_budget_pays_for() -> None:
    place = network("language-mild")
    assert place.costs(Method(Mix())) == (1.0, 0.0)
    each, beside = place.costs(Method(Mix(), anchor=DrTune()))
    assert each == 1.0
    assert beside > 0
    steps = {
        name: configuration(find(name), name, "language-mild", 0.5, 64.0, 2)["steps"]
        for name in ("mix", "lora_moe", "levi", "dr_tune")
    }
    assert max(steps["dr_tune"], steps["lora_moe"]) < steps["mix"] < steps["levi"]
