"""Third measures of networks: against the convex ones, by hand, and at policies of known drift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tradeoff.arena.measures import calibration_error, changed_rows, measures
from tradeoff.arena.network_measures import network_measures
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.networks.batches import packed_batch
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.policies import HEAD, PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask, one_run

POLICIES = PolicyTask(
    policy_data(0, prompts=20, test_prompts=20, demonstrations=30, pairs=30, test_rows=400),
    PolicyConfig(width=6, depth=1),
    dtype=torch.float64,
)


def policies(runs: int, scale: float = 3.0) -> dict[str, torch.Tensor]:
    found = POLICIES.initial(range(runs))
    drawn = torch.Generator().manual_seed(1)
    head = torch.randn(found[HEAD].shape, generator=drawn, dtype=torch.float64)
    return {**found, HEAD: scale * head}


def test_policies_have_the_measures_of_their_last_layers() -> None:
    ends, known = policies(4), policies(2, 5.0)
    base = POLICIES.initial([0])
    found = network_measures(POLICIES, ends, base, known)
    for run in range(4):
        one = one_run(ends, run)
        problem = POLICIES.last_layer(one, 1e3, held_out=True)
        theta = one[HEAD].reshape(1, -1).numpy()
        convex = measures(problem, theta)
        for name in ("kl", "calibration"):
            assert found[name][run] == pytest.approx(convex[name][0], rel=1e-9)
        other = one_run(known, run % 2)
        at = [
            POLICIES.last_layer(each, 1e3, held_out=True).log_probs(each[HEAD].numpy().ravel())
            for each in (one, other)
        ]
        right = [z[problem.demonstrations] >= z.reshape(-1, 8).max(axis=1).repeat(8)[
            problem.demonstrations] for z in at]  # fmt: skip
        assert found["lost"][run] == pytest.approx(np.mean(right[1] & ~right[0]))
        assert found["gained"][run] == pytest.approx(np.mean(right[0] & ~right[1]))


def test_a_policy_has_lost_nothing_to_itself() -> None:
    ends = policies(3)
    found = network_measures(POLICIES, ends, ends, ends)
    for name in ("kl", "lost", "gained", "flips"):
        np.testing.assert_allclose(found[name], 0.0, atol=1e-15)
    assert (found["calibration"] > 0.05).all()


def test_flips_of_unrelated_rows_are_one() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 4000, 30)) < np.array([0.4, 0.7])[:, None, None]
    weights = np.full(4000, 1 / 4000)
    assert changed_rows(before, after, weights)["flips"].mean() == pytest.approx(1.0, abs=0.02)
    assert (changed_rows(before, before, weights)["flips"] == 0.0).all()


def test_answers_that_are_as_right_as_they_are_sure_are_calibrated() -> None:
    confidence = np.random.default_rng(0).random((500, 2))
    weights = np.full(500, 1 / 500)
    assert calibration_error(confidence, confidence, weights).max() == 0.0
    # Two rows in one bin: 1 and 0 against .72 and .78 are .25 off in the mean.
    two = calibration_error(
        np.array([[0.72], [0.78]]), np.array([[True], [False]]), np.full(2, 0.5)
    )
    assert two[0] == pytest.approx(0.25)


@pytest.fixture(scope="module")
def language() -> LanguageTask:
    settings = Language(
        sft_rows=20, preference_rows=20, test_rows=20, documents=120, skills=("count", "sort"),
        preferences=("polite", "short"),
    )  # fmt: skip
    data = generate(settings)
    tokenizer = train_tokenizer(data.corpus, 280)
    shape = LanguageModelConfig(vocabulary=len(tokenizer), width=16, layers=1, hidden=24)
    return LanguageTask.of(LanguageModel(shape, 3), data, tokenizer)


def moved(task: LanguageTask, runs: int) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return {
        name: value + 0.3 * torch.randn((runs, *value.shape[1:]), generator=drawn)
        for name, value in task.initial([0]).items()
    }


@pytest.mark.slow
def test_tokens_before_each_token_are_those_of_the_loss(language: LanguageTask) -> None:
    base, rows = language.initial([0]), language.test_sft
    every, targets = language.every_token(one_run(base, 0), rows)
    assert every.shape == (int(rows.mask.sum()), language.base.config.vocabulary)
    picked = every.gather(1, targets[:, None]).mean()
    assert float(language.token_loss(base, rows)[0]) == pytest.approx(-float(picked), rel=1e-5)
    padded = replace(language, ragged=False).every_token(one_run(base, 0), rows)
    torch.testing.assert_close(padded[0], every, rtol=1e-4, atol=1e-5)
    assert torch.equal(padded[1], targets)


def test_language_models_drift_by_token_and_on_documents(language: LanguageTask) -> None:
    blocks = packed_batch(language.data.corpus, language.tokenizer, 32)
    base, ends = language.initial([0]), moved(language, 2)
    same = network_measures(language, base, base, base, lambda: blocks)
    for name in ("kl", "lost", "gained", "flips", "documents"):
        assert same[name] == pytest.approx(0.0, abs=1e-6)
    found = network_measures(language, ends, base, moved(language, 1), lambda: blocks)
    assert "documents" not in network_measures(language, base, base, base)
    assert (found["kl"] > 0.01).all()
    loss = [language.token_loss(each, blocks).numpy() for each in (ends, base)]
    np.testing.assert_allclose(found["documents"], loss[0] - loss[1], rtol=1e-6)
    every, targets = language.every_token(one_run(ends, 1), language.test_sft)
    old, _ = language.every_token(one_run(base, 0), language.test_sft)
    kl = (every.exp() * (every - old)).sum(1).mean()
    assert found["kl"][1] == pytest.approx(float(kl), rel=1e-5)
    right = every.argmax(1) == targets
    sure = every.exp().amax(1)
    bins = (sure * 10).int().clamp(max=9)
    by_hand = sum(abs(float((right.double() - sure)[bins == k].sum())) for k in range(10)) / len(
        targets
    )
    assert found["calibration"][1] == pytest.approx(by_hand, rel=1e-4)
