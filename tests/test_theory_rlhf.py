"""T11 and the caution: RLHF's optimum, and losses that are not convex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from tradeoff.convex import random_log_linear
from tradeoff.convex.instances import every_pair, log_linear_population
from tradeoff.convex.rlhf import Rlhf, population_dpo
from tradeoff.errors import InputError
from tradeoff.theory import autoregressive, rlhf

seeds = st.integers(0, 10_000)


def task(seed, prompts=2, responses=3):
    rng = np.random.default_rng(seed)
    reference = np.log(rng.dirichlet(2 * np.ones(responses), size=prompts))
    return rng.normal(size=(prompts, responses)), reference


@given(seeds, st.floats(0.2, 2))
@settings(max_examples=15)
def test_population_dpo_finds_the_optimum_of_rlhf(seed, beta):
    reward, reference = task(seed)
    checked = rlhf.dpo_matches_rlhf(reward, reference, beta=beta)
    assert checked.holds
    assert float(checked.tolerance) < 1e-2


def test_a_ball_that_excludes_the_optimum_is_refused():
    with pytest.raises(ValueError, match="excludes the optimum"):
        rlhf.dpo_matches_rlhf(*task(0), beta=0.1, radius=0.5)


def problem(seed):
    reward, reference = task(seed)
    policy = population_dpo(reward, reference, beta=0.5, radius=6.0)
    weights = np.random.default_rng(seed).random(2) + 0.1
    return Rlhf(policy, reward.ravel(), reference.ravel(), weights)


def test_the_law_of_all_pairs_has_the_memory_it_needs():
    chosen, rejected, weights = every_pair(task(0)[0])
    law = dict(zip(zip(chosen, rejected, strict=True), weights, strict=True))
    for (first, second), weight in law.items():
        assert weight + law[second, first] == pytest.approx(1)
    with pytest.raises(InputError, match="the arrays would take"):
        log_linear_population(prompts=10**5, responses=10**4)
    many = np.broadcast_to(0.0, (10**5, 10**3))
    with pytest.raises(InputError, match="the arrays would take"):
        population_dpo(many, many, beta=0.5, radius=1.0)


@given(seeds)
@settings(max_examples=15)
def test_rlhf_loss_gradient_and_optimum(seed):
    loss = problem(seed)
    theta = np.random.default_rng(seed).normal(size=(10, 6))
    numeric = approx_fprime(theta[0], loss.loss, 1e-7)
    np.testing.assert_allclose(loss.gradient(theta[0]), numeric, atol=1e-5)
    assert rlhf.optimum_is_least(loss, theta).holds
    assert rlhf.excess_is_kl(loss, theta[0]).holds
    assert loss.loss(loss.optimal_log_probs) == pytest.approx(loss.optimum)
    np.testing.assert_allclose(loss.gradient(loss.optimal_log_probs), 0, atol=1e-10)


def test_rlhf_is_not_convex_in_the_parameters():
    assert rlhf.rlhf_convexity(problem(0), segments=500).share > 0


def test_rlhf_of_a_log_linear_policy():
    policy = random_log_linear(0, prompts=3, responses=4, dimension=5, radius=3.0)
    rng = np.random.default_rng(0)
    loss = Rlhf(policy, rng.normal(size=12), policy.log_probs(np.zeros(5)))
    theta = rng.normal(size=5)
    numeric = approx_fprime(theta, loss.loss, 1e-7)
    np.testing.assert_allclose(loss.gradient(theta), numeric, atol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0, 1.9])
def test_dpo_over_tokens_violates_convexity(beta):
    half = 0.2
    checked = autoregressive.midpoint_violation(beta, half)
    assert checked.holds
    assert checked.constants["depth"] > 0
    example = autoregressive.counterexample(beta)
    values = [example.dpo(np.array([-w / 2, w / 2])) for w in (-1e-3, 0.0, 1e-3)]
    curvature = (values[0] - 2 * values[1] + values[2]) / 1e-6
    assert curvature == pytest.approx(beta * (beta - 2) / 16, abs=1e-4)


@pytest.mark.slow
@given(st.integers(0, 100))
@settings(max_examples=4)
def test_only_dpo_over_several_tokens_fails(seed):
    tokens = autoregressive.random_tokens(seed, beta=0.2)
    single = autoregressive.single_token(tokens)

    def test(loss, of, segments=100):
        return autoregressive.midpoint_violations(loss, of.dimension, 4.0, segments=segments)

    # For some seeds a hundred segments contain no violation.
    several = test(tokens.dpo, tokens, segments=1000)
    assert several.share > 0
    assert several.depth > 0
    assert test(tokens.sft, tokens).share == 0
    assert test(single.dpo, single).share == 0
    assert test(single.dpo, single).depth == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt_weights": np.array([1.0, 1.0, 1.0])}, "prompt_weights"),
        ({"prompt_weights": np.array([2.0, -1.0])}, "prompt_weights"),
        ({"prompt_weights": np.zeros(2)}, "prompt_weights"),
        ({"reward": np.full(6, np.nan)}, "reward"),
        ({"reference": np.full(6, -np.inf)}, "reference"),
    ],
)
def test_rewards_and_weights_belong_to_their_policy(change, field):
    policy = population_dpo(np.ones((2, 3)), np.zeros((2, 3)), beta=1.0, radius=5.0)
    with pytest.raises(InputError) as caught:
        Rlhf(**{"policy": policy, "reward": np.ones(6), "reference": np.zeros(6)} | change)
    assert caught.value.field == field
    with pytest.raises(InputError, match="reward"):
        rlhf.dpo_matches_rlhf(np.full((2, 3), np.nan), np.zeros((2, 3)), beta=1.0)
