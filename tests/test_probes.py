"""Measures of the literature: the identities of their cards, and brute force."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tradeoff.arena.measures import measures
from tradeoff.arena.network_measures import relearning_of_networks
from tradeoff.arena.probes import (
    conjugated,
    ensembled,
    recovered,
    relearning,
    self_ensembled_calibration,
    two_sided,
    what_tuning_wrote,
)
from tradeoff.convex import LogLinear, minimise, random_log_linear
from tradeoff.errors import InputError
from tradeoff.networks.policies import PolicyConfig, logits, policy_data
from tradeoff.networks.tasks import PolicyTask, one_run
from tradeoff.networks.train import Run, train
from tradeoff.schedules import Alright

OFFSETS = np.array([0, 3, 5, 9])
PROMPT = np.repeat(np.arange(3), np.diff(OFFSETS))


def laws(seed: int, count: int) -> np.ndarray:
    """(count, 9) random policies on prompts of three sizes."""
    z = np.exp(np.random.default_rng(seed).normal(size=(count, 9)) * 2)
    return z / np.add.reduceat(z, OFFSETS[:-1], axis=1)[:, PROMPT]


# ---------------------------------------------------------------------- self-ensembling (S05)


@given(st.integers(0, 10**6), st.sampled_from(("mean", "largest", "vote")), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_policies_together_are_a_policy(seed: int, joined: Any, count: int) -> None:
    found = ensembled(laws(seed, count), OFFSETS, joined)
    np.testing.assert_allclose(np.add.reduceat(found, OFFSETS[:-1]), 1.0)
    assert (found >= 0).all()


def test_one_policy_and_equal_policies_are_that_policy() -> None:
    (one,) = laws(0, 1)
    for count in (1, 4):
        members = np.tile(one, (count, 1))
        for joined in ("mean", "largest"):
            np.testing.assert_allclose(ensembled(members, OFFSETS, joined), one)
        votes = ensembled(members, OFFSETS, "vote")
        best = [first + one[first:end].argmax() for first, end in ((0, 3), (3, 5), (5, 9))]
        assert np.flatnonzero(votes).tolist() == best
    with pytest.raises(InputError, match="median"):
        ensembled(one[None], OFFSETS, "median")  # type: ignore[arg-type]


def test_the_truth_is_calibrated_and_a_policy_of_one_response_is_not() -> None:
    (truth,) = laws(1, 1)
    assert self_ensembled_calibration(truth[None], OFFSETS, truth) == pytest.approx(0, abs=1e-15)
    sure = ensembled(truth[None], OFFSETS, "vote")
    # All that is sure is in the last bin, and all else in the first.
    by_hand = sum(abs(float((truth - sure)[sure == k].sum())) for k in (0, 1)) / 9
    assert self_ensembled_calibration(sure[None], OFFSETS, truth) == pytest.approx(by_hand)
    both = np.stack([truth, truth])
    assert self_ensembled_calibration(both, OFFSETS, truth, "vote") == pytest.approx(by_hand)


# ---------------------------------------------------------------------- two sides (S15)


def sets(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((9, 4)) < 0.5, rng.random((3, 4)) < 0.6


def test_the_reference_has_no_mistake_and_no_omission() -> None:
    elements, wanted = sets(0)
    elements[OFFSETS[:-1]] = wanted
    wanted[wanted.sum(axis=1) == 0] = True
    elements[OFFSETS[:-1]] = wanted
    elements[OFFSETS[:-1] + 1] = False
    reference, empty = np.zeros((2, 9))
    reference[OFFSETS[:-1]] = empty[OFFSETS[:-1] + 1] = 1.0
    found = two_sided(np.stack([reference, empty], axis=1), OFFSETS, elements, wanted)
    np.testing.assert_array_equal(found.precision, [1.0, 1.0])
    np.testing.assert_array_equal(found.recall, [1.0, 0.0])
    np.testing.assert_array_equal(found.both, [1.0, 0.0])


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_both_sides_are_those_of_sets(seed: int) -> None:
    elements, wanted = sets(seed)
    (policy,) = laws(seed, 1)
    found = two_sided(policy[:, None], OFFSETS, elements, wanted)
    precision, recall = 0.0, 0.0
    for row, mass in enumerate(policy):
        said = set(np.flatnonzero(elements[row]))
        right = set(np.flatnonzero(wanted[PROMPT[row]]))
        precision += mass * (len(said & right) / len(said) if said else 1) / 3
        recall += mass * (len(said & right) / len(right) if right else 1) / 3
    assert found.precision[0] == pytest.approx(precision)
    assert found.recall[0] == pytest.approx(recall)


# ---------------------------------------------------------------------- what tuning wrote (S43)


def test_scores_average_to_the_divergence() -> None:
    problem = random_log_linear(3, conflict=0.75)
    theta = np.random.default_rng(0).normal(size=(4, problem.dimension))
    theta[0] = 0.0  # the reference is uniform
    after = problem.log_probs(theta)
    before = problem.log_probs(np.zeros(problem.dimension))
    found = what_tuning_wrote(after, before, problem.offsets)
    np.testing.assert_array_equal(found.scores[:, 0], 0.0)
    np.testing.assert_allclose(found.divergence.mean(axis=0), measures(problem, theta)["kl"])
    assert (found.divergence[:, 1:] > 0).all()
    top = found.top(3)
    assert top.shape == (3, 4)
    for run in range(4):
        kept = found.scores[top[:, run], run]
        assert kept.tolist() == sorted(found.scores[:, run], reverse=True)[:3]


# ---------------------------------------------------------------------- learning again (S45)


def test_the_specialist_needs_no_updates_and_others_need_more() -> None:
    problem = random_log_linear(0, conflict=0.5, prompts=8)
    sft, other = (minimise(problem, lam, tolerance=1e-8).theta for lam in (0.0, 1.0))
    between = sft + np.linspace(0, 1, 4)[:, None] * (other - sft)
    found = relearning(problem, between, limit=4000)
    assert found[0] == 0
    assert (np.diff(found) >= 0).all()
    assert 0 < found[-1] < np.inf
    # Half of the way with half of the steps: the count is that of a plain loop.
    step = 0.5
    at, updates = np.array(other), 0
    level = problem.losses(sft)[0]
    level += 0.05 * (problem.losses(other)[0] - level) + 2e-8
    while problem.losses(at)[0] > level:
        at = problem.project(at - step * problem.gradients(at)[0])
        updates += 1
    assert relearning(problem, other[None], step=step, limit=4000)[0] == updates
    assert relearning(problem, other[None], step=step, limit=updates - 1)[0] == np.inf
    assert relearning(problem, other[None], slack=1.0)[0] == 0


def test_networks_learn_again_faster_than_they_learn() -> None:
    data = policy_data(0, prompts=16, test_prompts=4, demonstrations=64, pairs=64, test_rows=8)
    task = PolicyTask(data, PolicyConfig(width=8, depth=1), dtype=torch.float64)
    settings: dict[str, Any] = {"learning_rate": 0.03, "batch_size": 16}
    taught = train(task, [Run(Alright(lam=0.0), 5)], steps=60, **settings)
    level = float(taught.table["sft_loss_train"].iloc[-1]) + 0.02
    forgot = train(task, [Run(Alright(lam=1.0), 5)], steps=10, start=taught.params, **settings)
    base = task.initial([5])
    every = {name: torch.cat([p[name] for p in (taught.params, forgot.params, base)])
             for name in base}  # fmt: skip
    found = relearning_of_networks(task, every, level, limit=90, every=3, **settings)
    assert found[0] == 0
    assert 0 < found[1] < found[2] <= 90
    assert relearning_of_networks(task, base, -1.0, limit=3, **settings)[0] == np.inf


# ---------------------------------------------------------------------- conjugate prompts (S48)


def law(weight: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    z = prompts @ weight
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def gated(first: Any, second: Any, prompts: np.ndarray) -> np.ndarray:
    """A policy that answers as one of two, by the sign of the last entry of the prompt."""
    return np.where(prompts[:, -1:] > 0, first(prompts), second(prompts))


def test_a_gate_that_the_move_restores_has_forgotten_nothing() -> None:
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(2, 5, 4))
    parts[:, -1] = 0.0  # neither part reads what the gate reads
    skilled, other = (partial(law, weight) for weight in parts)
    prompts = rng.normal(size=(200, 5))
    prompts[:, -1] = -1.0
    answers = skilled(prompts).argmax(axis=1)
    policy = partial(gated, skilled, other)

    def away(given: np.ndarray) -> np.ndarray:
        return given * np.array([1, 1, 1, 1, -1])

    assert recovered(policy, skilled, prompts, answers, lambda given: given) == 0.0
    assert recovered(policy, skilled, prompts, answers, away) == pytest.approx(1.0)
    # Erased: both sides of the gate are the other policy.
    erased = partial(gated, other, other)
    assert recovered(erased, skilled, prompts, answers, away) == 0.0
    assert np.isnan(recovered(skilled, skilled, prompts, answers, away))


def test_responses_are_moved_back() -> None:
    rng = np.random.default_rng(1)
    weight, order = rng.normal(size=(3, 4)), np.array([2, 0, 3, 1])
    prompts = rng.normal(size=(6, 3))
    # Another language: response k is called order[k] there.
    spoken = np.empty_like(weight)
    spoken[:, order] = weight
    same = conjugated(partial(law, spoken), lambda given: given, order)
    np.testing.assert_allclose(same(prompts), law(weight, prompts))


def test_a_network_can_be_asked_in_another_way() -> None:
    data = policy_data(0, prompts=16, test_prompts=4, demonstrations=64, pairs=64, test_rows=8)
    task = PolicyTask(data, PolicyConfig(width=8, depth=1), dtype=torch.float64)
    runs = [Run(Alright(lam=lam), 0) for lam in (0.0, 1.0)]
    ends = train(task, runs, steps=40, learning_rate=0.03, batch_size=16).params

    def policy(run: int, prompts: np.ndarray) -> np.ndarray:
        return logits(one_run(ends, run), torch.from_numpy(prompts)).log_softmax(-1).numpy()

    x, y = data.demonstrations.T
    share = partial(recovered, partial(policy, 1), partial(policy, 0), data.prompts[x], y)
    assert share(lambda given: given) == 0.0
    assert np.isfinite(share(lambda given: -given))


def test_a_problem_of_one_prompt_is_enough() -> None:
    one = LogLinear(np.eye(3), np.array([0, 3]), np.array([0, 0, 1]), np.array([2]), np.array([0]),
                    radius=2.0)  # fmt: skip
    assert relearning(one, np.zeros((1, 3)), limit=500)[0] < np.inf
