"""Certificates hold for any caller and any solve: examples that failed before, and a search."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.attack._adversary import FAMILIES, adversarial
from tests.attack._oracle import Oracle
from tests.attack.certificates import attacked
from tradeoff.checkout import ROOT
from tradeoff.convex import (
    LogLinear,
    Quadratic,
    binary_example,
    certify,
    minimise,
    minimise_max_gap,
    pareto_front,
    random_log_linear,
)
from tradeoff.convex._rounding import Sizes
from tradeoff.convex.problem import LocalModel, Rounding
from tradeoff.errors import InputError
from tradeoff.records import read_json
from tradeoff.schedules import Alright, Maxright, Mix, Rounds
from tradeoff.theory import (
    beta_limits,
    binary,
    certificates,
    constrained,
    forgetting,
    fronts,
    growth,
    invariance,
    joint,
    last_iterate,
    maxright,
    minimax,
    population,
    rounds,
    sequential,
    tails,
)


def separable(radius: float) -> LogLinear:
    """Four demonstrations that one direction separates from all other responses."""
    return random_log_linear(
        1, prompts=4, responses=3, dimension=5, demonstrations=4, pairs=6, radius=radius
    )


def equal_pairs() -> LogLinear:
    """Every pair compares two responses with the same features, so f_DPO is constant."""
    prompts = [[[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]]
    return LogLinear.from_prompts(prompts, [(0, 2)], [(0, 0, 1)], radius=2.0, beta=1.0)


# ------------------------------------------------------------------ no caller can break one


def test_a_start_outside_the_ball_is_projected():
    problem = random_log_linear(0)
    best = minimise(problem, 1.0)
    found = minimise(problem, 1.0, start=1.5 * best.theta)
    assert np.linalg.norm(found.theta) <= problem.radius
    assert found.value == pytest.approx(best.value, abs=1e-9)
    assert best.lower <= found.value
    assert minimise(problem, 0.5, start=1e200 * np.ones(16)).converged


@pytest.mark.parametrize("start", [[1.0, 2.0], np.full(16, np.nan)])
def test_a_start_that_is_no_point_is_refused(start):
    with pytest.raises(InputError, match="start"):
        minimise(random_log_linear(0), 0.5, start=start)


def test_a_front_that_extrapolates_its_starts_attains_no_more_than_is_possible():
    problem = random_log_linear(
        3, prompts=6, responses=4, dimension=5, demonstrations=24, pairs=24, radius=10,
        beta=0.001, label_smoothing=0.49,
    )  # fmt: skip
    front = pareto_front(problem, accuracy=1e-3)
    assert np.all(np.linalg.norm(front.thetas, axis=1) <= problem.radius)
    oracle = Oracle(problem)
    for theta in front.thetas:
        oracle.add(theta)
    grid = np.concatenate([front.weights, np.linspace(0, 1, 9)])
    lower, upper = front.value_bounds(grid)
    bounds = np.array([oracle.enclosure([1 - lam, lam]) for lam in grid])
    assert np.all(upper >= bounds[:, 0])
    assert np.all(lower <= bounds[:, 1])
    assert np.max(bounds[:, 1] - bounds[:, 0]) < 1e-3 * front.ranges.max()


def test_a_loss_that_is_no_number_is_refused():
    problem = random_log_linear(0)
    with pytest.raises(InputError, match=r"row 4, field 'features': too large"):
        replace(
            problem, features=problem.features * np.where(np.arange(128) == 3, 1e200, 1)[:, None]
        )

    class Undefined:
        radius, dimension = 1.0, 1

        def local_model(self, theta, weights):
            nothing = np.array([np.nan, 0.0])
            return LocalModel(nothing, nothing[1:], lambda: np.eye(1), lambda v: v)

        def losses(self, theta):
            return np.array([np.nan, 0.0])

        def strong_convexity(self, weights):
            return 1.0

    with pytest.raises(InputError, match="not a finite number inside the ball"):
        minimise(Undefined(), 0.5)


def test_a_solve_that_stops_early_says_so_and_stays_valid():
    problem = random_log_linear(0)
    early, best = minimise(problem, 0.5, max_iterations=1), minimise(problem, 0.5)
    assert not early.converged
    assert best.converged
    assert "did not converge" in repr(early)
    assert early.table().stopped.item() == "iterations"
    assert early.lower <= best.value <= early.value


def test_rounding_is_part_of_a_certificate():
    # In a wide ball the Frank-Wolfe gap of a rounded gradient can be zero away from the optimum.
    problem = random_log_linear(0, radius=1e4, beta=50.0, label_smoothing=0.3)
    found, oracle = minimise(problem, 1.0, tolerance=0.0), Oracle(problem)
    oracle.add(found.theta)
    off = np.abs(oracle.losses(found.theta) - found.losses)
    assert np.all(off <= found.rounding)
    assert found.certificate >= found.rounding[1] > 0
    assert found.certificate < 1e-9  # R times the rounding of the gradient is much larger.


# ------------------------------------------------------------------ flat tails


@pytest.mark.parametrize("radius", [40.0, 400.0, 800.0, 3e3, 1e4])
def test_the_limit_of_separable_demonstrations_is_found(radius):
    limit = sequential.limit_gap(separable(radius), 0.5, "preference")
    assert limit.converged
    assert np.linalg.norm(limit.last.theta) == pytest.approx(radius)
    assert limit.enclosure[0] <= limit.gap <= limit.enclosure[1]
    # The direction is the one with the largest least log-odds, up to O(1 / R).
    odds = separable(radius).log_probs(limit.last.theta / radius)
    shown = separable(radius).demonstrated > 0
    others = separable(1.0).log_probs(minimise(separable(1.0), 0.0).theta)
    assert odds[shown].min() >= others[shown].min() - 1e-9


def test_limits_grow_with_the_radius_as_the_hard_margin_point_says():
    gaps = [sequential.limit_gap(separable(r), 0.5, "preference").gap for r in (400.0, 800.0)]
    # It is linear in R up to a constant; a stalled solver gave ratios of more than three.
    assert gaps[1] / gaps[0] == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("beta", [10.0, 35.0, 50.0])
def test_clean_labels_end_on_the_boundary_for_any_beta(beta):
    problem = random_log_linear(0, pairs=8, beta=beta)
    limit = sequential.limit_gap(problem, 0.5)
    assert np.linalg.norm(limit.last.theta) == pytest.approx(4.0)
    assert limit.converged


@pytest.mark.parametrize(("beta", "radius"), [(1.0, 1e4), (50.0, 1e4), (1e-3, 1e-3), (50.0, 4.0)])
def test_the_binary_example_holds_far_beyond_the_smallest_number(beta, radius):
    assert binary.binary_limit(0.3, beta, radius).holds
    assert binary.binary_limit(0.3, beta, radius, "preference").holds
    assert sequential.limit_gap(binary_example(radius, beta), 0.3).converged


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_a_rough_location_encloses_the_limit(tolerance):
    for seed in range(2):
        problem = random_log_linear(seed, pairs=8, beta=3.0)
        fine = sequential.limit_gap(problem, 0.5)
        low, high = sequential.limit_gap(problem, 0.5, tolerance=tolerance).enclosure
        assert fine.converged
        assert low <= fine.gap <= high


def test_limits_of_beta():
    problem = random_log_linear(0, pairs=8)
    small = beta_limits.small_beta(problem, [1e-4, 1e-3, 1e-2])
    large = beta_limits.large_beta(problem, [1.0, 10.0, 100.0, 1e4])
    assert small.holds
    assert large.holds
    assert np.all(np.asarray(small.bound)[:2] < problem.radius)
    assert np.asarray(small.measured)[0] < 1e-2
    assert np.asarray(large.measured)[-1] < 1e-3
    hardest = beta_limits.hard_margin(problem)
    assert 0 < hardest.margin <= hardest.upper <= hardest.margin * (1 + 1e-5)
    with pytest.raises(InputError, match="satisfies every pair"):
        beta_limits.large_beta(random_log_linear(0), [1.0])


def test_the_anchor_can_remove_the_gap():
    # With every pair in both directions and the SFT optimum as reference, nothing is forgotten.
    base = random_log_linear(0, radius=50.0)
    reference = minimise(base, 0.0, tolerance=0.0).theta
    both = {"chosen": np.append(base.chosen, base.rejected)}
    both["rejected"] = np.append(base.rejected, base.chosen)
    for beta in (0.01, 1.0, 10.0):
        problem = replace(base, reference=reference, beta=beta, **both)
        assert sequential.limit_gap(problem, 0.5).gap < 1e-9


# ------------------------------------------------------------------ overflow and equal features


@pytest.mark.parametrize("objective", [0, 1])
def test_strong_convexity_does_not_overflow(objective):
    wide = random_log_linear(0, radius=1e4, label_smoothing=0.1)
    modulus = growth.strong_convexity(wide, objective)
    assert np.isfinite(modulus)
    assert 0 <= modulus < 1e-100
    assert growth.growth(wide, objective).mu > 0


def test_pairs_with_equal_features_cost_nothing_and_break_nothing():
    problem, run = equal_pairs(), {"replicas": 2, "engine": "numpy"}
    for lam in (0.5, 1.0):
        for schedule in (Alright(lam=lam), Mix(lam=lam)):
            assert joint.joint_gap(problem, schedule, 20, **run).holds
        for theta in (np.zeros(2), np.array([1.0, 1.0])):
            assert certificates.lower_certificate(problem, lam, theta).holds
            assert certificates.upper_certificate(problem, lam, theta).holds
    assert maxright.maxright_gap(problem, Maxright(lam=0.5), 20, **run).holds
    assert sequential.budget_splits(problem, 0.5, 8, [0.0, 0.5, 1.0]).gaps.holds
    assert sequential.measured_gap(problem, 0.5, 20, "preference", **run).holds
    with pytest.raises(InputError, match="growth"):  # f_DPO has no unique minimiser.
        sequential.measured_gap(problem, 0.5, 20, **run)
    low, high = sequential.limit_gap(problem, 0.5).enclosure
    assert low <= sequential.limit_gap(problem, 0.5).gap <= high


@pytest.mark.parametrize(("radius", "beta"), [(4.0, 1.0), (1e3, 10.0), (1e4, 50.0), (1e-3, 1e-3)])
def test_the_rate_of_forgetting_holds_up_to_its_rounding(radius, beta):
    for seed in range(5):
        problem = random_log_linear(seed, radius=radius, beta=beta)
        theta = problem.project(np.random.default_rng(seed).normal(size=16) * radius) / 2
        assert forgetting.forgetting_rate(problem, theta, seed % 2).holds


@pytest.mark.parametrize("radius", [100.0, 1000.0])
def test_fronts_of_wide_balls_close_at_their_rate(radius):
    problem = random_log_linear(
        0, prompts=4, responses=3, dimension=3, demonstrations=9, pairs=9, radius=radius
    )
    rate = fronts.front_rate(problem, (3, 5, 9))
    assert rate.holds
    assert rate.constants["inner"] < 1e-3


# ------------------------------------------------------------------ the search


@pytest.mark.slow
def test_no_problem_of_a_small_search_breaks_a_certificate():
    # In a separate process, where annotations are not checked at each of a million calls.
    command = [sys.executable, "-W", "error", "-m", "tests.attack.certificates"]
    done = subprocess.run([*command, "--problems", "96"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 failures in" in done.stdout


def test_the_stored_search_is_a_full_one():
    stored = read_json(ROOT / "tests" / "attack" / "certificates.json")
    assert stored["problems"] >= 10_000
    assert stored["failures"] == 0
    assert stored["oracle_width_median"] < 1e-12
    assert min(n["tries"] for n in stored["promises"].values()) >= 1000


def test_the_search_finds_a_certificate_that_is_false(monkeypatch):
    def unprojected(theta, dimension, radius):
        return np.array(theta, dtype=float)

    monkeypatch.setattr(certify, "into_ball", unprojected)
    assert "parameters inside the ball" in broken_promises(range(0, 24, 6))


@pytest.mark.slow
def test_the_search_finds_rounding_that_is_left_out(monkeypatch):
    none = Rounding(np.zeros(2), 0.0, 0.0)
    monkeypatch.setattr(Sizes, "rounding", lambda *_: none)
    monkeypatch.setattr(certify, "UNIT", 0.0)
    assert "certificate of a minimum" in broken_promises(range(3))


def broken_promises(numbers) -> set[str]:
    return set(attacked(numbers).failures) - {"no error"}


def test_problems_of_the_search_are_what_they_are_said_to_be():
    problems = [adversarial(seed) for seed in range(300)]
    radii = np.array([p.radius for p in problems])
    assert radii.min() < 1e-2
    assert radii.max() > 1e3
    assert {p.label_smoothing for p in problems} == {0.0, 0.01, 0.3, 0.49}
    place = FAMILIES.index("equal pairs")
    equal = [(p.dense_differences == 0).all(axis=1) for p in problems[place :: len(FAMILIES)]]
    assert np.mean([pairs.any() for pairs in equal]) > 0.5
    assert any(pairs.all() for pairs in equal)


def test_the_larger_gap_of_a_problem_without_conflict_is_certified():
    agree = LogLinear.from_prompts([np.eye(2)], [(0, 0)], [(0, 0, 1)], radius=2.0, beta=1.0)
    found = minimise_max_gap(agree, 0.5)
    assert 0 <= found.value <= 1e-9
    assert found.lower <= 0


@pytest.mark.parametrize("rare", [1e-17, 1e-14, 1e-3])
def test_a_response_that_is_hardly_ever_demonstrated_still_holds_back(rare):
    # At the minimum the odds of the two responses are those of their weights.
    shown = {"offsets": np.array([0, 2]), "demonstrations": np.array([0, 1])}
    compared = {"chosen": np.array([0]), "rejected": np.array([1])}
    problem = LogLinear(
        features=np.array([[100.0], [0.0]]), **shown, **compared, radius=20.0,
        demonstration_weights=np.array([1.0, rare]),
    )  # fmt: skip
    found = minimise(problem, 0.0, tolerance=0.0)
    assert np.ptp(problem.logits(found.theta)) == pytest.approx(-np.log(rare), rel=1e-12)
    assert found.certificate < 1e-12 * found.value


def test_a_quadratic_that_is_flat_within_rounding_is_refused():
    # Its certificate |g|^2 / (2 mu) would have a mu of the wrong sign.
    flat = np.stack([np.diag([1e-20, 1.0]), np.diag([1e-20, 2.0])])
    with pytest.raises(InputError, match=r"hessians.*positive definite beyond rounding"):
        Quadratic(np.array([[0.0, 0.0], [1.0, 2.0]]), flat)


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_matrices_of_a_quadratic_are_symmetric_in_any_units(scale):
    centres, eye = np.array([[0.0, 0.0], [1.0, 2.0]]), np.stack([np.eye(2), np.eye(2)])
    skew = scale * np.array([[1.0, 9.0], [0.0, 1.0]])
    with pytest.raises(InputError, match=r"hessians.*not symmetric"):
        Quadratic(centres, np.stack([skew, skew]))
    for wrong in (skew, -scale * np.eye(2)):
        with pytest.raises(InputError, match=r"covariances.*positive semidefinite"):
            Quadratic(centres, eye, np.stack([wrong, wrong]))
    nearly = scale * np.array([[1.0, 0.5], [0.5 + 4e-7, 1.0]])
    problem = Quadratic(centres, np.stack([nearly, nearly]))
    assert np.array_equal(problem.hessians, problem.hessians.transpose(0, 2, 1))


# ------------------------------------------------------------------ theorems at their edges


def two_responses(features: list[list[float]], **settings) -> LogLinear:
    """One prompt with two responses; both objectives prefer the first."""
    return LogLinear.from_prompts([features], [(0, 0)], [(0, 0, 1)], **settings)


def test_rates_hold_where_no_update_moves():
    flat, run = two_responses([[1e6], [1e6]], radius=1e4), {"replicas": 2, "engine": "numpy"}
    for checked in (
        rounds.rounds_gap(flat, Rounds(lam=0.5, rounds=2), 8, **run),
        tails.tail_gap(flat, Alright(), 4, **run),
        last_iterate.last_iterate_gap(flat, Mix(), 4, **run),
        constrained.constrained_gap(flat, 0.01, 4, **run),
        minimax.minimax_gap(equal_pairs(), 0.5, 4, replicas=2),
        population.uniform_deviation(flat, 1, 4, samples=4, points=20),
    ):
        assert checked.holds


def test_the_end_of_a_front_is_on_it_within_its_certificate():
    separated = two_responses([[1.0], [0.0]], radius=30.0)
    front = pareto_front(separated, solves=9)
    assert invariance.on_front(separated, front, [0.0, 0.5, 1.0]).holds
    theta = np.array([[0.0], [-1.0]])
    with pytest.raises(InputError, match="no range"):
        invariance.front_gap_invariance(front, separated.losses(theta), (10.0, 0.1))
    with pytest.raises(InputError, match="no range"):
        invariance.matched_weight_covariance(front, separated.losses(theta), (10.0, 0.1))


def test_wrong_minima_cost_what_they_may_for_losses_of_very_different_sizes():
    small = {"prompts": 3, "responses": 3, "dimension": 2, "demonstrations": 3, "pairs": 3}
    given = random_log_linear(1, **small)
    wide = replace(given, features=1e5 * given.features, radius=600.0, beta=1e-4)
    assert maxright.optimum_sensitivity(wide, 1e-6, (0.1, 0.2)).holds


def test_updates_are_counted_beyond_the_largest_machine_number():
    for rate in ("average", "last", "full"):
        steps = sequential.half_gap_steps(binary_example(60.0, 1.0), 0.5, rate=rate)
        assert sequential.rate_of(binary_example(60.0, 1.0), 1, steps, rate) > 0
    with pytest.raises(InputError, match=r"2\^1000"):
        sequential.half_gap_steps(binary_example(400.0, 1.0), 0.5)


def test_one_replica_has_no_standard_error():
    assert sequential.measured_gap(
        binary_example(2.0, 1.0), 0.5, 16, replicas=1, engine="numpy"
    ).holds


def test_least_eigenvalues_are_known_up_to_rounding():
    far = random_log_linear(0, prompts=2, responses=3, dimension=2, demonstrations=2)
    far = replace(far, features=far.features + 1e7, radius=1e-3)
    assert growth.strongly_convex(far, 0, np.zeros((1, 2))).holds
