"""T16: the exact limit of averaged iterates, and the better method at equal compute."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from theory_problems import contested

from tradeoff.convex import Quadratic, StepSize, random_log_linear, random_quadratic, trajectories
from tradeoff.errors import InputError
from tradeoff.schedules import Alright, Mix, Sequential
from tradeoff.theory import asymptotics, joint

STEP = StepSize(2.0, 0.67)


def uneven(seed: int) -> Quadratic:
    """Two quadratics whose curvature and noise are large along different axes."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(2, 2, 2)) * np.array([1.0, 0.3])[:, None, None]
    problem = random_quadratic(seed, condition=5.0, distance=1.0)
    return dataclasses.replace(problem, covariances=root @ root.transpose(0, 2, 1))


@pytest.mark.parametrize("schedule", [Mix(lam=0.3), Alright(lam=0.3, probability=0.6)])
def test_exact_average_gap_agrees_with_simulated_runs(schedule):
    problem, steps = uneven(0), 200
    exact = asymptotics.exact_average_gap(problem, schedule, steps, STEP)
    runs = trajectories(
        problem, schedule, steps=steps, step_size=STEP, replicas=2000, checkpoints=[steps]
    )
    from tradeoff.theory.measured import target

    gaps = target(problem, schedule).excess(runs.losses(problem, "average")[0, :, 0])
    assert abs(gaps.mean() - exact) <= 4 * gaps.std() / np.sqrt(2000)


@pytest.mark.parametrize("schedule", [Mix(lam=0.3), Alright(lam=0.3)])
def test_the_limit_is_approached(schedule):
    problem = uneven(1)
    limit = asymptotics.sharpness(problem, 0.3).of(schedule) / 2
    ratios = [
        t * asymptotics.exact_average_gap(problem, schedule, t, STEP) / limit for t in (250, 4000)
    ]
    assert 1 < ratios[1] < ratios[0]
    assert ratios[1] == pytest.approx(1, abs=0.15)


def test_the_limit_of_stochastic_runs_distinguishes_methods():
    problem = contested()
    checked = {}
    for wrong in (None, Alright(lam=0.3, probability=0.9), Sequential(lam=0.3, share=0.5)):
        checked[wrong] = asymptotics.asymptotic_gap(
            problem, Alright(lam=0.3), 20_000, step_size=STEP, instead=wrong, replicas=128
        )
    assert [c.holds for c in checked.values()] == [True, False, False]


@given(st.integers(0, 200), st.floats(0.1, 0.9), st.floats(0.2, 5.0))
@settings(max_examples=20)
def test_the_best_probability_minimises_cost_times_limit(seed, lam, cost):
    problem = uneven(seed)
    found = asymptotics.sharpness(problem, lam)
    best = asymptotics.equal_compute(problem, lam, 1.0, cost)
    least = minimize_scalar(
        lambda p: (p * cost + 1 - p) * found.alternating(p), bounds=(1e-3, 1 - 1e-3),
        method="bounded",
    )  # fmt: skip
    assert best.products["alright-budget"] <= least.fun * (1 + 1e-6)
    assert best.probability == pytest.approx(least.x, abs=1e-3)
    assert best.products["alright-budget"] <= best.products["alright"] * (1 + 1e-12)
    assert best.winner == best.table().sort_values("product")["method"].iloc[0]
    assert asymptotics.stationary_identity(problem, lam).holds


def test_the_rule_of_thumb_is_exact_for_round_curvature_only():
    base = uneven(3)
    eye = np.broadcast_to(np.eye(2), (2, 2, 2))
    for problem, same in ((dataclasses.replace(base, hessians=eye.copy()), True), (base, False)):
        found = asymptotics.sharpness(problem, 0.4)
        from tradeoff.convex import minimise

        m = joint.moments(problem, minimise(problem, 0.4).theta)
        old = joint.optimal_probability(0.4, m.sft, m.preference)
        new = asymptotics.equal_compute(problem, 0.4).probability
        assert (abs(old - new) < 1e-9) == same
        assert (found.sft == pytest.approx(m.sft)) == same


def test_boundary_and_singular_optima_are_refused():
    agree = random_log_linear(0, prompts=3, responses=3, dimension=2, conflict=0.0, radius=0.5)
    with pytest.raises(InputError, match="boundary"):
        asymptotics.sharpness(agree, 0.5)
    flat = random_log_linear(0, prompts=1, responses=2, dimension=4, demonstrations=8, pairs=8)
    with pytest.raises(InputError, match=r"singular|boundary"):
        asymptotics.sharpness(flat, 0.5)
    with pytest.raises(TypeError, match="Sequential"):
        asymptotics.sharpness(uneven(0), 0.5).of(Sequential())
    with pytest.raises(TypeError, match="Sequential"):
        asymptotics.exact_average_gap(uneven(0), Sequential(), 10, STEP)
