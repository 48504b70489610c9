"""T1 and T2: constants by brute force, and certificates against an independent solver."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from tradeoff.convex import LogLinear, random_log_linear
from tradeoff.convex._crossed import CrossedFeatures
from tradeoff.theory import certificates, growth
from tradeoff.theory.constants import constants, gradient_norms, sample_gradients, smoothness

seeds = st.integers(0, 10_000)
weights = st.floats(0, 1)


def instance(seed: int, **settings) -> LogLinear:
    rng = np.random.default_rng(seed)
    sizes = {"prompts": 4, "responses": 3, "dimension": 3, "demonstrations": 9, "pairs": 9}
    return random_log_linear(
        seed, **sizes, conflict=float(rng.random()), radius=float(rng.uniform(0.3, 4)),
        beta=float(rng.uniform(0.1, 2)), **settings,
    )  # fmt: skip


def points(problem, seed, count=6):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(count, problem.dimension))
    radii = problem.radius * rng.random((count, 1)) ** 0.3
    return radii * theta / np.linalg.norm(theta, axis=1, keepdims=True)


def spans(problem):
    phi = problem.dense_features
    best = 0.0
    for x in np.flatnonzero(problem.prompt_weights > 0):
        own = phi[problem.offsets[x] : problem.offsets[x + 1]]
        best = max(best, max(np.linalg.norm(a - b) for a in own for b in own))
    return best


@given(seeds, weights, st.sampled_from([0.0, 0.2]))
@settings(max_examples=25)
def test_bounds_hold_anywhere(seed, lam, smoothing):
    problem = instance(seed, label_smoothing=smoothing)
    theta = points(problem, seed)
    assert all(checked.holds for checked in gradient_norms(problem, theta))
    assert smoothness(problem, lam, theta).holds
    assert constants(problem).delta == pytest.approx(spans(problem))
    assert (
        constants(problem).second_moment(lam) >= constants(problem).mixed_second_moment(lam) - 1e-9
    )


def test_prompts_without_demonstrations_do_not_count():
    rng = np.random.default_rng(0)
    prompts = [rng.normal(size=(3, 2)), 100 * rng.normal(size=(3, 2))]
    problem = LogLinear.from_prompts(prompts, [(0, 1)], [(0, 0, 1), (1, 0, 1)], radius=1.0)
    c = constants(problem)
    assert c.delta == pytest.approx(spans(problem))
    assert c.delta < 10
    assert c.sft_gradient < c.delta or c.sft_gradient == pytest.approx(c.delta)
    assert c.delta_w > 30
    pair_weights = np.array([1.0, 0.0])
    lighter = LogLinear.from_prompts(
        prompts, [(0, 1)], [(0, 0, 1), (1, 0, 1)], radius=1.0, pair_weights=pair_weights
    )
    assert constants(lighter).delta_w < 10


def test_features_of_every_kind_give_the_same_constants():
    rng = np.random.default_rng(1)
    psi = sp.random_array((12, 5), density=0.6, rng=rng).tocsr()
    crossed = CrossedFeatures(psi, np.arange(12) % 12, rng.normal(size=(12, 1)), np.ones((12, 1)))
    fields = {
        "offsets": np.arange(0, 13, 4), "demonstrations": np.array([0, 5, 6]),
        "chosen": np.array([1, 9]), "rejected": np.array([2, 8]), "radius": 2.0,
    }  # fmt: skip
    rows = crossed.rows(np.arange(12))
    kinds = [LogLinear(features=f, **fields) for f in (crossed, rows, rows.toarray())]
    found = [constants(problem) for problem in kinds]
    for name in ("delta", "delta_w", "sft_gradient", "mean_sft_smoothness"):
        values = [getattr(c, name) for c in found]
        assert values == pytest.approx([values[-1]] * 3), name
    theta = rng.normal(size=kinds[0].dimension) / 4
    for problem in kinds:
        gradients, share = sample_gradients(problem, 0, theta)
        np.testing.assert_allclose(share @ gradients, kinds[-1].gradients(theta)[0], atol=1e-12)


def test_wide_problems_use_the_iterative_eigenvalue():
    narrow = random_log_linear(0, dimension=40, prompts=6, demonstrations=10, pairs=10)
    wide = LogLinear(
        features=np.pad(narrow.features, ((0, 0), (0, 500))), offsets=narrow.offsets,
        demonstrations=narrow.demonstrations, chosen=narrow.chosen, rejected=narrow.rejected,
        radius=narrow.radius, beta=narrow.beta,
    )  # fmt: skip
    for name in ("mean_sft_smoothness", "mean_preference_smoothness"):
        assert getattr(constants(wide), name) == pytest.approx(getattr(constants(narrow), name))


@given(seeds, weights)
@settings(max_examples=25)
def test_certificates_enclose_the_gap(seed, lam):
    problem = instance(seed)
    theta = points(problem, seed, 1)[0]
    lower = certificates.lower_certificate(problem, lam, theta)
    assert lower.holds
    assert certificates.upper_certificate(problem, lam, theta).holds
    assert float(lower.bound) >= lower.constants["familiar"] - 1e-12


def test_the_gap_agrees_with_clarabel():
    problem, lam = instance(3), 0.4
    theta = cp.Variable(problem.dimension)
    z = problem.dense_features @ theta
    terms = [
        problem.prompt_weights[x] * cp.log_sum_exp(z[problem.offsets[x] : problem.offsets[x + 1]])
        for x in range(len(problem.offsets) - 1)
    ]
    sft = cp.sum(terms) - problem.demonstrated @ z
    dpo = cp.sum(cp.logistic(-problem.beta * problem.dense_differences @ theta)) / 9
    best = cp.Problem(
        cp.Minimize(lam * dpo + (1 - lam) * sft), [cp.norm(theta) <= problem.radius]
    ).solve(solver=cp.CLARABEL)
    at = points(problem, 0, 1)[0]
    value = float(np.array([1 - lam, lam]) @ problem.losses(at))
    assert certificates.gap(problem, lam, at)[0] == pytest.approx(value - best, abs=1e-6)


@pytest.mark.slow
@given(seeds, st.sampled_from([0, 1]))
@settings(max_examples=25)
def test_growth_holds_on_the_ball(seed, objective):
    problem = instance(seed)
    theta = points(problem, seed, 30)
    found = growth.growth(problem, objective)
    assert growth.quadratic_growth(problem, objective, theta).holds
    assert growth.strongly_convex(problem, objective, theta).holds
    assert found.mu >= growth.strong_convexity(problem, objective) - 1e-12


def test_boundary_growth_survives_a_singular_hessian():
    problem = random_log_linear(0, dimension=16, pairs=3, demonstrations=200, radius=1.0)
    found = growth.growth(problem, 1)
    assert growth.strong_convexity(problem, 1) == 0.0
    assert found.boundary > 0
    assert growth.quadratic_growth(problem, 1, points(problem, 0, 50)).holds


def test_an_interior_tie_is_refused():
    problem = LogLinear.from_prompts(
        [[[1.0, 0.0], [0.0, 0.0]]], [(0, 0), (0, 1)], [(0, 0, 1)], radius=1.0
    )
    with pytest.raises(ValueError, match="may not be unique"):
        growth.growth(problem, 0)
