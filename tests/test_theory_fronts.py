"""T9 and T10: certified fronts, and scores that do not depend on units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradeoff.convex import pareto_front, random_log_linear, random_quadratic
from tradeoff.convex.quadratic import Quadratic
from tradeoff.theory import fronts, invariance

seeds = st.integers(0, 10_000)
scales = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10))
GRID = np.linspace(0.02, 0.98, 5)


def instance(seed: int):
    return random_log_linear(
        seed, prompts=4, responses=3, dimension=3, demonstrations=9, pairs=9, radius=2.0
    )


def cloud(problem, seed, count=12):
    rng = np.random.default_rng(seed)
    return problem.project(rng.normal(size=(count, problem.dimension)) * problem.radius)


@given(seeds, st.sampled_from([2, 4, 9]), st.sampled_from([None, 1e-2]))
@settings(max_examples=6)
def test_fronts_are_off_by_no_more_than_they_say(seed, solves, tolerance):
    problem = instance(seed)
    front = pareto_front(problem, solves=solves, tolerance=tolerance)
    assert all(c.holds for c in fronts.enclosure(problem, front, GRID))
    assert fronts.certified_error(problem, front, GRID).holds


@given(seeds)
@settings(max_examples=3)
def test_error_falls_like_one_over_n_squared(seed):
    assert fronts.front_rate(instance(seed), (3, 5, 9, 17)).holds


def test_slope_of_the_value_is_the_difference_of_losses():
    assert fronts.value_slope(instance(0), np.array([0.2, 0.5, 0.8])).holds


@given(seeds, scales, scales)
@settings(max_examples=6)
def test_front_gap_does_not_depend_on_units(seed, scale, shift):
    problem = instance(seed)
    front = pareto_front(problem, accuracy=1e-3)
    losses = problem.losses(cloud(problem, seed))
    assert invariance.front_gap_invariance(front, losses, scale, shift).holds
    assert invariance.matched_weight_covariance(front, losses, scale).holds
    assert invariance.on_front(problem, front, GRID).holds
    assert invariance.off_front(problem, front, cloud(problem, seed)).holds


def test_rescaled_front_agrees_with_solving_anew():
    problem, scale = random_quadratic(0), np.array([4.0, 0.25])
    again = Quadratic(problem.centres, problem.hessians * scale[:, None, None])
    losses = problem.losses(np.random.default_rng(0).normal(size=(20, 2)))
    first = pareto_front(problem, accuracy=1e-5).score(losses)
    second = pareto_front(again, accuracy=1e-5).score(losses * scale)
    np.testing.assert_allclose(first["front_gap"], second["front_gap"], rtol=1e-4, atol=1e-4)


def test_ideal_distance_ranks_by_units():
    losses = np.array([[1.0, 2.0], [2.0, 1.5]])
    before, after = invariance.ideal_distance_flip(losses, np.zeros(2), (1.0, 4.0))
    assert before < 0 < after
    same = invariance.ideal_distance_flip(losses, np.zeros(2), (2.0, 2.0))
    assert same[1] == pytest.approx(2 * same[0])
