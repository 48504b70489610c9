"""T18: fast rates, tails, the population band, the game without minima, token curvature."""

from __future__ import annotations

import numpy as np
import pytest
from theory_problems import contested

from tradeoff.convex import binary_example, random_log_linear
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE, SFT, Alright, Maxright, Mix, Sequential
from tradeoff.theory import (
    autoregressive,
    fast_rate,
    measured,
    minimax,
    population,
    rlhf,
    tails,
    token_curvature,
)


@pytest.mark.parametrize("schedule", [Alright(lam=0.3), Mix(lam=0.3)], ids=lambda s: s.label)
def test_growth_gives_a_fast_rate_that_sequential_training_breaks(schedule):
    problem, steps = contested(3, radius=1.0), 10_000
    found = fast_rate.fast_gap(problem, schedule, steps, replicas=8)
    assert found.holds
    assert measured.can_fail(problem, schedule, float(found.bound)).holds
    wrong = Sequential(lam=0.3, share=0.5)
    assert not fast_rate.fast_gap(problem, schedule, steps, replicas=8, instead=wrong).holds
    assert fast_rate.fast_bound(problem, schedule, 2 * steps + 1) == pytest.approx(found.bound / 2)


def test_weighted_growth_holds_on_the_ball():
    for seed, lam in ((0, 0.3), (1, 0.7), (2, 0.05)):
        problem = contested(seed, radius=1.0)
        found = fast_rate.weighted_growth(problem, lam)
        thetas = problem.project(np.random.default_rng(0).normal(size=(500, 2)))
        rise = problem.losses(thetas) @ [1 - lam, lam] - found.minimum.value
        distance = np.sum((thetas - found.minimum.theta) ** 2, axis=1)
        assert np.all(rise >= found.mu / 2 * distance - 1e-9)
    flat = random_log_linear(
        0, prompts=1, responses=2, dimension=4, demonstrations=8, pairs=8, conflict=1.0, radius=50.0
    )
    with pytest.raises(InputError, match="singular"):
        fast_rate.weighted_growth(flat, 0.5)


@pytest.mark.parametrize("schedule", [Alright(lam=0.3), Mix(lam=0.3)], ids=lambda s: s.label)
def test_most_runs_meet_the_tail_bound_and_sequential_ones_do_not(schedule):
    problem, steps = contested(1), 65_536
    found = tails.tail_gap(problem, schedule, steps, 0.1, replicas=20)
    assert found.holds
    assert measured.can_fail(problem, schedule, float(found.bound)).holds
    wrong = Sequential(lam=0.3, share=0.5)
    assert not tails.tail_gap(problem, schedule, steps, 0.1, replicas=4, instead=wrong).holds
    # Fewer runs may exceed it, so this bound is larger.
    assert tails.tail_bound(problem, schedule, steps, 0.01) > found.bound
    with pytest.raises(InputError, match="not a probability"):
        tails.tail_bound(problem, schedule, steps, 1.0)
    with pytest.raises(TypeError, match="Sequential"):
        tails.tail_bound(problem, Sequential(), steps, 0.1)


@pytest.mark.parametrize("objective", [SFT, PREFERENCE])
def test_samples_deviate_within_the_band_and_not_within_that_of_more_rows(objective):
    problem = random_log_linear(
        0, prompts=8, responses=3, dimension=2, radius=2.0, conflict=0.9, sharpness=3.0
    )
    found = population.uniform_deviation(problem, objective, 32, samples=24, points=500)
    assert found.holds
    assert found.constants["bound over measured"] < 12
    assert not population.uniform_deviation(
        problem, objective, 32, samples=24, points=500, claimed_rows=50_000
    ).holds
    limits = population.band(problem, 32, 32)
    assert limits.of(0.25) == pytest.approx(0.75 * limits.sft + 0.25 * limits.preference)


def test_new_rows_lose_more_than_the_sample_shows_but_within_the_band():
    problem = random_log_linear(1, prompts=8, responses=3, dimension=2, radius=2.0, conflict=0.9)
    found = population.front_excess(problem, 0.5, 16, samples=16)
    assert found.holds
    assert float(found.measured) > 0
    assert found.constants["regret"] > 0


def test_the_game_needs_no_minima_and_notices_swapped_weights():
    problem, lam = binary_example(radius=2.0), 0.1
    found = minimax.minimax_gap(problem, lam, 1500, replicas=8)
    assert found.holds
    assert measured.can_fail(problem, Maxright(lam=lam), float(found.bound)).holds
    rules = minimax.game(problem, 1 - lam, 300)
    wrong, _ = minimax.play(problem, rules, 4)
    goal = measured.target(problem, Maxright(lam=lam))
    assert goal.excess(problem.losses(wrong)).mean() > found.bound
    # The ascent on q makes it a game: with q fixed at 1/2 the end is worse.
    still = minimax.minimax_gap(problem, lam, 1500, replicas=8, ascend=False)
    assert float(still.measured) > float(found.measured)


def test_token_hessians_are_exact():
    problem, step = autoregressive.random_tokens(0), 1e-4
    theta, shifts = np.random.default_rng(0).normal(size=12), step * np.eye(12)
    found = token_curvature.dpo_hessian(problem, theta)
    for i, j in ((0, 0), (2, 7), (11, 3)):
        corners = [
            a * b * problem.dpo(theta + a * shifts[i] + b * shifts[j])
            for a in (1, -1)
            for b in (1, -1)
        ]
        assert sum(corners) / (4 * step**2) == pytest.approx(found[i, j], abs=1e-6)


def test_token_curvature_is_bounded_by_rejected_tokens_alone():
    for seed in range(5):
        problem = autoregressive.random_tokens(seed, beta=0.5)
        thetas = 2 * np.random.default_rng(seed).normal(size=(5, 12))
        assert token_curvature.negative_curvature(problem, thetas).holds
    least = autoregressive.counterexample()
    origin = np.zeros((1, 2))
    assert token_curvature.negative_curvature(least, origin).measured == pytest.approx(-0.125)
    assert not token_curvature.negative_curvature(least, origin, rejected=False).holds


def test_dpo_and_rlhf_differ_where_the_optimum_is_not_realisable():
    found = rlhf.unrealisable_counterexample()
    assert found.holds
    assert found.constants["DPO"] == pytest.approx(0.178, abs=5e-4)
    assert found.constants["RLHF"] == pytest.approx(0.150, abs=5e-4)
    realised = rlhf.unrealisable_counterexample(np.array([0.0, 1.0, 0.5]))
    assert not realised.holds
    assert float(realised.measured) < 1e-6
