"""Theorems outside their assumptions: they are refused, as a number would look like a bound."""

from typing import Any

import pytest

from tradeoff import Method, Mix, StepSize, random_log_linear
from tradeoff.errors import InputError
from tradeoff.methods.losses import Ipo
from tradeoff.theory import (
    asymptotics,
    constrained,
    fast_rate,
    joint,
    last_iterate,
    lower_bounds,
    minimax,
    population,
    rounds,
    sequential,
    tails,
)
from tradeoff.theory._alike import kinds_of


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda p: joint.bound(p, Mix(), 0), "steps"),
        (lambda p: joint.bound(p, Mix(), 10, "latest"), "iterate"),
        (lambda p: last_iterate.last_iterate_bound(p, Mix(), 10, multiple=-1), "multiple"),
        (lambda p: rounds.rounds_bound(p, 2.0, 4), "lam"),
        (lambda p: tails.tail_bound(p, Mix(), 0, 0.1), "steps"),
        (lambda p: fast_rate.fast_bound(p, Mix(), 0), "steps"),
        (lambda p: constrained.constrained_minimum(p, float("nan")), "limit"),
        (lambda p: constrained.constrained_gap(p, -0.1, 10), "loss"),
        (lambda p: minimax.game(p, 0.5, 4, 0), "anchor_steps"),
        (lambda p: population.band(p, 0, 5), "demonstrations"),
        (lambda p: population.uniform_deviation(p, 2, 5), "objective"),
        (lambda p: sequential.limit_gap(p, 0.5, "dpo"), "first"),
        (lambda p: sequential.rate_of(p, 0, 10, "latest"), "rate"),
        (lambda p: lower_bounds.attained(Mix(), 4, feature=-0.5), "feature"),
        (lambda p: asymptotics.asymptotic_gap(p, Mix(), 9, step_size=StepSize(1.0)), "decay"),
        (lambda p: asymptotics.equal_compute(p, 0.5, 0.0, 1.0), "sft_cost"),
    ],
)
def test_where_a_statement_says_nothing_it_is_refused(ask: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        ask(random_log_linear(seed=1, prompts=3, dimension=2))
    assert caught.value.field == field


def test_the_bounds_are_not_about_methods_that_train_other_losses() -> None:
    other = Method(Mix(), preference=Ipo(beta=0.1))
    with pytest.raises(TypeError, match="IPO changes them; give a schedule alone"):
        kinds_of(other, "T4")
    assert len(kinds_of(Method(Mix()), "T4")) == 1


def test_the_allowance_grows_with_a_start_away_from_the_centre() -> None:
    problem = random_log_linear(seed=1, prompts=3, dimension=2)
    far = [problem.radius, 0.0]
    near = constrained.allowance(problem, 16)
    assert constrained.allowance(problem, 16, far) == pytest.approx(2 * near)
    run = constrained.constrained_gap(problem, 0.1, 16, start=far, replicas=2)
    assert run.violation.bound == pytest.approx(2 * near)


def test_the_least_limit_that_a_message_names_can_be_used() -> None:
    problem = random_log_linear(seed=1, prompts=3, dimension=2)
    with pytest.raises(InputError) as caught:
        constrained.constrained_minimum(problem, 0.0)
    least = float(caught.value.remedy.removeprefix("Use at least ").rstrip("."))
    assert constrained.constrained_minimum(problem, least).limit == least
