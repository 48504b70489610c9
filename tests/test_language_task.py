"""The tiny language model in training: losses by plain torch, one reference, scored answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal

from tradeoff.data.synthetic import Language, exact_match, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.errors import InputError
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask, pretrain
from tradeoff.networks.tasks import one_run, over_runs
from tradeoff.networks.train import Run, train
from tradeoff.schedules import PREFERENCE, SFT, Alright, Maxright, Mix, Sequential

DATA = generate(
    Language(
        sft_rows=60,
        preference_rows=40,
        test_rows=45,
        documents=400,
        skills=("count", "sort"),
        preferences=("polite", "short"),
    )
)
TOKENIZER = train_tokenizer(DATA.corpus, 300)
SHAPE = LanguageModelConfig(vocabulary=len(TOKENIZER), width=16, layers=2, heads=2, hidden=24)
BASE = pretrain(SHAPE, DATA.corpus, TOKENIZER, steps=20, batch_size=8, length=32)
TASK = LanguageTask.of(BASE, DATA, TOKENIZER, evaluation_rows=20)
RUNS = (
    Run(Sequential(replay=0.5), 0),
    Run(Mix(lam=0.3), 1),
    Run(Alright(lam=0.7), 0),
    Run(Maxright(refresh=2, samples=6), 2),
)
SETTINGS = {"steps": 6, "learning_rate": 1e-2, "batch_size": 4, "optima": [0.0, 0.0], "clip": 1.0}


def summed(model: LanguageModel, tokens: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """Log-probability of each masked part, one row and one token at a time."""
    totals = []
    for row, counted in zip(tokens, mask, strict=True):
        scores = model(row[None])[0].log_softmax(-1)
        places = counted.nonzero()[:, 0].tolist()
        totals.append(sum(float(scores[t - 1, row[t]].detach()) for t in places))
    return totals


@pytest.mark.slow
def test_a_model_in_float64_keeps_its_digits() -> None:
    double = LanguageModel(SHAPE, 5).double()
    known = replace(TASK, base=double)
    params = {name: value.detach() for name, value in double.named_parameters()}
    index = torch.tensor([3, 0, 7])
    tokens, mask = TASK.sft.tokens[index], TASK.sft.mask[index]
    expected = -sum(summed(double, tokens, mask)) / int(mask.sum())
    assert_allclose(float(known.losses(params, SFT, index)), expected, rtol=1e-13)
    assert known.answer(params, ["x"]) == known.answer(params, ["x"])
    trained = train(known, RUNS[1:2], **SETTINGS)
    assert {value.dtype for value in trained.params.values()} == {torch.float64}


def test_losses_are_per_token_and_per_pair() -> None:
    moved = LanguageModel(SHAPE, 5)
    params = dict(moved.named_parameters())
    index = torch.tensor([3, 0, 7])
    tokens, mask = TASK.sft.tokens[index], TASK.sft.mask[index]
    expected = -sum(summed(moved, tokens, mask)) / int(mask.sum())
    found = TASK.losses(params, SFT, index)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    pairs = TASK.pairs
    sides = [
        np.array(summed(model, pairs.tokens[index, side], pairs.mask[index, side]))
        for model in (moved, BASE)
        for side in (0, 1)
    ]
    margins = (sides[0] - sides[1]) - (sides[2] - sides[3])
    reference = TASK.reference(TASK.initial([0])).train[0, index]
    assert_allclose(reference.numpy(), sides[2] - sides[3], rtol=1e-4, atol=1e-4)
    found = TASK.losses(params, PREFERENCE, index, reference)
    expected = np.logaddexp(0, -TASK.beta * margins).mean()
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_measures_are_means_over_the_rows_looked_at() -> None:
    moved = LanguageModel(SHAPE, 5)
    params = {name: p.detach()[None] for name, p in moved.named_parameters()}
    reference = TASK.reference(TASK.initial([0]))
    found = TASK.evaluate(params, reference)
    shown = TASK.test_sft.take(range(20))
    expected = -sum(summed(moved, shown.tokens, shown.mask)) / int(shown.mask.sum())
    assert_allclose(found["sft_loss"], expected, rtol=1e-5)
    every, one = torch.arange(20), one_run(params, 0)
    for objective, name in ((SFT, "sft_loss_train"), (PREFERENCE, "preference_loss_train")):
        shift = reference.train[0, :20] if objective else None
        assert_allclose(found[name], float(TASK.losses(one, objective, every, shift)), rtol=1e-5)
    assert 0 <= found["preference_accuracy"][0] <= 1


def test_the_base_is_its_own_reference() -> None:
    base = TASK.initial([0, 1, 2])
    found = TASK.evaluate(base, TASK.reference(base))
    assert_allclose(found["preference_loss"], np.log(2), rtol=1e-5)
    assert_allclose(found["preference_margin"], 0, atol=1e-4)


@pytest.mark.parametrize("objective", [SFT, PREFERENCE])
def test_rows_end_to_end_train_as_padded_and_vmapped_ones(objective: int) -> None:
    models = [LanguageModel(SHAPE, seed).double() for seed in range(3)]
    names = list(TASK.initial([0]))
    found = {}
    for ragged in (True, False):
        task = replace(TASK, base=models[0], ragged=ragged)
        assert task.batched == (not ragged)
        params = {
            n: torch.stack([dict(m.named_parameters())[n].detach() for m in models]) for n in names
        }
        leaves = {n: p.requires_grad_() for n, p in params.items()}
        index = torch.tensor([[0, 1, 9], [5, 5, 30], [7, 2, 1]])
        shift = [torch.tensor([[0.3, -1.0, 2.0]] * 3)] if objective else []
        one = lambda given, *rows, task=task: task.losses(given, objective, *rows)  # noqa: E731
        losses = over_runs(one, task.batched)(leaves, index, *shift)
        slopes = torch.autograd.grad(losses.sum(), list(leaves.values()))
        found[ragged] = [losses.detach(), *slopes]
        with torch.no_grad():
            measured = task.evaluate(leaves, task.reference(leaves))
            found[ragged] += [torch.from_numpy(m) for m in measured.values()]
    for laid, padded in zip(found[True], found[False], strict=True):
        assert_allclose(laid.numpy(), padded.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_is_the_same_bit_for_bit_in_any_company_and_on_any_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    together = train(TASK, RUNS, **SETTINGS)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    for place, run in enumerate(RUNS):
        alone = train(TASK, [run], **SETTINGS)
        for name, value in together.params.items():
            assert torch.equal(value[place], alone.params[name][0])
        own = together.table[together.table["run"] == place]
        assert_frame_equal(
            own.drop(columns=["run", "seconds", "schedule"]).reset_index(drop=True),
            alone.table.drop(columns=["run", "seconds", "schedule"]),
        )


def test_a_batch_of_runs_makes_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = TASK.reference(TASK.initial([0])).test
    monkeypatch.setattr("tradeoff.networks.language_task._SHELLS", None)
    padded = replace(TASK, ragged=False).reference(TASK.initial([0])).test
    assert_allclose(padded.numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_padded_runs_do_not_depend_on_their_company() -> None:
    task = replace(TASK, ragged=False)
    together = train(task, RUNS, **SETTINGS)
    chunked = train(task, RUNS[::-1], **SETTINGS, at_once=3)
    for place, run in enumerate(RUNS):
        alone = train(task, [run], **SETTINGS)
        for name, value in together.params.items():
            for other in (alone.params[name][0], chunked.params[name][-1 - place]):
                assert_allclose(value[place].numpy(), other.numpy(), atol=1e-3)
        end = alone.table.iloc[-1]
        last = together.table[together.table["run"] == place].iloc[-1]
        for name in ("sft_loss", "preference_loss", "sft_updates", "probe_rows"):
            assert last[name] == pytest.approx(end[name], rel=1e-3)


@pytest.mark.slow
def test_sft_learns_and_answers_are_scored() -> None:
    settings = {**SETTINGS, "steps": 30, "batch_size": 16}
    task = replace(TASK, generated_rows=10)
    done = train(task, [Run(Alright(lam=0.0), 0)], **settings, evaluate_every=30)
    start, end = done.table.iloc[0], done.table.iloc[-1]
    assert end["sft_loss"] < start["sft_loss"] - 0.3
    rows = DATA.sft_test[:10]
    outputs = task.answer(one_run(done.params, 0), [row.prompt for row in rows])
    by_skill = exact_match(rows, outputs)
    assert end["exact_match"] == pytest.approx(np.mean(list(by_skill.values())))
    for name in ("answer_match", "exact_match/sort", "preference_match/polite"):
        assert 0 <= end[name] <= 1


def test_only_an_untied_model_has_a_last_layer_of_its_own() -> None:
    with pytest.raises(InputError, match="tied"):
        train(TASK, RUNS[:1], **SETTINGS, last_layer_only=True)
    base = LanguageModel(replace(SHAPE, tied=False))
    task = LanguageTask.of(base, DATA, TOKENIZER, evaluation_rows=8)
    done = train(task, RUNS[:2], **SETTINGS, last_layer_only=True)
    start = task.initial([0])
    for name, value in done.params.items():
        assert torch.equal(value, start[name].expand_as(value)) == (name != "lm_head.weight")


def test_pretraining_is_a_function_of_its_seed_and_lowers_the_loss() -> None:
    settings = {"steps": 20, "batch_size": 8, "length": 32}
    torch.set_num_threads(4)
    again = pretrain(SHAPE, DATA.corpus, TOKENIZER, **settings)
    other = pretrain(SHAPE, DATA.corpus, TOKENIZER, **settings, seed=1)
    for name, p in BASE.named_parameters():
        assert torch.equal(p, dict(again.named_parameters())[name])
    assert not torch.equal(BASE.norm.weight, other.norm.weight)
    losses = []
    for model in (BASE, LanguageModel(SHAPE)):
        params = {name: p.detach() for name, p in model.named_parameters()}
        losses.append(float(TASK.losses(params, SFT, torch.arange(30))))
    assert losses[0] < losses[1] - 0.5
