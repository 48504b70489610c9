"""Certified fronts: valid enclosures at every accuracy; scores on the exact examples."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradeoff import scores
from tradeoff.convex import (
    LogLinear,
    binary_example,
    minimise,
    pareto_front,
    random_log_linear,
    random_quadratic,
)
from tradeoff.errors import InputError


@pytest.mark.slow
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), solves=st.integers(2, 12), tolerance=st.sampled_from([1e-9, 0.1])
)
def test_the_enclosure_holds_even_when_inner_solves_stop_early(seed, solves, tolerance):
    problem = random_log_linear(seed, prompts=5, responses=4, dimension=6)
    front = pareto_front(problem, solves=solves, tolerance=tolerance)
    lams = np.linspace(0, 1, 23)
    lower, upper = front.value_bounds(lams)
    exact = np.array([minimise(problem, float(lam)).value for lam in lams])
    assert np.all(lower <= exact + 1e-9)
    assert np.all(exact <= upper + 1e-9)
    scaled = (upper - lower) / scores.weighted_loss(front.ranges, lams)
    assert scaled.max() <= front.error + 1e-12


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_no_attainable_point_lies_beyond_the_outer_hull(seed):
    problem = random_log_linear(seed, prompts=5, responses=4, dimension=6)
    front = pareto_front(problem, solves=6)
    rng = np.random.default_rng(seed)
    thetas = problem.project(rng.normal(size=(500, 6)) * rng.uniform(0, 5, size=(500, 1)))
    losses = problem.losses(thetas)
    placed = front.score(losses)
    # At most the certified error above the inner hull, and never above the upper gap.
    weights = np.linspace(0, 1, 50)
    lower = front.value_bounds(weights)[0]
    assert np.all(scores.weighted_loss(losses[:, None, :], weights) >= lower - 1e-9)
    assert np.all(placed.front_gap <= placed.front_gap_upper + 1e-9)
    assert np.all(placed.front_gap_upper - placed.front_gap <= front.error + 1e-9)


def test_points_of_the_front_have_no_gap_and_their_own_weight():
    problem = random_log_linear(0)
    front = pareto_front(problem, accuracy=1e-5)
    for lam in (0.1, 0.5, 0.9):
        place = front.score(minimise(problem, lam).losses, lam).iloc[0]
        assert place.front_gap_upper < 1e-4
        assert place.matched_weight == pytest.approx(lam, abs=0.02)
        assert place.regret < 1e-4


def test_accuracy_is_kept_and_hypervolume_is_enclosed():
    problem = random_log_linear(2)
    rough, fine = pareto_front(problem, accuracy=1e-2), pareto_front(problem, accuracy=1e-5)
    assert rough.error <= 1e-2
    assert fine.error <= 1e-5
    reference = fine.nadir + 0.3
    low, high = rough.hypervolume_bounds(reference)
    exact, above = fine.hypervolume_bounds(reference)
    assert low <= exact + 1e-9
    assert above <= high + 1e-9
    dense = scores.hypervolume(fine.inner, reference)
    assert dense <= exact  # Steps below the chords.
    assert exact == pytest.approx(dense, rel=0.02)


def test_seventeen_solves_certify_a_thousandth_of_the_range():
    for seed in range(4):
        assert pareto_front(random_log_linear(seed), solves=17, accuracy=1e-12).error <= 1e-3


def test_a_line_of_policies_has_its_front_in_closed_form():
    front = pareto_front(binary_example(radius=3.0), accuracy=1e-6)
    theta = np.linspace(-3, 3, 400)
    exact = np.stack([np.logaddexp(0, theta), np.logaddexp(0, -theta)], axis=-1)
    assert front.score(exact).front_gap_upper.max() < 1e-4
    assert front.ranges == pytest.approx([3.0, 3.0], abs=1e-4)


def test_objectives_that_agree_have_a_front_without_range():
    # The demonstrated response is the preferred one, so one direction lowers both losses.
    problem = LogLinear.from_prompts([np.eye(2)], [(0, 0)], [(0, 0, 1)], radius=2.0, beta=1.0)
    front = pareto_front(problem)
    assert np.ptp(front.points, axis=0).max() < 1e-8
    assert np.isfinite(front.error)
    assert front.score([front.nadir + 1.0]).front_gap[0] > 0


def test_quadratics_have_fronts_too():
    front = pareto_front(random_quadratic(0), accuracy=1e-4)
    assert front.error <= 1e-4


def test_bad_requests():
    problem = random_log_linear(0)
    with pytest.raises(InputError, match="solves"):
        pareto_front(problem, solves=1)
    with pytest.raises(InputError, match="accuracy"):
        pareto_front(problem, accuracy=0.0)


@pytest.mark.parametrize(
    ("losses", "lam", "field"),
    [
        ([[np.nan, 1.0]], None, "losses"),
        ([[np.inf, 1.0]], 0.5, "losses"),
        ([[1.0, 2.0, 3.0]], None, "losses"),
        ([[1.0, 0.5]], 1.5, "lam"),
        ([[1.0, 0.5]], [0.1, 0.2], "lam"),
        ([[[1.0, 0.5]]], None, "losses"),
        (pd.DataFrame({"sft_loss": [1.0]}), None, "preference_loss"),
    ],
)
def test_what_cannot_be_placed_is_refused(losses, lam, field):
    front = pareto_front(random_log_linear(0), accuracy=0.1)
    with pytest.raises(InputError) as caught:
        front.score(losses, lam)
    assert caught.value.field == field
    with pytest.raises(InputError, match="lam"):
        front.value_bounds([0.5, -0.1])
    with pytest.raises(InputError, match="reference"):
        front.hypervolume_bounds([1.0, np.nan])
    with pytest.raises(InputError, match="reference"):
        front.hypervolume_bounds([[1.0, 1.0]])
