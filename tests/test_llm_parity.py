"""Our results equal those of TRL 1.16: losses, gradients and whole trajectories."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import llm_trl
import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama, tiny_neox
from llm_runs import begin, preference_rows, sft_rows, trainer
from torch import Tensor

from tradeoff.llm import _reference_values
from tradeoff.llm._losses import preference
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.trainer import JointTrainer
from tradeoff.schedules import Alright, Maxright, Mix, Sequential

pytestmark = pytest.mark.filterwarnings(llm_trl.IGNORED)
TOKENIZER = bpe_tokenizer_hf()
SFT, PAIRS = sft_rows(), preference_rows()
MODELS: dict[str, Callable[..., Any]] = {"llama": tiny_llama, "neox": tiny_neox}
OURS = {"learning_rate": llm_trl.RATE, "max_length": llm_trl.LENGTH, "holdout": 0.0}
QUIET = {"evaluate_every": 100, "log_every": 100}


@pytest.fixture(autouse=True)
def _in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    llm_trl.in_order(monkeypatch)


def gradients(model: Any) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def parameters(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def folder_of(model: Any, place: Path) -> str:
    model.save_pretrained(place)
    TOKENIZER.save_pretrained(place)
    return str(place)


@cache
def dpo_of_trl(loss: str, name: str) -> tuple[float, dict[str, Tensor]]:
    """TRL's loss and gradient on the first four pairs; the reference is another model."""
    model, other = MODELS[name](len(TOKENIZER)), MODELS[name](len(TOKENIZER), seed=1)
    with tempfile.TemporaryDirectory() as place:
        theirs = llm_trl.dpo(model, other, TOKENIZER, PAIRS, place, loss_type=[loss], beta=0.3)
        batch = theirs.data_collator([theirs.train_dataset[i] for i in range(4)])
        expected = theirs.compute_loss(theirs.model, batch)
        expected.backward()
    return float(expected.detach()), gradients(theirs.model)


@cache
def trained_by_trl(kind: str, name: str) -> dict[str, Tensor]:
    """Parameters of a model after TRL's SFT or DPO."""
    model = MODELS[name](len(TOKENIZER))
    with tempfile.TemporaryDirectory() as place:
        if kind == "sft":
            theirs = llm_trl.sft(model, TOKENIZER, SFT, place)
        else:
            theirs = llm_trl.dpo(model, model, TOKENIZER, PAIRS, place)
        theirs.train()
    return parameters(theirs.model)


def ours(model: Any, schedule: Any, **settings: Any) -> JointTrainer:
    return trainer(
        schedule,
        model=copy.deepcopy(model),
        sft=SFT,
        preference=PAIRS,
        **{**OURS, **QUIET, **settings},
    )


def backward(run: JointTrainer) -> tuple[dict[str, Tensor], list[float]]:
    """Gradients and losses of the first update."""
    begin(run)
    passes = run.feed.passes(0, run.plan.rule, run._follow)
    losses = [float(loss) for loss in run._backward(passes)]
    return gradients(run.model), losses


# ---------------------------------------------------------------------- one batch


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "hinge", "ipo"])
def test_preference_losses_and_gradients(loss: str, layout: str, name: str, tmp_path: Path) -> None:
    model, other = MODELS[name](len(TOKENIZER)), MODELS[name](len(TOKENIZER), seed=1)
    expected, slopes = dpo_of_trl(loss, name)
    run = ours(
        model,
        Alright(lam=1.0),
        loss=loss,
        beta=0.3,
        layout=layout,
        reference=folder_of(other, tmp_path / "other"),
    )
    found, losses = backward(run)
    assert losses[1] == pytest.approx(expected, abs=1e-5)
    assert abs(losses[1] - 0.6931) > 1e-4  # The reference is another model.
    assert largest_difference(found, slopes) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_sft_loss_and_gradient(layout: str, name: str, tmp_path: Path) -> None:
    model = MODELS[name](len(TOKENIZER))
    theirs = llm_trl.sft(model, TOKENIZER, SFT, tmp_path)
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(4)])
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()
    found, losses = backward(ours(model, Alright(lam=0.0), layout=layout))
    assert losses[0] == pytest.approx(float(expected.detach()), abs=1e-5)
    assert largest_difference(found, gradients(theirs.model)) <= 1e-5


def test_rewards_and_accuracies_have_the_values_and_names_of_trl(tmp_path: Path) -> None:
    model, other = tiny_llama(len(TOKENIZER)), tiny_llama(len(TOKENIZER), seed=1)
    theirs = llm_trl.dpo(model, other, TOKENIZER, PAIRS, tmp_path, beta=0.2)
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(len(PAIRS))])
    theirs.compute_loss(theirs.model, batch)
    settings = {"reference": folder_of(other, tmp_path / "other"), "reference_rows": "all"}
    run = begin(ours(model, Alright(), beta=0.2, **settings))
    assert run.references is not None
    found = run.scorer.mean_pairs(run.data.preference, run.references.train)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        (expected,) = theirs._metrics["train"][name]
        assert found[name] == pytest.approx(expected, abs=1e-5)
    (expected,) = theirs._metrics["train"]["rewards/accuracies"]
    assert found["preference_accuracy"] == pytest.approx(expected, abs=1e-6)


def test_label_smoothing_is_heeded_where_trl_ignores_it(tmp_path: Path) -> None:
    model, other = tiny_llama(len(TOKENIZER)), tiny_llama(len(TOKENIZER), seed=1)
    losses = []
    for smoothing in (0.0, 0.2):
        theirs = llm_trl.dpo(
            model, other, TOKENIZER, PAIRS, tmp_path, label_smoothing=smoothing, beta=0.3
        )
        batch = theirs.data_collator([theirs.train_dataset[i] for i in range(4)])
        losses.append(float(theirs.compute_loss(theirs.model, batch).detach()))
    assert losses[0] == losses[1]  # TRL ignores it without a message.
    run = ours(
        model,
        Alright(lam=1.0),
        beta=0.3,
        label_smoothing=0.2,
        reference=folder_of(other, tmp_path / "other"),
    )
    _, found = backward(run)
    run = ours(model, Alright(lam=1.0), beta=0.3, reference=str(tmp_path / "other"))
    begin(run)
    assert run.references is not None
    margins = _margins(run)
    expected = -0.8 * torch.nn.functional.logsigmoid(
        0.3 * margins
    ) - 0.2 * torch.nn.functional.logsigmoid(-0.3 * margins)
    assert found[1] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert abs(found[1] - losses[0]) > 1e-3


def _margins(run: JointTrainer) -> Tensor:
    """Margins of the first four pairs from log-probabilities, in nats."""
    assert isinstance(run.references.train, _reference_values.Cached)
    policy = run.scorer.log_probs(run.data.preference)[:4]
    fixed = run.references.train.table[:4]
    return (policy - fixed)[:, 0] - (policy - fixed)[:, 1]


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "hinge", "ipo"])
def test_losses_of_log_probabilities_are_the_formulas(loss: str) -> None:
    made = torch.Generator().manual_seed(0)
    policy, fixed = 5 * torch.randn(2, 8, generator=made, dtype=torch.float64)
    lengths = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    found = preference(policy, fixed, lengths, TrainConfig(loss=loss, beta=0.2)).loss
    ratio = policy - fixed
    delta = ratio[:4] - ratio[4:]
    mean = ratio[:4] / lengths[:4] - ratio[4:] / lengths[4:]
    expected = {
        "sigmoid": torch.log1p(torch.exp(-0.2 * delta)),
        "sigmoid_norm": torch.log1p(torch.exp(-0.2 * mean)),
        "hinge": torch.clamp(1 - 0.2 * delta, min=0),
        "ipo": (mean - 2.5) ** 2,
    }[loss]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- trajectories


# AdamW divides by the size of a gradient. Where that is almost zero, its rounding changes weights;
# rounding differs more between layouts than between equal ones.
CLOSE = {"padded": 5e-6, "packed": 1e-5}


@pytest.mark.parametrize("layout", CLOSE)
@pytest.mark.parametrize("name", MODELS)
def test_alright_at_weight_one_is_the_dpo_of_trl(name: str, layout: str) -> None:
    model, theirs = MODELS[name](len(TOKENIZER)), trained_by_trl("dpo", name)
    run = ours(model, Alright(lam=1.0), steps=8, layout=layout)
    run.train(progress=False)
    moved = largest_difference(parameters(run.model), parameters(model))
    assert moved > 1e-3
    assert largest_difference(parameters(run.model), theirs) <= CLOSE[layout]


@pytest.mark.parametrize("layout", CLOSE)
@pytest.mark.parametrize("name", MODELS)
def test_alright_at_weight_zero_is_the_sft_of_trl(name: str, layout: str) -> None:
    model, theirs = MODELS[name](len(TOKENIZER)), trained_by_trl("sft", name)
    run = ours(model, Alright(lam=0.0), steps=8, layout=layout)
    run.train(progress=False)
    assert largest_difference(parameters(run.model), theirs) <= CLOSE[layout]


@pytest.mark.slow
def test_sequential_is_the_sft_of_trl_and_then_its_dpo(tmp_path: Path) -> None:
    model = tiny_llama(len(TOKENIZER))
    first = llm_trl.sft(model, TOKENIZER, SFT, tmp_path, steps=6)
    first.train()
    second = llm_trl.dpo(first.model, first.model, TOKENIZER, PAIRS, tmp_path, steps=6)
    second.train()
    run = ours(model, Sequential(share=0.5), steps=12, reference="stage", layout="padded")
    run.train(progress=False)
    assert largest_difference(parameters(run.model), parameters(second.model)) <= 5e-6
    # Momentum kept from the first stage would give other weights.
    place = folder_of(first.model, tmp_path / "first")
    carried = ours(model, Sequential(share=0.5), steps=12, reference=place, layout="padded")
    object.__setattr__(carried.plan, "clock", np.arange(1, 13))
    carried.train(progress=False)
    assert largest_difference(parameters(carried.model), parameters(second.model)) > 1e-4


def test_the_gradient_of_mix_is_the_weighted_sum(tmp_path: Path) -> None:
    model, other = tiny_llama(len(TOKENIZER)), tiny_llama(len(TOKENIZER), seed=1)
    dpo = llm_trl.dpo(model, other, TOKENIZER, PAIRS, tmp_path)
    sft = llm_trl.sft(model, TOKENIZER, SFT, tmp_path)
    for theirs in (dpo, sft):
        batch = theirs.data_collator([theirs.train_dataset[i] for i in range(4)])
        theirs.compute_loss(theirs.model, batch).backward()
    parts = gradients(sft.model), gradients(dpo.model)
    expected = {name: 0.7 * parts[0][name] + 0.3 * parts[1][name] for name in parts[0]}
    run = ours(model, Mix(lam=0.3), reference=folder_of(other, tmp_path / "other"))
    found, losses = backward(run)
    assert largest_difference(found, expected) <= 1e-5
    assert largest_difference(found, parts[0]) > 1e-3
    assert min(losses) > 0


@pytest.mark.slow
def test_maxright_follows_the_larger_weighted_gap() -> None:
    """Every choice is compared with losses of all rows by TRL's formula, before the update."""
    model = tiny_llama(len(TOKENIZER))
    optima, lam = (3.0, 0.2), 0.75
    before: list[tuple[Any, list[int]]] = []

    def look(run: JointTrainer, record: dict[str, Any]) -> None:
        before.append((copy.deepcopy(run._bare.model), list(run.tally.updates)))

    run = trainer(
        Maxright(lam=lam, refresh=1),
        model=copy.deepcopy(model),
        sft=SFT,
        preference=PAIRS,
        **OURS | {"learning_rate": 1e-2},
        steps=10,
        evaluate_every=1,
        optima=optima,
        callbacks=(look,),
    )
    run.train(progress=False)
    fixed = _plain_pairs(model, run)
    chosen, expected = [], []
    for (state, counts), (_, later) in itertools.pairwise(before):
        ratio = _plain_pairs(state, run) - fixed
        preference_loss = -torch.nn.functional.logsigmoid(0.1 * (ratio[:, 0] - ratio[:, 1])).mean()
        gaps = (_plain_sft(state, run) - optima[0], float(preference_loss) - optima[1])
        expected.append(int(lam * gaps[1] > (1 - lam) * gaps[0]))
        chosen.append(later[1] - counts[1])
    assert chosen == expected
    assert 0 < sum(chosen) < len(chosen)


@torch.no_grad()
def _token_losses(model: Any, tokens: Any, start: int) -> Tensor:
    ids = torch.from_numpy(tokens)[None]
    log_probs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return log_probs[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]


def _plain_pairs(model: Any, run: JointTrainer) -> Tensor:
    return torch.stack(
        [
            torch.stack(
                [_token_losses(model, ids, x.start).sum() for ids in (x.chosen, x.rejected)]
            )
            for x in run.data.preference
        ]
    )


def _plain_sft(model: Any, run: JointTrainer) -> float:
    found = torch.cat([_token_losses(model, x.tokens, x.start) for x in run.data.sft])
    return -float(found.mean())
