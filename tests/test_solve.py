"""Certified minimisers against cvxpy, brute force and each other."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradeoff.convex import (
    LogLinear,
    _trust_region,
    binary_example,
    minimise,
    minimise_max_gap,
    random_log_linear,
    random_quadratic,
)
from tradeoff.errors import InputError


def with_cvxpy(problem: LogLinear, lam: float, chebyshev: bool = False) -> float:
    """Minimum of f_lambda, or of F_lambda, by an independent conic solver."""
    theta = cp.Variable(problem.dimension)
    z = problem.features @ theta
    blocks = zip(problem.offsets[:-1], problem.offsets[1:], problem.prompt_weights, strict=True)
    sft = cp.sum([w * cp.log_sum_exp(z[a:b]) for a, b, w in blocks if w > 0])
    sft -= problem.demonstrated @ z
    rewards = problem.beta * (problem.pair_differences @ theta - problem.margin_shift)
    dpo = problem.preference_weights @ cp.logistic(-rewards)
    if chebyshev:
        optima = [minimise(problem, 0.0).value, minimise(problem, 1.0).value]
        objective = cp.maximum((1 - lam) * (sft - optima[0]), lam * (dpo - optima[1]))
    else:
        objective = lam * dpo + (1 - lam) * sft
    task = cp.Problem(cp.Minimize(objective), [cp.norm(theta) <= problem.radius])
    task.solve(solver=cp.CLARABEL)
    return float(task.value)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.7, 1.0])
def test_minima_agree_with_a_conic_solver(lam):
    problem = random_log_linear(3, prompts=6, responses=4, dimension=5, radius=2.0)
    found = minimise(problem, lam)
    assert found.value == pytest.approx(with_cvxpy(problem, lam), abs=1e-6)
    assert found.certificate < 1e-9
    assert np.linalg.norm(found.theta) <= problem.radius * (1 + 1e-12)


@pytest.mark.parametrize("lam", [0.2, 0.5, 0.8])
def test_minimum_of_the_larger_gap_agrees_with_a_conic_solver(lam):
    problem = random_log_linear(4, prompts=6, responses=4, dimension=5, radius=2.0)
    found = minimise_max_gap(problem, lam)
    assert found.value == pytest.approx(with_cvxpy(problem, lam, chebyshev=True), abs=1e-6)
    assert found.certificate < 1e-7


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), lam=st.floats(0, 1), radius=st.floats(0.1, 50))
def test_every_minimum_is_certified_and_no_random_point_is_better(seed, lam, radius):
    problem = random_log_linear(seed, prompts=5, responses=4, dimension=6, radius=radius)
    found = minimise(problem, lam)
    assert found.certificate <= 1e-7
    points = np.random.default_rng(seed).normal(size=(200, 6))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    points *= np.random.default_rng(seed + 1).random((200, 1))
    values = problem.losses(points) @ [1 - lam, lam]
    assert values.min() >= found.lower - 1e-12


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), lam=st.floats(0, 1))
def test_the_krylov_form_finds_the_same_minimum(seed, lam):
    problem = random_log_linear(seed, prompts=5, responses=4, dimension=12, radius=3.0)
    dense = minimise(problem, lam)
    limit, _trust_region.KRYLOV_ABOVE = _trust_region.KRYLOV_ABOVE, 1
    try:
        krylov = minimise(problem, lam, tolerance=1e-9)
    finally:
        _trust_region.KRYLOV_ABOVE = limit
    assert krylov.certificate <= 1e-7
    assert krylov.value == pytest.approx(dense.value, abs=1e-7)


def test_a_budget_of_one_iteration_is_certified_too():
    problem = random_log_linear(0)
    rough, exact = minimise(problem, 0.5, max_iterations=1), minimise(problem, 0.5)
    assert rough.lower <= exact.value <= rough.value
    assert rough.certificate > exact.certificate


def test_the_worked_example_has_its_closed_form():
    problem = binary_example(radius=4.0)
    assert minimise(problem, 0.5).theta == pytest.approx(0.0, abs=1e-8)
    assert minimise(problem, 1.0).theta == pytest.approx(4.0)
    assert minimise(problem, 0.0).theta == pytest.approx(-4.0)


def test_quadratics_are_solved_in_one_step_without_a_ball():
    problem = random_quadratic(0, dimension=3)
    found = minimise(problem, 0.3)
    weights = np.array([0.7, 0.3])
    hessian = np.tensordot(weights, problem.hessians, axes=1)
    pull = sum(
        w * h @ a for w, h, a in zip(weights, problem.hessians, problem.centres, strict=True)
    )
    np.testing.assert_allclose(found.theta, np.linalg.solve(hessian, pull), atol=1e-9)
    assert found.certificate < 1e-12


def test_quadratics_on_a_ball_touch_it():
    problem = random_quadratic(0, dimension=3, radius=0.2)
    found = minimise(problem, 1.0)
    assert np.linalg.norm(found.theta) == pytest.approx(0.2)
    assert found.certificate < 1e-9


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_larger_gap_of_one_objective_alone_is_zero_at_its_minimum(lam):
    problem = random_log_linear(0)
    assert minimise_max_gap(problem, lam).value == 0.0


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_lam_out_of_range(lam):
    with pytest.raises(InputError, match="lam"):
        minimise(random_log_linear(0), lam)
