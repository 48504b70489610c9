"""T14 and T15: rounds and constrained training meet their bounds, and wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest
from theory_problems import contested

from tradeoff.convex import minimise
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE, SFT, Alright, Constrained, Rounds, Sequential
from tradeoff.theory import constrained, measured, rounds

ROUNDS = 8192


def test_rounds_meet_a_bound_that_one_round_and_wrong_shares_break():
    problem, schedule = contested(), Rounds(lam=0.25, rounds=ROUNDS)
    found = rounds.rounds_gap(problem, schedule, 4 * ROUNDS, replicas=8)
    assert found.holds
    assert measured.can_fail(problem, schedule, float(found.bound)).holds
    for wrong in (Rounds(lam=0.25, rounds=1), Rounds(lam=0.75, rounds=ROUNDS)):
        broken = rounds.rounds_gap(problem, schedule, 4 * ROUNDS, replicas=8, instead=wrong)
        assert not broken.holds


def test_the_length_of_a_round_does_not_enter_its_bound():
    problem = contested()
    found = [
        rounds.rounds_gap(problem, Rounds(lam=0.5, rounds=64), 64 * b, replicas=8) for b in (2, 8)
    ]
    assert found[0].bound == found[1].bound
    assert all(f.holds for f in found)


def test_uneven_rounds_are_refused():
    for updates in (13, 12):
        with pytest.raises(InputError, match="multiple of the rounds"):
            rounds.round_length(Rounds(lam=0.25, rounds=4), updates)
    assert rounds.round_length(Rounds(lam=0.25, rounds=4), 16) == 4


def test_the_constrained_minimum_is_certified():
    problem = contested()
    least = minimise(problem, 0.0).value
    for loss in (0.01, 0.3):
        found = constrained.constrained_minimum(problem, least + loss)
        at = problem.losses(found.theta)
        assert at[SFT] <= least + loss + 1e-12
        assert found.lower <= found.value == at[PREFERENCE]
        assert found.value - found.lower < 1e-6
        # No point of a grid on the ball is better.
        grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 161)] * 2), axis=-1).reshape(-1, 2)
        losses = problem.losses(problem.project(grid))
        allowed = losses[losses[:, SFT] <= least + loss]
        assert allowed[:, PREFERENCE].min() >= found.lower
    everything = constrained.constrained_minimum(problem, 1e3)
    assert everything.lam == 1.0
    with pytest.raises(InputError, match="no policy"):
        constrained.constrained_minimum(problem, least - 0.1)


def test_constrained_runs_meet_both_bounds_and_others_do_not():
    problem = contested()
    found = constrained.constrained_gap(problem, 0.3, 10_000, replicas=8)
    assert found.holds
    tau = constrained.allowance(problem, 10_000)
    assert found.violation.bound == found.preference.bound == pytest.approx(tau)
    # It uses the whole limit.
    assert float(found.violation.measured) > 0
    for wrong in (Alright(lam=0.75), Sequential()):
        assert not constrained.constrained_gap(
            problem, 0.3, 10_000, replicas=8, instead=wrong
        ).violation.holds
    tight = Constrained(limit=tau)
    broken = constrained.constrained_gap(problem, 0.3, 10_000, replicas=8, instead=tight)
    assert not broken.preference.holds
