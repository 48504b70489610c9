"""T13 and T17: last iterates without a logarithm; where a rate can fail, or is attained."""

from __future__ import annotations

import numpy as np
import pytest
from theory_problems import contested

from tradeoff.errors import InputError
from tradeoff.schedules import Alright, Maxright, Mix, Sequential
from tradeoff.theory import last_iterate, lower_bounds, measured

UPDATES = 16_384


@pytest.mark.parametrize(
    "schedule",
    [Alright(lam=0.3), Alright(lam=0.3, probability=0.4), Mix(lam=0.3), Maxright(lam=0.3)],
    ids=lambda s: s.label,
)
def test_last_iterates_meet_a_bound_that_wrong_methods_break(schedule):
    problem = contested()
    found = last_iterate.last_iterate_gap(problem, schedule, UPDATES, replicas=8)
    assert found.holds
    assert measured.can_fail(problem, schedule, float(found.bound)).holds
    for wrong in (Sequential(lam=0.3, share=0.5), type(schedule)(lam=0.7)):
        assert not last_iterate.last_iterate_gap(
            problem, schedule, UPDATES, replicas=8, instead=wrong
        ).holds


def test_the_bound_has_no_logarithm_and_a_known_price_for_a_wrong_step():
    problem, schedule = contested(), Mix(lam=0.3)
    one, four = (last_iterate.last_iterate_bound(problem, schedule, n) for n in (99, 399))
    assert one == pytest.approx(2 * four)
    twice = last_iterate.last_iterate_bound(problem, schedule, 99, multiple=2.0)
    assert twice == pytest.approx(1.25 * one)
    start = np.array([2.0, 0.0])
    assert last_iterate.last_iterate_bound(problem, schedule, 99, start) == pytest.approx(2 * one)


def test_steps_decay_linearly_to_zero():
    problem, schedule = contested(), Mix(lam=0.3)
    steps = last_iterate.decaying_step(problem, schedule, 9).of(schedule.plan(9))
    first = problem.radius / (measured.gradient_bound(problem, schedule) * np.sqrt(10))
    assert steps == pytest.approx(first * np.arange(9, 0, -1) / 10)


def test_inexact_subgradients_are_refused():
    with pytest.raises(InputError, match="must be exact"):
        measured.gradient_bound(contested(), Maxright(lam=0.3, refresh=5))
    with pytest.raises(TypeError, match="Sequential"):
        measured.gradient_bound(contested(), Sequential())


def test_a_bound_above_every_policy_cannot_fail():
    assert not measured.can_fail(contested(), Mix(lam=0.3), 100.0).holds


@pytest.mark.parametrize("schedule", [Alright(lam=0.3), Mix(lam=0.7), Maxright(lam=0.3)])
def test_the_rates_are_attained_up_to_a_factor_of_two(schedule):
    for steps in (4, 400):
        found = lower_bounds.attained(schedule, steps)
        assert found.holds
        assert found.constants["share"] == pytest.approx(0.5, abs=0.01)
        assert float(found.measured) <= found.constants["bound"]
    assert found.constants["measured over bound"] == pytest.approx(0.5, abs=0.02)
    assert not lower_bounds.attained(schedule, 4000, problem=contested()).holds


def test_the_lower_bound_names_what_it_is_not_about():
    with pytest.raises(InputError, match="4 or more"):
        lower_bounds.attained(Mix(), 3)
    with pytest.raises(InputError, match="unscaled"):
        lower_bounds.attained(Alright(probability=0.3), 10)
