"""Losses of responses that the policy writes: closed forms, enumerations and the judge."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from tradeoff.arena.matching import equal_weight, with_beta
from tradeoff.arena.network_board import network_left_out
from tradeoff.convex import LogLinear, random_log_linear, trajectories
from tradeoff.convex._trained_losses import TrainedLossSampler
from tradeoff.convex.instances import log_linear_population
from tradeoff.convex.trained import preference_gradient
from tradeoff.errors import InputError
from tradeoff.methods import PREFERENCE_LOSSES, Method, find
from tradeoff.methods.losses import (
    BestAgainstWorst,
    Dpo,
    Egpo,
    Grouped,
    Grpo,
    Luffy,
    Nll,
    Nominal,
    OnlineDpo,
    Pairs,
    ResponseGroup,
    Responses,
    SemanticReward,
    SrftDemonstrations,
    SrftOwn,
    Xpo,
    group_slopes,
    sft_slopes,
)
from tradeoff.methods.losses.judges import fitted_reward
from tradeoff.networks.followed import Run
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import train
from tradeoff.schedules import Alright, Mix

EVERY = [kind() for kind in PREFERENCE_LOSSES.values() if issubclass(kind, Grouped)]
NONE = Responses(np.zeros(1))


def normal(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, minus infinity where a logit is."""
    peak = logits.max(axis=-1, keepdims=True)
    return logits - peak - np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True))


def group(seed: int = 0, n: int = 5, k: int = 4) -> ResponseGroup:
    """Groups of k responses; the first of them has one less."""
    rng = np.random.default_rng(seed)
    own, other = rng.normal(size=(2, n, k)) * 1.5
    own[0, -1] = other[0, -1] = -np.inf
    likeness = np.clip(rng.normal(size=(n, k)), -1, 1)
    return ResponseGroup(normal(own), normal(other), rng.normal(size=(n, k)) * 2, likeness)


def slopes(loss: Any, of: ResponseGroup) -> np.ndarray:
    """Slopes of a loss in all logits of each group."""
    found = group_slopes(loss, Pairs(NONE, NONE, group=of))[1]
    return found - np.exp(of.log_probs) * found.sum(axis=1, keepdims=True)


def numeric(value: Any, logits: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Slopes (n, k) of a sum of values in logits (n, k), by finite differences."""
    found = np.zeros_like(logits)
    for i in np.ndindex(*logits.shape):
        if np.isfinite(logits[i]):
            way = np.zeros_like(logits)
            way[i] = step
            found[i] = (value(logits + way) - value(logits - way)) / (2 * step)
    return found


# ---------------------------------------------------------------------- rewards in groups


@pytest.mark.parametrize("loss", [Grpo(), Egpo(alpha=0.0)])
def test_binary_rewards_ascend_the_arcsine_of_success(loss):
    of = group(1)
    right = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 1, 0]])
    of = replace(of, rewards=right.astype(float))

    def value(logits: np.ndarray) -> float:
        success = (np.exp(normal(logits)) * right).sum(axis=1)
        return float(-2 * np.arcsin(np.sqrt(success)).sum())

    np.testing.assert_allclose(slopes(loss, of), numeric(value, of.log_probs), atol=2e-5)
    # Slopes in the log-probabilities are minus the probability times the advantage.
    success = (np.exp(of.log_probs) * right).sum(axis=1, keepdims=True)
    up, down = np.sqrt((1 - success) / success), -np.sqrt(success / (1 - success))
    found = group_slopes(loss, Pairs(NONE, NONE, group=of))[1]
    expected = -np.exp(of.log_probs) * np.where(right > 0, up, down)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_equal_rewards_have_no_slope():
    of = replace(group(), rewards=np.full((5, 4), 0.7))
    assert np.abs(slopes(Grpo(), of)).max() < 1e-9
    assert not slopes(BestAgainstWorst(), of).any()


@given(st.integers(0, 2**16), st.floats(0, 50), st.floats(1.001, 1e3))
def test_the_entropy_bonus_is_bounded_and_keeps_every_sign(seed, alpha, kappa):
    of = group(seed)
    plain = np.random.default_rng(seed).normal(size=(5, 4))
    found = Egpo(alpha=alpha, kappa=kappa).advantages(plain, of)
    assert (np.sign(found) == np.sign(plain)).all()
    assert (found >= plain).all()
    share = np.exp(of.log_probs)
    entropy = -(share * of.finite).sum(axis=1, keepdims=True)
    assert (found - plain <= alpha * entropy + 1e-12).all()
    assert (found - plain <= np.abs(plain) / kappa + 1e-12).all()
    np.testing.assert_array_equal(Egpo(alpha=0.0).advantages(plain, of), plain)


def test_likeness_is_the_reward_of_the_semantic_loss():
    of = group(2)
    swapped = replace(of, rewards=of.likeness)
    np.testing.assert_array_equal(slopes(SemanticReward(), of), slopes(Grpo(), swapped))
    assert np.abs(slopes(SemanticReward(), of) - slopes(Grpo(), of)).max() > 1e-3


# ---------------------------------------------------------------------- online pairs


@pytest.mark.parametrize("temperature", [0.5, 0.9, 2.0])
@pytest.mark.parametrize("against", ["policy", "reference"])
def test_the_best_policy_of_online_dpo_is_that_of_the_reward(temperature, against):
    """I18: whoever writes the pairs, at pi_ref exp(r / beta) there is no slope."""
    beta, of = 0.8, group(3)
    loss = OnlineDpo(beta=beta, temperature=temperature, against=against)
    best = replace(of, log_probs=normal(of.reference + of.rewards / beta))
    assert np.abs(slopes(loss, best)).max() < 1e-14
    assert np.abs(slopes(loss, of)).max() > 1e-3


@pytest.mark.parametrize("loss", [OnlineDpo(beta=0.6), Xpo(beta=0.6, alpha=0.3)])
def test_online_pairs_are_a_mean_over_all_pairs(loss):
    """The value by a loop over pairs and labels, and its slopes with the law of pairs fixed."""
    of = group(4)

    def law(log_probs: np.ndarray) -> np.ndarray:
        return np.exp(normal(log_probs / loss.temperature))

    first = law(of.log_probs)
    second = law(of.reference if loss.against == "reference" else of.log_probs)

    def value(logits: np.ndarray) -> float:
        own, total = normal(logits), 0.0
        for x, i, j in product(range(5), range(4), range(4)):
            if not np.isfinite(own[x, [i, j]]).all():
                continue
            ratio = own[x, [i, j]] - of.reference[x, [i, j]]
            margin = loss.beta * (ratio[0] - ratio[1])
            wins = 1 / (1 + np.exp(of.rewards[x, j] - of.rewards[x, i]))
            both = wins * np.log1p(np.exp(-margin)) + (1 - wins) * np.log1p(np.exp(margin))
            total += first[x, i] * second[x, j] * both
            if isinstance(loss, Xpo) and j == 0:
                total += loss.alpha * law(of.reference)[x, i] * own[x, i]
        return float(total)

    assert float(np.sum(loss.of_group(of))) == pytest.approx(value(of.log_probs), rel=1e-12)
    np.testing.assert_allclose(slopes(loss, of), numeric(value, of.log_probs), atol=1e-8)


@pytest.mark.parametrize("against", ["policy", "reference"])
def test_without_optimism_xpo_is_online_dpo(against):
    first, second = Xpo(alpha=0.0, against=against), OnlineDpo(against=against)
    np.testing.assert_array_equal(slopes(first, group()), slopes(second, group()))
    # The bonus lowers what the reference writes.
    of = group(5, n=1)
    more = slopes(Xpo(alpha=1.0), of) - slopes(Xpo(alpha=0.0), of)
    expected = Xpo().drawn(of.reference) - np.exp(of.log_probs)
    np.testing.assert_allclose(more, expected, atol=1e-14)


@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("rewards", [[0.3, -1.0, 2.0, 0.5], [1.0, 0.0, 1.0, 0.0]])
def test_the_best_and_the_worst_are_those_of_all_draws(samples, rewards):
    of = replace(group(6, n=1), rewards=np.array([rewards]))
    own, expected = np.exp(of.log_probs[0]), np.zeros((4, 4))
    for drawn in product(range(4), repeat=samples):
        scores = [rewards[y] for y in drawn]
        best, worst = drawn[int(np.argmax(scores))], drawn[int(np.argmin(scores))]
        if rewards[best] > rewards[worst]:
            expected[best, worst] += own[list(drawn)].prod()
    found = BestAgainstWorst(samples=samples).law(of)[0]
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_two_samples_are_online_dpo_with_sure_labels():
    of = group(7)
    sure = OnlineDpo(beta=0.4, temperature=1.0)
    both = slopes(BestAgainstWorst(beta=0.4, samples=2), of)
    np.testing.assert_allclose(
        both, slopes(sure, replace(of, rewards=of.rewards * 1e6)), atol=1e-13
    )


def test_the_best_against_the_worst_is_sharper_than_the_reward():
    beta, of = 0.8, group(3)
    best = replace(of, log_probs=normal(of.reference + of.rewards / beta))
    rewards = np.where(of.present, of.rewards, np.nan)
    x, top, bottom = np.arange(5), np.nanargmax(rewards, axis=1), np.nanargmin(rewards, axis=1)
    for samples in (2, 8):
        found = slopes(BestAgainstWorst(beta=beta, samples=samples), best)
        assert (found[x, top] < 0).all()
        assert (found[x, bottom] > 0).all()


# ---------------------------------------------------------------------- SRFT


def test_without_entropy_the_demonstrations_are_half_of_sft_and_luffy():
    log_p = np.log([0.05, 0.4, 0.97])
    shown = Responses(log_p)
    expected = -0.5 + sft_slopes(Luffy(), shown)[1]
    np.testing.assert_allclose(sft_slopes(SrftDemonstrations(), shown)[1], expected, rtol=1e-14)
    entropy = np.array([0.2, 1.0, 1.9])
    for sign in (-1.0, 1.0):
        loss = SrftDemonstrations(sign=sign)
        found = sft_slopes(loss, replace(shown, divergence=entropy))[1]
        expected = -0.5 * np.exp(sign * entropy) + sft_slopes(Luffy(), shown)[1]
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_own_responses_count_by_entropy_if_they_are_right():
    of = group(8)
    share = np.exp(of.log_probs)
    entropy = -(share * of.finite).sum(axis=1, keepdims=True)
    mean = (share * of.rewards).sum(axis=1, keepdims=True)
    gain = np.where(of.rewards > mean, 0.1 * np.exp(entropy), -1.0)
    found = group_slopes(SrftOwn(), Pairs(NONE, NONE, group=of))[1]
    np.testing.assert_allclose(found, -share * gain, rtol=1e-13)


def test_the_entropy_at_a_prompt_is_that_of_the_policy():
    problem, rng = random_log_linear(0, demonstrations=9), np.random.default_rng(0)
    theta = rng.normal(size=(1, problem.dimension))
    every = problem.log_probs(theta[0])
    for features in (problem.features, sparse.csr_array(problem.features)):
        sampler = sampler_of(replace(problem, features=features), sft=SrftDemonstrations())
        for point, row in enumerate(problem.demonstrations):
            x = problem.prompt_of_row[row]
            rows = slice(problem.offsets[x], problem.offsets[x + 1])
            p = np.exp(every[rows])
            own, entropy = np.exp(every[row]), -(p * every[rows]).sum()
            weight = 0.5 * np.exp(-entropy) + 0.1 * own / (own + 0.1) ** 2
            expected = weight * (p @ problem.features[rows] - problem.features[row])
            found = sampler.evaluate(0, theta, np.array([point]))[1][0]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- the judge


def sampler_of(problem: LogLinear, **given: Any) -> TrainedLossSampler:
    slots = {"sft": Nll(), "preference": Nominal(), **given}
    return TrainedLossSampler(problem, 0, np.arange(1), **slots)


def test_the_judge_knows_the_law_of_many_pairs():
    """The labels of the population have a linear reward, which the judge finds."""
    problem = log_linear_population(1, dimension=4, prompts=150)
    found = fitted_reward(problem.dense_differences, problem.preference_weights)
    margins = problem.dense_differences @ found
    wins = problem.preference_weights
    pairs = dict(zip(zip(problem.chosen, problem.rejected, strict=True), wins, strict=True))
    against = [pairs[r, c] for c, r in zip(problem.chosen, problem.rejected, strict=True)]
    log_odds = np.log(wins / np.array(against))
    assert np.abs(log_odds).max() > 4
    np.testing.assert_allclose(margins, log_odds, atol=0.05 * np.abs(log_odds).max())


def test_the_judge_is_a_minimum_and_only_ratios_of_weights_count():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(30, 5)), rng.random(30)
    found = fitted_reward(x, weights)
    mass = weights / weights.sum()
    penalty = (mass @ (x**2).sum(axis=1)) * (mass @ mass) / 9
    slope = penalty * found - x.T @ (mass / (1 + np.exp(x @ found)))
    assert np.abs(slope).max() < 1e-10
    np.testing.assert_allclose(fitted_reward(x, 7 * weights), found, rtol=1e-9)
    # Pairs that a reward explains without fault do not make it endless.
    apart = fitted_reward(x * np.sign(x @ np.ones(5))[:, None], weights)
    assert 0.1 < np.linalg.norm(apart) < 100
    assert not fitted_reward(np.zeros((3, 2)), np.ones(3)).any()


def test_the_judge_of_networks_is_that_of_their_last_layer():
    task = PolicyTask(
        policy_data(0, prompts=12, pairs=40), PolicyConfig(width=5, depth=1), dtype=torch.float64
    )
    base = task.initial([0, 1, 0])
    found = task.judged(base).numpy()
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    one = {name: value[1] for name, value in base.items()}
    problem = task.last_layer(one, radius=9.0)
    rewards = sampler_of(problem, preference=OnlineDpo())._rewards.reshape(12, 8)
    np.testing.assert_allclose(found[1], rewards[task.data.pairs[:, 0]], atol=1e-9)


def test_held_out_pairs_do_not_change_what_is_trained():
    data = policy_data(0, prompts=12, pairs=40)
    other = replace(data, test_pairs=data.test_pairs[:, [0, 2, 1]])
    runs = [find("mix+online_dpo"), find("mix+grpo")]
    ends = [
        train(
            PolicyTask(each, PolicyConfig(width=4, depth=1)),
            [Run(method, 0) for method in runs],
            steps=5,
            learning_rate=0.1,
        ).params["head.weight"]
        for each in (data, other)
    ]
    np.testing.assert_array_equal(*(end.numpy() for end in ends))


# ---------------------------------------------------------------------- on problems


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.name)
def test_gradients_of_a_problem_are_those_of_its_groups(loss):
    """By numpy and compiled, on prompts of unequal size, with a reference."""
    rng = np.random.default_rng(1)
    problem = LogLinear.from_prompts(
        [rng.normal(size=(size, 3)) for size in (2, 5, 3)],
        demonstrations=[(0, 1), (1, 4), (2, 0)],
        preferences=[(1, 0, 3), (2, 2, 1), (0, 0, 1), (1, 1, 2)],
        radius=2.0,
        reference=rng.normal(size=3),
    )
    reward = problem.features @ fitted_reward(problem.pair_differences, np.ones(4))
    unit = problem.features / np.linalg.norm(problem.features, axis=1, keepdims=True)
    theta = rng.normal(size=(1, 3))
    every, known = (problem.log_probs(at) for at in (theta[0], problem.reference))
    for point, row in enumerate(problem.chosen):
        x = problem.prompt_of_row[row]
        rows = slice(problem.offsets[x], problem.offsets[x + 1])
        likeness = unit[rows] @ unit[row]
        assert likeness[row - problem.offsets[x]] == pytest.approx(1)
        of = ResponseGroup(every[None, rows], known[None, rows], reward[None, rows], likeness[None])
        expected = slopes(loss, of) @ problem.features[rows]
        for compiled in (False, True):
            sampler = sampler_of(problem, preference=loss, compiled=compiled)
            value, found = sampler.evaluate(1, theta, np.array([point]))
            assert value[0] == pytest.approx(loss.of_group(of)[0], abs=1e-12)
            np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.slow
def test_online_dpo_ends_at_the_best_policy_of_the_judge():
    """A tabular policy, as each response has a feature of its own."""
    rng, beta = np.random.default_rng(2), 1.0
    size, prompts = 4, 2
    first = rng.integers(0, size, 6)
    second = (first + rng.integers(1, size, 6)) % size
    problem = LogLinear.from_prompts(
        list(np.eye(size * prompts).reshape(prompts, size, -1)),
        demonstrations=[(0, 0)],
        preferences=list(zip([0, 0, 0, 1, 1, 1], first.tolist(), second.tolist(), strict=True)),
        radius=50.0,
        beta=beta,
        reference=rng.normal(size=size * prompts),
    )
    method = Method(Mix(lam=1.0), preference=OnlineDpo(beta=beta))
    settings = {"replicas": 1, "gradients": "full", "checkpoints": [250], "steps": 250}
    runs = trajectories(problem, method, step_size=16.0, start=problem.reference, **settings)
    reward = fitted_reward(problem.dense_differences, np.ones(6))
    logits = (problem.reference + reward / beta).reshape(prompts, size)
    found = problem.log_probs(runs.last[0, 0, -1]).reshape(prompts, size)
    np.testing.assert_allclose(found, normal(logits), atol=1e-6)
    assert np.ptp(reward) > 1


def test_weights_of_equal_pull_see_the_groups():
    problem = random_log_linear(0, reference=np.full(16, 0.1))
    loss = with_beta(OnlineDpo(), problem.beta)
    assert loss.beta == problem.beta
    own = np.linalg.norm(preference_gradient(problem, loss, problem.reference))
    dpo = np.linalg.norm(preference_gradient(problem, Dpo(beta=1.0), problem.reference))
    expected = 0.3 * dpo / own / (0.7 + 0.3 * dpo / own)
    assert equal_weight(problem, loss, 0.3) == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------------- costs and limits


def test_what_is_written_is_paid_for():
    """Two responses trained make one; a response written, judged or read is a sixth."""
    costs = {loss.name: loss.cost for loss in EVERY}
    assert costs["online_dpo"] == costs["xpo"] == pytest.approx(1 + 6 / 6)
    assert costs["bolt"] == pytest.approx(1 + 18 / 6)
    for name in ("grpo", "egpo", "semantic_reward", "srft_own"):
        assert costs[name] == pytest.approx(4 + 16 / 6)
    assert BestAgainstWorst(samples=2).cost == OnlineDpo().cost
    assert Nominal().cost == 1.0
    plain, paid = (Method(Mix(), preference=loss) for loss in (Nominal(), OnlineDpo()))
    assert plain.updates(600.0) == 300
    assert paid.updates(600.0) == 200
    assert paid.updates(900.0, pair=4.0) == 100
    assert Method(Alright(lam=0.5), preference=OnlineDpo()).updates(600.0) == 400


def test_where_responses_cannot_be_written_the_method_says_why():
    for loss in EVERY:
        assert "writes no responses" in str(loss.unsupported("llm"))
        assert loss.unsupported("convex") is None
    assert "without features" in str(network_left_out("semantic_reward", "policies"))
    assert network_left_out("semantic_reward", "language") is None
    task = PolicyTask(policy_data(0, prompts=4), PolicyConfig(width=4, depth=1))
    with pytest.raises(InputError, match="asks for features"):
        train(task, [Run(find("semantic_reward"))], steps=1, learning_rate=0.1)
    assert "entropy" in str(SrftDemonstrations().unsupported("llm"))
    for name in ("online_dpo", "srft", "srft_demonstrations"):
        assert network_left_out(name, "policies") is None
        assert network_left_out(name, "language") is None
    problem = random_log_linear(0)
    sparse_problem = replace(problem, features=sparse.csr_array(problem.features))
    with pytest.raises(InputError, match="dense features"):
        trajectories(sparse_problem, find("grpo"), steps=2, step_size=0.1, replicas=1)
