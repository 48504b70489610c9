"""T4 to T7: joint training meets its bounds; probabilities and variances are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tradeoff.convex import minimise, minimise_max_gap, random_log_linear, random_quadratic
from tradeoff.schedules import Alright, Maxright, Mix, Sequential
from tradeoff.theory import joint, maxright

seeds = st.integers(0, 10_000)
inner = st.floats(0.05, 0.95)
positive = st.floats(0.1, 10)


def instance(seed: int = 0, radius: float = 2.0):
    return random_log_linear(
        seed, prompts=4, responses=3, dimension=3, demonstrations=9, pairs=9, radius=radius
    )


@pytest.mark.parametrize("iterate", ["average", "last"])
@pytest.mark.parametrize(
    "schedule", [Alright(lam=0.3), Alright(lam=0.3, probability=0.6), Mix(lam=0.3)]
)
@pytest.mark.parametrize("start", [None, np.array([2.0, 0.0, 0.0])])
def test_joint_runs_meet_their_bounds(schedule, iterate, start):
    for steps in (10, 100):
        checked = joint.joint_gap(
            instance(), schedule, steps, iterate, replicas=32, engine="numpy", start=start
        )
        assert checked.holds
        assert float(checked.bound) > 0


def test_bounds_are_about_joint_schedules_only():
    with pytest.raises(TypeError, match="Sequential"):
        joint.bound(instance(), Sequential(), 10)


@given(seeds, inner)
@settings(max_examples=25)
def test_price_of_alternating(seed, lam):
    problem = instance(seed)
    theta = problem.project(np.random.default_rng(seed).normal(size=3))
    checked = joint.variance_identity(problem, lam, theta)
    m = joint.moments(problem, theta)
    assert checked.holds
    assert float(checked.measured) >= -1e-12
    assert m.alternating(lam) <= joint.second_moment_bound(problem, Alright(lam=lam)) + 1e-9
    assert m.mixed(lam) <= joint.second_moment_bound(problem, Mix(lam=lam)) + 1e-9


@given(inner, positive, positive, positive, positive)
@settings(max_examples=25)
def test_optimal_probability_minimises(lam, sft, preference, sft_cost, preference_cost):
    m = joint.Moments(sft, preference, 0.0)
    costs = (sft_cost, preference_cost)
    best = joint.optimal_probability(lam, sft, preference, *costs)
    found = minimize_scalar(
        lambda p: joint.cost_times_moment(lam, p, m, *costs), bounds=(1e-4, 1 - 1e-4),
        method="bounded",
    )  # fmt: skip
    least = joint.best_product(lam, m, *costs)
    assert joint.cost_times_moment(lam, best, m, *costs) == pytest.approx(least)
    assert least <= found.fun * (1 + 1e-9)


def test_optimal_probability_at_the_ends():
    assert joint.optimal_probability(0.0, 1.0, 1.0) == 0.0
    assert joint.optimal_probability(1.0, 1.0, 1.0) == 1.0
    assert joint.optimal_probability(0.3, 0.0, 0.0) == 0.3


def test_compute_ratio_favours_alternation_of_a_cheap_frequent_objective():
    problem = random_quadratic(0, noise=1.0, distance=0.01)
    assert joint.compute_ratio(problem, 0.1, 1.0, 10.0) < 1
    # Without noise, Mix's gradient vanishes at the optimum and cannot be beaten.
    assert joint.compute_ratio(random_quadratic(0, noise=0.0), 0.5) == np.inf


@given(seeds, inner)
@settings(max_examples=15)
def test_gradients_oppose_each_other_at_an_interior_optimum(seed, lam):
    problem = instance(seed, radius=20.0)
    best = minimise(problem, lam, tolerance=1e-13)
    if np.linalg.norm(best.theta) < 19:
        assert joint.moments(problem, best.theta).inner <= 1e-6


SETTINGS = [
    {},
    {"refresh": 3},
    {"refresh": None},
    {"samples": 4},
    {"optimum_error": (0.1, -0.2)},
]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("choice", SETTINGS)
def test_maxright_meets_its_bound(choice, weighted):
    schedule = Maxright(lam=0.3, weighted=weighted, **choice)
    for steps in (10, 100):
        checked = maxright.maxright_gap(instance(), schedule, steps, replicas=32, engine="numpy")
        assert checked.holds


def test_maxright_bound_is_least_at_its_step():
    parts = maxright.terms(instance(), Maxright(lam=0.3, refresh=5), 100)
    best = parts.at(parts.step)
    assert best <= min(parts.at(0.9 * parts.step), parts.at(1.1 * parts.step))
    exact = maxright.maxright_bound(instance(), Maxright(lam=0.3), 100)
    stale = maxright.maxright_bound(instance(), Maxright(lam=0.3, refresh=5), 100)
    assert stale == pytest.approx(exact * np.sqrt(1 + 2 * 5))
    assert maxright.maxright_step(instance(), Maxright(lam=0.3, refresh=5), 100).scale == parts.step


def test_maxright_needs_two_weights():
    with pytest.raises(ValueError, match="no weight"):
        maxright.terms(instance(), Maxright(lam=1.0), 10)


@pytest.mark.slow
@given(seeds, inner, st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
@settings(max_examples=6)
def test_wrong_optima_cost_at_most_their_weighted_difference(seed, lam, sft, preference):
    assert maxright.optimum_sensitivity(instance(seed), lam, (sft, preference)).holds


def test_a_common_weighted_error_costs_nothing():
    lam = 0.3
    checked = maxright.optimum_sensitivity(instance(), lam, (0.1 / (1 - lam), 0.1 / lam))
    assert float(checked.bound) == pytest.approx(0)
    assert checked.holds
    assert float(checked.measured) == pytest.approx(0, abs=1e-6)
    assert minimise_max_gap(instance(), lam).value == checked.constants["F*"]
