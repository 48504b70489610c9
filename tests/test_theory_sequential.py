"""T3 and T12: the final gap of sequential training, and the rate of forgetting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradeoff.convex import LogLinear, binary_example, minimise, random_log_linear
from tradeoff.theory import binary, forgetting, sequential

seeds = st.integers(0, 10_000)
orders = st.sampled_from(["sft", "preference"])


def instance(seed: int, radius: float = 2.0) -> LogLinear:
    return random_log_linear(
        seed, prompts=4, responses=3, dimension=3, demonstrations=9, pairs=9, radius=radius
    )


@given(seeds, st.floats(0.05, 0.95), orders, st.floats(0.2, 4))
@settings(max_examples=30)
def test_limit_gap_lies_between_its_bounds(seed, lam, first, radius):
    limit = sequential.limit_gap(instance(seed, radius), lam, first)
    assert limit.lower.holds
    assert limit.upper.holds
    assert limit.interior is None or limit.interior.holds


def test_interior_alone_does_not_give_the_simple_bound():
    # theta_b is interior, but the ball does not contain the full gradient step.
    close = LogLinear.from_prompts(
        [[[1.0], [0.0]]], [(0, 0)] * 2 + [(0, 1)], [(0, 0, 1)], radius=np.log(2) + 0.01
    )
    limit = sequential.limit_gap(close, 0.5, "preference")
    assert abs(limit.last.theta[0]) < close.radius
    assert limit.interior is None
    simple = limit.slope**2 / (2 * limit.lower.constants["L"])
    assert limit.gap < simple


@given(st.floats(0.05, 0.95), st.floats(0.1, 5), st.floats(0.2, 6), orders)
@settings(max_examples=20)
def test_binary_example_in_closed_form(lam, beta, radius, first):
    assert binary.binary_limit(lam, beta, radius, first).holds
    found = minimise(binary_example(radius, beta), lam, tolerance=1e-13).theta[0]
    assert found == pytest.approx(binary.binary_optimum(lam, beta, radius), abs=1e-4)


@pytest.mark.parametrize("first", ["sft", "preference"])
@pytest.mark.parametrize("radius", [0.5, 4.0, 30.0])
def test_binary_gap_is_log_cosh(first, radius):
    assert binary.binary_gap(0.5, 1.0, radius, first) == pytest.approx(np.log(np.cosh(radius / 2)))


@pytest.mark.parametrize("rate", ["average", "last", "full"])
def test_half_the_gap_stays_after_the_explicit_time(rate):
    problem = instance(1, radius=1.0)
    steps = sequential.half_gap_steps(problem, 0.5, "sft", rate)
    gap = sequential.limit_gap(problem, 0.5, "sft").gap
    assert sequential.remaining_gap(problem, 0.5, steps, "sft", rate) >= gap / 2 - 1e-9
    assert sequential.remaining_gap(problem, 0.5, steps // 2, "sft", rate) < gap / 2


@pytest.mark.parametrize("first", ["sft", "preference"])
@pytest.mark.parametrize("rate", ["average", "last", "full"])
def test_measured_runs_keep_what_the_bound_says(first, rate):
    problem = binary_example(radius=2.0)
    steps = 400 if rate == "full" else 200
    checked = sequential.measured_gap(problem, 0.5, steps, first, rate, replicas=16, engine="numpy")
    assert checked.holds
    if rate == "full":
        assert float(checked.bound) > 0
        assert float(checked.measured) == pytest.approx(checked.constants["limit"], abs=1e-3)


def test_no_conflict_has_no_half_time():
    agree = LogLinear.from_prompts([[[1.0], [0.0]]], [(0, 0)], [(0, 0, 1)], radius=1.0)
    with pytest.raises(ValueError, match="no gap"):
        sequential.half_gap_steps(agree, 0.5)


def test_splits_and_anchors_do_not_help():
    problem = instance(2)
    splits = sequential.budget_splits(problem, 0.5, 60, np.linspace(0, 1, 7))
    assert splits.gaps.holds
    assert splits.best > 0
    sweep = sequential.beta_sweep(problem, 0.5, [0.01, 0.1, 1.0, 10.0])
    assert sweep.holds
    assert np.all(np.asarray(sweep.bound) > 0)


@given(seeds, st.sampled_from([0, 1]))
@settings(max_examples=20)
def test_forgetting(seed, objective):
    problem = instance(seed)
    rng = np.random.default_rng(seed)
    theta = problem.project(rng.normal(size=(8, 3)) * problem.radius)
    assert forgetting.forgetting_rate(problem, 0.5 * theta[0], objective).holds
    assert forgetting.forgetting_step(problem, 0.5 * theta[0], 0.2, objective).holds
    assert all(c.holds for c in forgetting.distance_bounds(problem, theta, objective))
