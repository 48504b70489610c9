"""Latent vectors before responses: brute force, generation, identities, costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.func import functional_call

from tests.test_language_task import SHAPE, TASK, TOKENIZER
from tradeoff import objectives
from tradeoff.arena.network_board import network_left_out
from tradeoff.errors import InputError
from tradeoff.methods import Method, find
from tradeoff.methods.losses import MaskedThought, PrefixRft
from tradeoff.methods.parameters import LatentThoughts
from tradeoff.methods.parameters.added import LATENT
from tradeoff.networks.language_model import LanguageModel
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask, one_run
from tradeoff.networks.train import ADDED, Run, train
from tradeoff.schedules import PREFERENCE, SFT, Alright, Mix, Schedule, Sequential

PADDED = replace(TASK, ragged=False)
SETTINGS = {"learning_rate": 1e-2, "batch_size": 4, "clip": 1.0}
MODEL = LanguageModel(SHAPE, 7)


def with_vectors(count: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    own = {name: value.detach() for name, value in MODEL.named_parameters()}
    return {**own, LATENT: drawn / 4}


def states_of(embedded: torch.Tensor) -> torch.Tensor:
    """States (1, time, width) of the last layer, for embeddings that are read."""
    attend = MODEL._attend(embedded, None, None, None, None)
    for number, block in enumerate(MODEL.layers):
        embedded = block(embedded, number, attend)
    return MODEL.norm(embedded)


def embedded(params: dict[str, torch.Tensor], row: torch.Tensor, first: int) -> torch.Tensor:
    """Embeddings of a row, with the vectors before its response."""
    tokens = MODEL.embed_tokens(row)
    return torch.cat([tokens[:first], params[LATENT], tokens[first:]])[None]


def log_prob(params: dict[str, torch.Tensor], row: torch.Tensor, mask: torch.Tensor) -> float:
    """Log-probability of a response, of one row without padding in the middle."""
    first, count = int(mask.int().argmax()), len(params[LATENT])
    scores = states_of(embedded(params, row, first))[0] @ MODEL.embed_tokens.weight.T
    logs = scores.log_softmax(-1)
    places = mask.nonzero()[:, 0].tolist()
    return sum(float(logs[t + count - 1, row[t]]) for t in places)


@torch.no_grad()
@pytest.mark.parametrize("task", [TASK, PADDED], ids=["packed", "padded"])
def test_losses_are_those_of_a_policy_that_reads_the_vectors(task: LanguageTask) -> None:
    params, index = with_vectors(), torch.tensor([3, 0, 7])
    rows, pairs = task.sft, task.pairs
    own = [log_prob(params, rows.tokens[k], rows.mask[k]) for k in index.tolist()]
    expected = -sum(own) / int(rows.mask[index].sum())
    assert float(task.losses(params, SFT, index)) == pytest.approx(expected, rel=1e-5)
    tokens = task.tokens(params, index)
    total = float((tokens.log_probs * tokens.counted).sum())
    assert total == pytest.approx(sum(own), rel=1e-5)
    sides = [
        [log_prob(params, pairs.tokens[k, side], pairs.mask[k, side]) for k in index.tolist()]
        for side in (0, 1)
    ]
    margins = torch.tensor(sides[0]) - torch.tensor(sides[1])
    zero = torch.zeros(3)
    found = task.losses(params, PREFERENCE, index, zero)
    assert float(found) == pytest.approx(float(objectives.dpo(margins, task.beta).mean()), rel=1e-5)
    few = rows.take(index)
    every, targets = task.every_token(params, few)
    total = float(every.gather(1, targets[:, None]).sum())
    assert total == pytest.approx(sum(own), rel=1e-5)
    logits = torch.cat(task.demonstrated_logits(params, index))
    assert_allclose(logits.log_softmax(-1), every, atol=1e-5)


@torch.no_grad()
def test_thoughts_are_the_states_at_their_places() -> None:
    params, index = with_vectors(), torch.tensor([5, 2])
    for task in (TASK, PADDED):
        found = task.thoughts(params, index)
        assert found.shape == (2, 6, 16)
        for k, row in enumerate(index.tolist()):
            tokens, mask = task.sft.tokens[row], task.sft.mask[row]
            first = int(mask.int().argmax())
            states = states_of(embedded(params, tokens, first))[0]
            moved = torch.cat([mask[:first], torch.zeros(3, dtype=torch.bool), mask[first:]])
            expected = [states[first - 1], states[:first].mean(0), states[moved].mean(0)]
            assert_allclose(found[k, :3], torch.stack(expected), atol=1e-5)
            assert_allclose(found[k, 3:], states[first : first + 3], atol=1e-5)


def test_the_two_losses_by_their_formulas() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(5, 7, 6))
    part = LatentThoughts(contrast=0.7, closeness=0.2, temperature=0.3)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    def softmax(v: np.ndarray) -> np.ndarray:
        return np.exp(v) / np.exp(v).sum()

    total = 0.0
    for row in seen:
        end, prompt, response, *thoughts = row
        best = int(np.argmax([cosine(response, t) for t in thoughts]))
        shares = softmax(np.array([cosine(end, t) for t in thoughts]) / 0.3)
        p, q = softmax(prompt), softmax(np.mean(thoughts, axis=0))
        total += 0.7 * -np.log(shares[best]) + 0.2 * float(p @ np.log(p / q))
    assert float(part.penalty(seen, SFT)) == pytest.approx(total / 5)
    assert float(part.penalty(torch.from_numpy(seen), SFT)) == pytest.approx(total / 5)
    # One thought is the positive; a thought like the prompt is as close as can be.
    alone = np.repeat(seen[:, :1], 4, axis=1)
    assert float(part.penalty(alone, SFT)) == pytest.approx(0.0, abs=1e-12)


@torch.no_grad()
def test_answers_are_written_after_the_vectors() -> None:
    params, prompt = with_vectors(), TASK.data.sft_test[0].prompt
    (found,) = TASK.answer(params, [prompt], max_new_tokens=5)
    ids = TOKENIZER.encode_many([prompt])[0]
    first, written = len(ids), []
    for _ in range(5):
        row = torch.tensor([*ids, *written])
        scores = states_of(embedded(params, row, first))[0, -1] @ MODEL.embed_tokens.weight.T
        if (token := int(scores.argmax())) == TOKENIZER.eos:
            break
        written.append(token)
    assert found == TOKENIZER.decode(written)
    plain = {name: value for name, value in params.items() if name != LATENT}
    none = {**params, LATENT: torch.zeros(3, 16)}
    assert TASK.answer(none, [prompt]) == TASK.answer(plain, [prompt])
    assert not hasattr(MODEL, LATENT)


@torch.no_grad()
@pytest.mark.parametrize("task", [TASK, PADDED], ids=["packed", "padded"])
def test_zeros_stand_for_no_vectors(task: LanguageTask) -> None:
    some = with_vectors()
    plain = {name: value for name, value in some.items() if name != LATENT}
    stacked = {n: torch.stack([v, v, v]) for n, v in plain.items()}
    zero = torch.zeros(3, 16)
    stacked[LATENT] = torch.stack([zero, some[LATENT], zero])
    found = task.token_loss(stacked, task.test_sft)
    expected = [
        task.token_loss({n: v[None] for n, v in one.items()}, task.test_sft)[0]
        for one in (plain, some, plain)
    ]
    assert_allclose(found, expected, rtol=1e-5)
    assert abs(float(expected[0] - expected[1])) > 1e-3


@pytest.mark.parametrize(
    ("schedule", "task"),
    [(Mix(lam=0.4), TASK), (Sequential(), TASK), (Alright(lam=0.6), PADDED)],
    ids=["mix", "sft-dpo", "padded"],
)
def test_without_vectors_it_is_the_plain_method(schedule: Schedule, task: LanguageTask) -> None:
    none = Method(schedule, parameters=LatentThoughts(vectors=0))
    found = train(task, [Run(none, 1)], steps=4, **SETTINGS)
    plain = train(task, [Run(schedule, 1)], steps=4, **SETTINGS)
    assert found.params.keys() == plain.params.keys()
    for name, value in plain.params.items():
        assert torch.equal(found.params[name], value)
    assert none.updates(100.0) == Method(schedule).updates(100.0)


@pytest.mark.slow
def test_training_moves_the_vectors_and_keeps_a_frozen_network() -> None:
    frozen = Method(Alright(lam=0.0), parameters=LatentThoughts(frozen=True))
    whole = Method(Alright(lam=0.0), parameters=LatentThoughts())
    bare = Method(
        Alright(lam=0.0), parameters=LatentThoughts(frozen=True, contrast=0.0, closeness=0.0)
    )
    runs = [Run(method, 2) for method in (frozen, whole, bare)]
    done = train(TASK, [*runs, Run(Mix(), 2)], steps=16, evaluate_every=16, **SETTINGS)
    base = TASK.initial([0])
    for name, value in base.items():
        assert torch.equal(done.params[name][0], value[0])
        assert not torch.equal(done.params[name][1], value[0])
    # The first vectors are drawn by the seed, and the other two losses move them elsewhere.
    assert not torch.allclose(done.params[LATENT][0], done.params[LATENT][2], atol=1e-3)
    assert not done.params[LATENT][3].any()
    losses = done.table.pivot(index="step", columns="run", values="sft_loss_train")
    # Before the first update a policy is that which was given.
    assert losses.iloc[0].nunique() == 1
    drawn = LatentThoughts().trained(
        {n: tuple(v.shape[1:]) for n, v in base.items()}, np.random.default_rng((2, ADDED))
    )
    begun = {**base, LATENT: torch.from_numpy(drawn[LATENT])[None].float()}
    first = TASK.evaluate(begun, TASK.reference(base))["sft_loss_train"][0]
    assert (losses.iloc[-1][[1, 2, 3]] < first - 0.01).all()
    # What is recorded is the loss of what is returned.
    again = TASK.evaluate(done.params, TASK.reference(base).expand(4))
    assert_allclose(again["sft_loss_train"], losses.iloc[-1], rtol=1e-5)
    alone = train(PADDED, runs[1:2], steps=16, evaluate_every=16, **SETTINGS)
    assert_allclose(one_run(alone.params, 0)[LATENT], one_run(done.params, 1)[LATENT], atol=2e-3)


def test_costs_and_places() -> None:
    part = LatentThoughts(vectors=5, contrast=0.0, closeness=0.0)
    assert Method(Mix(), parameters=part).updates(1000, pair=2.0) == round(1000 / (3 * 1.25))
    both = Method(Mix(), parameters=LatentThoughts(vectors=5))
    assert both.updates(1000, pair=2.0) == round(1000 / (3 * 1.25 + 1.25))
    found = find("lta")
    assert found.by_token
    assert "tokens before" in str(found.unsupported("convex"))
    assert found.unsupported("networks") is None
    assert network_left_out("lta", "language") is None
    assert "token" in str(network_left_out("lta", "policies"))


def test_what_it_does_not_go_with_is_one_clear_error() -> None:
    finite = PolicyTask(policy_data(0, demonstrations=8, pairs=8), PolicyConfig(width=4, depth=1))
    with pytest.raises(InputError, match="tokens of responses"):
        train(finite, [Run(find("lta"), 0)], steps=1, learning_rate=0.1)
    masked = Method(Mix(), sft=MaskedThought(), parameters=LatentThoughts())
    with pytest.raises(InputError, match="packed only"):
        train(PADDED, [Run(masked, 0)], steps=1, **SETTINGS)
    train(TASK, [Run(masked, 0)], steps=1, **SETTINGS)
    for more in (
        {"sft": PrefixRft()},
        {"anchor": find("dr_tune").anchor},
        {"anchor": find("view_consistency").anchor},
    ):
        method = Method(Mix(), parameters=LatentThoughts(), **more)
        with pytest.raises(InputError, match="without latent vectors"):
            train(TASK, [Run(method, 0)], steps=1, **SETTINGS)


@pytest.mark.parametrize("task", [TASK, PADDED], ids=["packed", "padded"])
def test_anchors_of_laws_read_the_vectors(task: LanguageTask) -> None:
    params, index = with_vectors(), torch.tensor([3, 0])
    laws, own = task.viewed(params, SFT, index)
    expected = torch.cat(task.demonstrated_logits(params, index)).log_softmax(-1)
    assert_allclose(laws[own > 0].detach(), expected, atol=1e-5)
    plain = {name: value for name, value in params.items() if name != LATENT}
    assert not torch.allclose(task.viewed(plain, SFT, index)[0][-1], laws[-1])


def test_a_module_is_left_as_it_was() -> None:
    model = LanguageModel(SHAPE, 1)
    tokens = torch.tensor([[1, SHAPE.vocabulary, 2]])
    functional_call(model, with_vectors(1), (tokens,))
    assert not hasattr(model, LATENT)
