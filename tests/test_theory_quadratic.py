"""T8: closed-form moments of runs on quadratics, and soups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradeoff.convex import Quadratic, StepSize, minimise, random_quadratic
from tradeoff.schedules import Alright, Maxright, Mix, Sequential
from tradeoff.theory import quadratic

SCHEDULES = [
    Sequential(lam=0.4, share=0.3),
    Sequential(lam=0.4, first="preference"),
    Mix(lam=0.3),
    Alright(lam=0.3),
    Alright(lam=0.3, probability=0.6),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_monte_carlo_agrees(schedule):
    problem = random_quadratic(1, dimension=3)
    for size in (0.3, StepSize(0.8, 0.5)):
        checked = quadratic.monte_carlo(
            problem, schedule, 60, size, replicas=3000, start=np.array([1.0, -1.0, 0.5])
        )
        assert checked.holds, checked.constants


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_enumeration_of_all_draws_agrees(seed):
    problem = random_quadratic(seed, noise=0.0)
    schedule, steps, size = Alright(lam=0.3, probability=0.45), 5, 0.7
    plan = schedule.plan(steps)
    mean = np.zeros(2)
    for draws in itertools.product((0, 1), repeat=steps):
        theta, chance = np.zeros(2), 1.0
        for t, i in enumerate(draws):
            theta = theta - size * plan.weights[t, i] * problem.gradients(theta)[i]
            chance *= plan.probability[t] if i else 1 - plan.probability[t]
        mean += chance * problem.losses(theta)
    exact = quadratic.expected_losses(problem, schedule, steps, size)[-1]
    np.testing.assert_allclose(exact, mean, rtol=1e-10)


def test_value_agrees_with_the_solver():
    problem = random_quadratic(2, dimension=4)
    for lam in (0.0, 0.3, 1.0):
        assert quadratic.value(problem, lam) == pytest.approx(
            minimise(problem, lam).value, abs=1e-9
        )


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(ValueError, match="radius"):
        quadratic.expected_gap(random_quadratic(0, radius=1.0), Mix(), 5, 0.1)
    with pytest.raises(ValueError, match="depends on the iterate"):
        quadratic.expected_gap(random_quadratic(0), Maxright(), 5, 0.1)


@given(st.integers(0, 1000))
@settings(max_examples=15)
def test_soups_fall_behind_the_front_when_misaligned(seed):
    problem = random_quadratic(seed, dimension=3)
    checked = quadratic.soup_gap(problem, np.linspace(0, 1, 5))
    assert checked.holds
    assert np.asarray(checked.measured)[[0, -1]] == pytest.approx(0, abs=1e-9)
    assert checked.constants["misalignment"] > 0
    assert np.all(np.asarray(checked.bound)[1:-1] > 0)


@pytest.mark.parametrize(
    "second",
    [3 * np.array([[2.0, 1.0], [1.0, 4.0]]), np.array([[5.0, 2.5], [2.5, 0.5 + 1.5]])],
    ids=["proportional", "only along the line of centres"],
)
def test_soups_trace_the_front_without_proportional_hessians(second):
    # In the second case H_1 is not a multiple of H_0, yet H_1 v = 2.5 H_0 v for v = (1, 0).
    first = np.array([[2.0, 1.0], [1.0, 4.0]])
    problem = Quadratic(np.array([[0.0, 0.0], [1.0, 0.0]]), np.stack([first, second]))
    checked = quadratic.soup_gap(problem, np.linspace(0, 1, 9))
    assert checked.constants["misalignment"] == pytest.approx(0, abs=1e-9)
    assert np.asarray(checked.measured) == pytest.approx(0, abs=1e-9)


def test_a_soup_of_one_centre_is_the_front():
    checked = quadratic.soup_gap(random_quadratic(0, distance=0.0), [0.0, 0.5])
    assert checked.holds
    assert checked.constants["misalignment"] == 0


def test_one_replica_cannot_be_compared_with_a_mean():
    with pytest.raises(ValueError, match=r"replicas.*one run"):
        quadratic.monte_carlo(random_quadratic(0), Mix(), 4, 0.1, replicas=1, engine="numpy")
