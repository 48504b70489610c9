"""Runs: the compiled engine equals its specification, and both follow the schedules."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tradeoff.convex._trained_losses import TrainedLossSampler
from tradeoff.convex.instances import random_log_linear, random_quadratic
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.problem import Simulated
from tradeoff.convex.sampling import LogLinearSampler
from tradeoff.convex.simulate import StepSize, Trajectories, simulate, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.methods import Method, find, names, told_apart
from tradeoff.methods.gradients import CaGrad, PcGrad, Seen, SmoothTchebycheff
from tradeoff.methods.losses import ApoZero, Asft, Dft, Dpo, Ipo, Kto, Nca, Nll, Nominal, SimPo
from tradeoff.methods.losses.divergences import divergence
from tradeoff.schedules import (
    Alright,
    Constrained,
    Maxright,
    Mix,
    Rounds,
    Sequential,
    SmoothMaxright,
    Stages,
)

SCHEDULES = [
    Sequential(),
    Sequential(first="preference", share=0.3),
    Mix(lam=0.3),
    Mix(lam=0.0),
    Mix(lam=1.0),
    Alright(lam=0.6),
    Alright(lam=0.6, probability=0.2),
    Maxright(lam=0.4),
    Maxright(refresh=5, weighted=False, lam=0.7),
    Maxright(refresh=None),
    SmoothMaxright(lam=0.4, refresh=1),
    SmoothMaxright(lam=0.7, mu=0.3, refresh=3, samples=2, optimum_error=(0.1, -0.2)),
    Maxright(refresh=3, samples=2),
    Maxright(refresh=None, samples=1, weighted=False, optimum_error=(0.1, -0.2)),
    # With a minimum that is too low, or with one objective alone, both gaps would be equal at the
    # end, at zero, and rounding would decide.
    Maxright(lam=1.0, weighted=False, optimum_error=(0.0, -0.5)),
    Rounds(rounds=5, lam=0.4),
    Rounds(rounds=2, share=0.3, first="preference", restart=True),
    Constrained(),
    Constrained(limit=0.3, relative=True, refresh=4),
    Constrained(limit=0.2, refresh=3, samples=2),
    Stages(schedules=(Alright(lam=0.2), Mix(lam=0.3)), shares=(0.4, 0.6), lam=0.3),
]
IDS = [f"{i}-{schedule.label}" for i, schedule in enumerate(SCHEDULES)]


def ragged(seed: int, **settings: Any) -> LogLinear:
    """An instance with prompts of 2 to 9 responses, some of them without data."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 20))
    prompts = [rng.normal(size=(n, d)) / np.sqrt(d) for n in rng.integers(2, 10, size=6)]
    shown = [(x, int(rng.integers(len(prompts[x])))) for x in rng.integers(6, size=5).tolist()]
    pairs = [
        (x, *rng.choice(len(prompts[x]), 2, replace=False).tolist())
        for x in rng.integers(6, size=7).tolist()
    ]
    return LogLinear.from_prompts(prompts, shown, pairs + pairs[:2], **settings)


def weighted(seed: int, reference: int, radius: float) -> LogLinear:
    """A ragged instance with every setting; a number gives the kind of reference policy."""
    rng = np.random.default_rng(seed + 1)
    plain = ragged(seed, radius=radius)
    policies: list[dict[str, Any]] = [
        {},
        {"reference": rng.normal(size=plain.dimension)},
        {"reference_margins": rng.normal(size=9)},
    ]
    weights = rng.random(5), rng.integers(3, size=9) + np.eye(9)[0]
    return ragged(
        seed,
        radius=radius,
        beta=float(rng.uniform(0.1, 1.5)),
        label_smoothing=0.2 * (reference == 1),
        demonstration_weights=weights[0] if reference else None,
        pair_weights=weights[1] if reference else None,
        **policies[reference],
    )


def both_engines(problem: LogLinear, schedules: Any, **settings: Any) -> list[Trajectories]:
    return [trajectories(problem, schedules, engine=e, **settings) for e in ("numpy", "numba")]


def assert_same(a: Trajectories, b: Trajectories, tolerance: float) -> None:
    np.testing.assert_allclose(a.last, b.last, rtol=0, atol=tolerance)
    np.testing.assert_allclose(a.average, b.average, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(a.counts, b.counts)


# ---------------------------------------------------------------------- kernels and specification


@pytest.mark.slow
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    reference=st.integers(0, 2),
    radius=st.sampled_from([0.3, 2.0, 30.0]),
    size=st.sampled_from([0.02, 0.4]),  # Longer steps would amplify rounding errors.
    decay=st.sampled_from([0.0, 0.5, "linear", "cosine", "constant"]),
)
def test_kernels_reproduce_the_specification(seed, reference, radius, size, decay):
    problem = weighted(seed, reference, radius)
    step = StepSize(size, decay)
    options: dict[str, Any] = {"steps": 25, "step_size": step, "replicas": 3, "seed": seed}
    runs = both_engines(problem, SCHEDULES, **options)
    differ = np.flatnonzero((runs[0].counts != runs[1].counts).reshape(len(SCHEDULES), -1).any(1))
    if differ.size and all(rounding_decides(problem, SCHEDULES[i], **options) for i in differ):
        reject()
    assert_same(*runs, tolerance=1e-12 * radius)


def rounding_decides(problem: LogLinear, schedule: Any, **options: Any) -> bool:
    """Whether MAXRIGHT chooses otherwise if a minimum moves by much less than a step changes it.

    At the end of a small ball both gaps may be zero.
    """
    if not isinstance(schedule, Maxright):
        return False
    moved = [
        replace(schedule, optimum_error=tuple(np.add(schedule.optimum_error, error)))
        for error in ((1e-11, 0.0), (0.0, 1e-11))
    ]
    runs = [trajectories(problem, [one], engine="numpy", **options).counts for one in moved]
    return bool((runs[0] != runs[1]).any())


def test_a_choice_that_rounding_decides_is_seen() -> None:
    options: dict[str, Any] = {"steps": 25, "step_size": StepSize(0.02, 0.0), "replicas": 3}
    tie = weighted(513628, 1, 0.3)
    assert rounding_decides(tie, Maxright(refresh=5, weighted=False, lam=0.7), **options)
    usual = weighted(0, 1, 2.0)
    assert not rounding_decides(usual, Maxright(refresh=5, weighted=False, lam=0.7), **options)


@pytest.mark.slow
def test_kernels_reproduce_long_runs():
    problem = random_log_linear(3)
    step = StepSize(1.0, 0.5)
    runs = both_engines(problem, SCHEDULES, steps=600, step_size=step, replicas=2)
    assert_same(*runs, tolerance=1e-12 * problem.radius)


def test_kernels_bear_extreme_logits():
    problem = random_log_linear(1, radius=1e4, beta=5.0)
    start = np.full(16, 2000.0)
    schedules = [Mix(), Maxright(), Maxright(samples=3)]
    runs = both_engines(problem, schedules, steps=50, step_size=500.0, replicas=2, start=start)
    assert_same(*runs, tolerance=1e-12 * problem.radius)


def test_smooth_maxright_lies_between_alright_and_maxright():
    """Bit for bit at both ends; compiled code and specification agree between them."""
    problem = random_log_linear(3)
    step, lam = {"steps": 120, "step_size": StepSize(0.5, 0.5), "replicas": 3}, 0.4
    rules = {
        mu: [SmoothMaxright(lam=lam, mu=mu, refresh=k, samples=s) for k, s in ((1, 0), (5, 4))]
        for mu in (1e-9, 0.05, 1e9)
    }
    assert_same(*both_engines(problem, rules[0.05], **step), tolerance=1e-12 * problem.radius)
    for mu, ends in (
        (1e9, [Alright(lam=lam)] * 2),
        (
            1e-9,
            [Maxright(lam=lam, weighted=False, refresh=k, samples=s) for k, s in ((1, 0), (5, 4))],
        ),
    ):
        for found, end in zip(
            both_engines(problem, rules[mu], **step),
            both_engines(problem, ends, **step),
            strict=True,
        ):
            np.testing.assert_array_equal(found.last, end.last)
            np.testing.assert_array_equal(found.counts, end.counts)
            np.testing.assert_allclose(found.average, end.average, atol=1e-6)


def test_smooth_maxright_ends_where_its_theory_says():
    """On the front, at the weight that the coin's probability is."""
    problem = random_log_linear(0, prompts=4, dimension=4, demonstrations=12, pairs=12)
    rule = SmoothMaxright(lam=0.8, mu=0.1, refresh=1)
    settings = {"steps": 4000, "step_size": StepSize(2.0, 0.5), "replicas": 8}
    runs = trajectories(problem, rule, checkpoints=[4000], **settings)
    end = runs.losses(problem, "average")[0, :, -1].mean(axis=0)
    least = np.array([minimise(problem, 0.0).value, minimise(problem, 1.0).value])
    pulls = rule.plan(1).pulls(end - least)
    share = pulls[1] / pulls.sum()
    assert share < 0.75  # ALRIGHT would end at the weight 0.8.
    above, of_alright = (
        float(end @ [1 - lam, lam]) - minimise(problem, lam).value for lam in (share, rule.lam)
    )
    assert above < 2.5e-3 < of_alright


def test_result_does_not_depend_on_the_number_of_threads():
    problem = random_log_linear(0)
    results = []
    for threads in (1, 2, 4):
        numba.set_num_threads(threads)
        results.append(trajectories(problem, SCHEDULES, steps=100, step_size=0.3, replicas=70))
    for other in results[1:]:
        assert_same(results[0], other, tolerance=0)


@pytest.mark.slow
def test_compiled_runs_leave_torch_its_threads():
    """Numba and torch share OpenMP, and numba starts its threads on all cores."""
    code = """
import torch
from tradeoff import Mix, random_log_linear
from tradeoff.convex.simulate import trajectories
trajectories(random_log_linear(0), [Mix()], steps=2, step_size=0.1, engine="numba")
print(torch.get_num_threads())
"""
    given = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"}
    given |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_common_random_numbers(engine):
    """A replica's run does not depend on the other replicas and schedules."""
    problem = random_log_linear(0)
    kwargs = {"steps": 30, "step_size": 0.3, "engine": engine}
    # BLAS sums a batch of losses in another order than a single one.
    tolerance = 0 if engine == "numba" else 1e-13
    many = trajectories(problem, SCHEDULES, replicas=64, **kwargs)
    few = trajectories(problem, SCHEDULES[::4], replicas=4, **kwargs)
    np.testing.assert_allclose(many.last[::4, :4], few.last, rtol=0, atol=tolerance)
    np.testing.assert_allclose(many.average[::4, :4], few.average, rtol=0, atol=tolerance)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_seed_decides(engine):
    problem = random_log_linear(0)

    def last(seed: int) -> np.ndarray:
        kwargs = {"steps": 20, "step_size": 0.3, "replicas": 3, "engine": engine}
        return trajectories(problem, Alright(), seed=seed, **kwargs).last[0, :, -1]

    np.testing.assert_array_equal(last(5), last(5))
    assert np.all(np.any(last(5) != last(6), axis=1))
    assert len(np.unique(last(5), axis=0)) == 3


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_records_do_not_depend_on_other_records(engine):
    problem = random_log_linear(0)
    kwargs = {"steps": 40, "step_size": 0.3, "replicas": 2, "engine": engine}
    every = trajectories(problem, SCHEDULES, checkpoints=np.arange(41), **kwargs)
    some = trajectories(problem, SCHEDULES, checkpoints=[0, 7, 20, 33], **kwargs)
    np.testing.assert_array_equal(every.last[:, :, [0, 7, 20, 33]], some.last)
    np.testing.assert_array_equal(every.average[:, :, [0, 7, 20, 33]], some.average)
    np.testing.assert_array_equal(every.counts[:, :, [0, 7, 20, 33]], some.counts)


# ---------------------------------------------------------------------- what the updates are


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_iterates_and_averages_stay_in_the_ball(schedule, engine):
    problem = random_log_linear(0, radius=0.7)
    runs = trajectories(problem, schedule, steps=60, step_size=3.0, replicas=4, engine=engine)
    norms = np.linalg.norm([runs.last, runs.average], axis=-1)
    assert norms.max() <= 0.7 * (1 + 1e-14)
    assert norms.max() > 0.69


def test_mix_with_full_gradients_is_projected_gradient_descent():
    problem = weighted(4, 1, radius=1.5)
    runs = trajectories(
        problem, Mix(lam=0.3), steps=50, step_size=0.8, replicas=1, gradients="full"
    )
    theta = np.zeros(problem.dimension)
    iterates = []
    for _ in range(50):
        iterates.append(theta)
        sft, preference = problem.gradients(theta)
        theta = theta - 0.8 * (0.7 * sft + 0.3 * preference)
        theta = theta * min(1.0, 1.5 / np.linalg.norm(theta))
    np.testing.assert_allclose(runs.last[0, 0, -1], theta, atol=1e-12)
    np.testing.assert_allclose(runs.average[0, 0, -1], np.mean(iterates, axis=0), atol=1e-12)


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_sample_gradients_are_unbiased(reference):
    problem = weighted(8, reference, radius=2.0)
    theta = np.random.default_rng(0).normal(size=problem.dimension)
    sampler = LogLinearSampler(problem, 0, np.arange(1))
    for objective, weights in enumerate([problem.sft_weights, problem.preference_weights]):
        points = np.arange(len(weights))
        loss, gradient = sampler.evaluate(objective, np.tile(theta, (len(points), 1)), points)
        np.testing.assert_allclose(
            weights @ gradient, problem.gradients(theta)[objective], atol=1e-14
        )
        assert weights @ loss == pytest.approx(problem.losses(theta)[objective], rel=1e-13)


@pytest.mark.parametrize("reference", [0, 1])
def test_data_points_are_drawn_in_proportion_to_their_weights(reference):
    problem = weighted(8, reference, radius=2.0)
    sampler = LogLinearSampler(problem, 0, np.arange(1))
    grid = (np.arange(100_000) + 0.5) / 100_000
    for objective, weights in enumerate([problem.sft_weights, problem.preference_weights]):
        share = np.bincount(sampler.index(objective, grid), minlength=len(weights)) / len(grid)
        np.testing.assert_allclose(share, weights, atol=1e-4)


def test_sequential_restarts_its_average():
    runs = trajectories(
        random_log_linear(0),
        Sequential(share=0.5),
        steps=20,
        step_size=0.5,
        replicas=2,
        checkpoints=np.arange(21),
    )
    last, average = runs.last[0], runs.average[0]
    np.testing.assert_allclose(average[:, 10], last[:, :10].mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(average[:, 20], last[:, 10:20].mean(axis=1), atol=1e-14)
    np.testing.assert_array_equal(runs.counts[0, :, 20], [[10, 10]] * 2)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("first", ["sft", "preference"])
def test_one_round_is_sequential_training_bit_for_bit(engine, first):
    problem, step = random_log_linear(0), StepSize(0.5, "linear")
    kwargs = {"steps": 21, "step_size": step, "replicas": 3, "engine": engine}
    share = 0.3 if first == "preference" else 1 - 0.3
    sequential = trajectories(problem, Sequential(first=first, share=share, lam=0.3), **kwargs)
    schedule = Rounds(rounds=1, first=first, lam=0.3, restart=True)
    assert_same(trajectories(problem, schedule, **kwargs), sequential, tolerance=0)


def test_many_rounds_are_near_a_random_alternation_and_few_are_not():
    """T14: the gap falls with the number of rounds, down to that of joint training."""
    problem = random_log_linear(0)
    found = simulate(
        problem,
        [Rounds(rounds=1), Rounds(rounds=256), Alright()],
        steps=2048,
        step_size=StepSize(0.5, "linear"),
        replicas=32,
    )
    end = found[(found.step == 2048) & (found.iterate == "last")]
    gap = end.groupby("schedule", observed=True).gap.mean()
    assert gap["Rounds (K=256)"] < 1.5 * gap["ALRIGHT"]
    assert gap["Rounds (K=1)"] > 5 * gap["ALRIGHT"]


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("relative", [False, True])
def test_constrained_never_follows_preferences_beyond_its_limit(engine, relative):
    problem = random_log_linear(2)
    limit = 0.4 if relative else 0.1
    runs = trajectories(
        problem,
        Constrained(limit=limit, relative=relative),
        steps=300,
        step_size=0.1,
        replicas=4,
        checkpoints=np.arange(301),
        engine=engine,
    )
    least = minimise(problem, 0.0).value
    sft = runs.losses(problem)[0, :, :, 0]
    gain = float(problem.losses(np.zeros(problem.dimension))[0]) - least
    allowed = limit * gain if relative else limit
    followed = np.diff(runs.counts[0], axis=1)
    within = sft[:, :-1] - least <= allowed
    np.testing.assert_array_equal(followed[..., 1], within)
    np.testing.assert_array_equal(followed[..., 0], ~within)
    assert 0.1 < within.mean() < 0.9
    # The average is over iterates at which preferences were followed, so it is within the limit
    # too.
    for r in range(4):
        chosen = runs.last[0, r, :-1][within[r]]
        np.testing.assert_allclose(runs.average[0, r, -1], chosen.mean(axis=0), atol=1e-12)
    assert (runs.losses(problem, "average")[0, :, -1, 0] - least <= allowed).all()


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_where_preferences_were_never_followed_the_average_is_the_start(engine):
    problem = random_log_linear(0)
    start = np.full(problem.dimension, 0.01)
    runs = trajectories(
        problem, Constrained(limit=0.0), steps=5, step_size=0.1, start=start, engine=engine
    )
    np.testing.assert_array_equal(runs.average, np.broadcast_to(start, runs.average.shape))
    assert (runs.counts[..., 1] == 0).all()


def test_linear_steps_are_those_of_the_theorem():
    steps, reach, norm = 37, 1.3, 2.4
    plan = Alright().plan(steps)
    t = np.arange(1, steps + 1)
    expected = reach / (norm * np.sqrt(steps + 1)) * (steps + 1 - t) / (steps + 1)
    scale = reach * steps / (norm * (steps + 1) ** 1.5)
    np.testing.assert_allclose(StepSize(scale, "linear").of(plan), expected, rtol=1e-12)
    assert StepSize(0.3, "linear").of(plan)[0] == 0.3


# ---------------------------------------------------------------------- what the user sees


def test_table_is_tidy():
    schedules = [Mix(lam=0.3), Maxright(lam=0.6)]
    problem = random_log_linear(0)
    table = simulate(
        problem, schedules, steps=50, step_size=[0.1, 0.2], replicas=3, checkpoints=[0, 10, 50]
    )
    assert list(table.columns) == [
        "schedule",
        "lam",
        "step_size",
        "replica",
        "step",
        "iterate",
        "sft_loss",
        "preference_loss",
        "sft_gap",
        "preference_gap",
        "gap",
        "max_gap",
        "sft_updates",
        "preference_updates",
    ]
    assert len(table) == 2 * 2 * 3 * 3 * 2
    assert not table.isna().any().any()
    index = ["schedule", "step_size", "replica", "step", "iterate"]
    assert not table.duplicated(index).any()
    assert (table[["sft_gap", "preference_gap", "gap", "max_gap"]] > -1e-9).all().all()
    start = table[table.step == 0]
    np.testing.assert_allclose(start.preference_loss, np.log(2), rtol=1e-12)
    assert (start[["sft_updates", "preference_updates"]] == 0).all().all()
    row = table[(table.step == 50) & (table.iterate == "last") & (table.schedule == "Mix")].iloc[1]
    size = float(row.step_size)
    again = trajectories(problem, schedules[0], steps=50, step_size=size, replicas=3)
    losses = again.losses(problem)[0, int(row.replica), -1]
    np.testing.assert_allclose([row.sft_loss, row.preference_loss], losses, rtol=1e-12)
    best = minimise(problem, 0.3).value
    assert row.gap == pytest.approx(0.7 * row.sft_loss + 0.3 * row.preference_loss - best)
    assert row.max_gap == max(0.7 * row.sft_gap, 0.3 * row.preference_gap)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"replicas": 0}, "replicas"),
        ({"steps": 0}, "steps"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": np.nan}, "step_size"),
        ({"methods": Rounds(rounds=11)}, "rounds"),
        ({"checkpoints": [5, 11]}, "checkpoints"),
        ({"checkpoints": [-1]}, "checkpoints"),
        ({"start": np.zeros(3)}, "start"),
        ({"gradients": "full", "engine": "numba"}, "engine"),
        ({"problem": random_quadratic(0), "engine": "numba"}, "engine"),
    ],
)
def test_bad_input_is_one_clear_error(settings, words):
    arguments = {"problem": random_log_linear(0), "steps": 10, "step_size": 0.1, "replicas": 2}
    with pytest.raises(InputError, match=words):
        simulate(**{"methods": Mix(), **arguments, **settings})


@pytest.mark.parametrize("problem", [random_quadratic(0), random_quadratic(0, radius=1.0)])
def test_quadratics_run_too(problem):
    table = simulate(problem, [Mix(), Alright()], steps=300, step_size=0.3, replicas=8)
    means = (
        table[table.iterate == "average"].groupby(["schedule", "step"], observed=True).gap.mean()
    )
    for schedule in ("Mix", "ALRIGHT"):
        assert means[schedule].iloc[-1] < 0.2 * means[schedule].iloc[0]


# ---------------------------------------------------------------------- methods that change more


PROJECTED = [find(name, 0.4) for name in names() if find(name).unsupported("convex") is None]
IN_ONE_STEP = {"steps": 12, "step_size": 0.2, "replicas": 3}


def test_every_method_of_the_catalogue_runs_and_stays_in_the_ball():
    problem = random_log_linear(0, radius=0.8)
    runs = trajectories(problem, PROJECTED, **IN_ONE_STEP)
    assert np.isfinite(runs.last).all()
    assert np.linalg.norm(runs.last, axis=-1).max() <= 0.8 * (1 + 1e-14)
    # Together with others, the run is the same as alone.
    for c in (3, 11, 20):
        alone = trajectories(problem, PROJECTED[c], **IN_ONE_STEP)
        np.testing.assert_allclose(alone.last[0], runs.last[c], rtol=0, atol=1e-13)
    assert {s for s in runs.schedules if s.lam != 0.4} == set()


def test_identity_slots_and_equal_losses_change_nothing():
    """The same loss through autograd and records as through the formula of the engine."""
    problem = weighted(3, 1, radius=2.0)
    same = Dpo(beta=problem.beta, label_smoothing=problem.label_smoothing)
    schedules = [Mix(lam=0.3), Alright(lam=0.3), Sequential()]
    settings = {**IN_ONE_STEP, "engine": "numpy"}
    plain = trajectories(problem, schedules, **settings)
    again = trajectories(problem, [Method(s, preference=same) for s in schedules], **settings)
    assert_same(plain, again, tolerance=1e-12)
    np.testing.assert_array_equal(
        plain.last, trajectories(problem, [Method(s) for s in schedules], **settings).last
    )


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_compiled_and_other_methods_run_side_by_side(reference):
    problem = weighted(5, reference, radius=2.0)
    both = [Mix(), Method(Mix(), gradient=PcGrad()), Alright()]
    mixed = trajectories(problem, both, **IN_ONE_STEP)
    assert_same(mixed, trajectories(problem, both, engine="numpy", **IN_ONE_STEP), 1e-12)
    compiled = trajectories(problem, both[::2], engine="numba", **IN_ONE_STEP)
    np.testing.assert_array_equal(mixed.last[::2], compiled.last)
    with pytest.raises(InputError, match="schedules alone"):
        trajectories(problem, both, engine="numba", **IN_ONE_STEP)


def test_gradient_rules_join_the_gradients_of_the_update():
    problem = weighted(4, 1, radius=1.5)
    method = Method(Mix(lam=0.3), gradient=CaGrad(c=0.4))
    settings = {"steps": 20, "step_size": 0.8, "replicas": 1, "gradients": "full"}
    runs = trajectories(problem, method, **settings)
    theta = np.zeros(problem.dimension)
    for _ in range(20):
        gradients = problem.gradients(theta)
        seen = Seen(gradients @ gradients.T, np.array([0.7, 0.3]), np.zeros(2))
        theta = theta - 0.8 * method.gradient.factors(seen, {})[0] @ gradients
        theta = theta * min(1.0, 1.5 / np.linalg.norm(theta))
    np.testing.assert_allclose(runs.last[0, 0, -1], theta, atol=1e-12)


@pytest.mark.parametrize(
    "loss", [Ipo(beta=0.5), Nca(beta=0.7), SimPo(), Dft(), Asft(weight=0.7)], ids=lambda x: x.name
)
@pytest.mark.parametrize("sparse", [False, True])
def test_trained_losses_have_their_gradients(loss, sparse):
    """Sample gradients of every data point, compared with finite differences of its loss."""
    d = ragged(2, radius=3.0).dimension
    problem = ragged(2, radius=3.0, reference=np.random.default_rng(1).normal(size=d))
    if sparse:
        problem = replace(problem, features=sp.csr_array(problem.features))
    slots = {"sft": Nll(), "preference": Nominal(), loss.kind: loss}
    sampler = TrainedLossSampler(problem, 0, np.arange(1), **slots)
    objective = int(loss.kind == "preference")
    rng, step = np.random.default_rng(0), 1e-6
    for point in range(3):
        theta, index = rng.normal(size=(1, d)) / 2, np.array([point])
        gradient = sampler.evaluate(objective, theta, index)[1][0]
        for i, way in enumerate(np.eye(d) * step):
            up, down = (sampler.evaluate(objective, theta + s * way, index)[0][0] for s in (1, -1))
            if loss.name in ("dft", "asft"):  # -p log p with a fixed first factor implies 1 - p.
                rows = problem.demonstrations[index]
                logs = [problem.log_probs((theta + s * way)[0])[rows][0] for s in (1, -1)]
                up, down = (
                    value + np.exp(q) * q + 1 - np.exp(q)
                    for value, q in zip((up, down), logs, strict=True)
                )
            assert gradient[i] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-7)
    weights = (problem.sft_weights, problem.preference_weights)[objective]
    every = [sampler.evaluate(objective, theta, np.array([k]))[1] for k in range(len(weights))]
    np.testing.assert_allclose(
        sampler.mean_gradient(objective, theta), np.tensordot(weights, every, axes=1), atol=1e-13
    )


def test_divergences_are_those_of_all_responses():
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(4), 3) for _ in range(2))
    found = divergence(np.log(p), np.log(q), "forward")
    np.testing.assert_allclose(found, (q * np.log(q / p)).sum(1), rtol=1e-12)
    np.testing.assert_allclose(divergence(np.log(q), np.log(p), "reverse"), found, rtol=1e-12)
    padded = [np.pad(np.log(x), ((0, 0), (0, 2)), constant_values=-np.inf) for x in (p, q)]
    for way in ("forward", "reverse"):
        np.testing.assert_allclose(
            divergence(*padded, way), divergence(np.log(p), np.log(q), way), rtol=1e-12
        )
    # At the reference both losses are those without a divergence.
    problem = ragged(2, radius=3.0)
    pairs = ((1, Kto(beta=0.4), ApoZero(beta=0.4)), (0, Asft(weight=3.0), Dft()))
    for objective, *both in pairs:
        found = []
        for loss in both:
            slots = {"sft": Nll(), "preference": Nominal(), loss.kind: loss}
            sampler = TrainedLossSampler(problem, 0, np.arange(1), **slots)
            at = np.zeros((1, problem.dimension)), np.array([1])
            found.append(sampler.evaluate(objective, *at))
        np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-14)


def test_a_method_that_cannot_run_here_says_why():
    margins = weighted(4, 2, radius=2.0)
    quadratic = random_quadratic(0)
    cases = [
        (margins, find("mix+nca_pair"), "each response"),
        (margins, find("aot"), "sees one pair"),
        (quadratic, find("mix+simpo"), "log-linear"),
        (quadratic, find("alright+pcgrad"), "never follows both"),
    ]
    for problem, method, words in cases:
        with pytest.raises(InputError, match=words):
            simulate(problem, method, **IN_ONE_STEP)
    # A loss of the margin needs only the reference's margins.
    assert np.isfinite(trajectories(margins, find("mix+hinge"), **IN_ONE_STEP).last).all()
    assert np.isfinite(trajectories(quadratic, find("mix+pcgrad"), **IN_ONE_STEP).last).all()


def test_a_smooth_maximum_ends_where_its_theory_says():
    """STCH ends at a point of the front between f_lambda's optimum and the Chebyshev point."""
    problem = random_log_linear(0, prompts=4, dimension=4, demonstrations=12, pairs=12)
    settings = {"steps": 150, "step_size": 1.0, "replicas": 1, "gradients": "full"}
    lam, mu = 0.3, 0.1
    rule = SmoothTchebycheff(mu=mu, recent=1.0)
    runs = trajectories(problem, Method(Mix(lam=lam), gradient=rule), checkpoints=[150], **settings)
    end = runs.losses(problem)[0, 0, -1]
    gaps = end - [minimise(problem, 0.0).value, minimise(problem, 1.0).value]
    pulls = np.exp(np.array([1 - lam, lam]) * gaps / mu) * [1 - lam, lam]
    share = pulls[1] / pulls.sum()
    weighted_loss = float(end @ [1 - share, share])
    assert weighted_loss - minimise(problem, share).value == pytest.approx(0.0, abs=1e-12)


class Wells:
    """Two quadratics on a line, with noise: a problem of the user's own."""

    dimension = 1

    def losses(self, theta):
        return (np.asarray(theta) - np.array([-1.0, 1.0])) ** 2 / 2

    def project(self, theta):
        return np.clip(theta, -3.0, 3.0)

    def sample_gradients(self, objective, theta, uniform):
        return theta - (-1.0, 1.0)[objective] + 0.1 * (uniform[:, None] - 0.5)


def test_a_problem_of_the_users_own():
    settings = {"steps": 150, "step_size": StepSize(0.5, 0.5), "replicas": 4}
    table = simulate(Wells(), [Mix(lam=0.3), Alright(lam=0.3), find("mix+pcgrad", 0.3)], **settings)
    assert table[["gap", "sft_gap"]].isna().all().all()
    end = table[(table.step == 150) & (table.iterate == "average")]
    # The optimum of f_lambda is at 2 lam - 1.
    mix = end[end.schedule == "Mix"]
    np.testing.assert_allclose(mix.sft_loss, 0.3**2 * 2, atol=0.05)
    assert isinstance(Wells(), Simulated)
    with pytest.raises(InputError, match="minimum"):
        simulate(Wells(), Maxright(), **settings)
    with pytest.raises(InputError, match="full gradients"):
        simulate(Wells(), Mix(), gradients="full", **settings)
    with pytest.raises(InputError, match="cannot be simulated"):
        simulate(WithoutSamples(), Mix(), **settings)

    class Told(Wells):
        def minimum(self, lam):
            return 2 * lam * (1 - lam)

    gaps = simulate(Told(), Maxright(lam=0.3), **settings).gap
    assert gaps.min() > -1e-12
    assert gaps.notna().all()


class WithoutSamples:
    """Lacks sample gradients."""

    dimension = 1
    losses, project = Wells.losses, Wells.project


def test_methods_that_differ_in_a_setting_alone_are_told_apart():
    smooth = [Method(Mix(lam=lam), gradient=SmoothTchebycheff(mu=mu))
              for lam in (0.3, 0.6) for mu in (0.1, 0.5)]  # fmt: skip
    runs = trajectories(random_log_linear(0), [*smooth, Mix()], steps=2, step_size=0.1)
    labels = ["Mix, STCH (mu = 0.1)", "Mix, STCH (mu = 0.5)"]
    assert runs.table().schedule.tolist() == [*labels, *labels, "Mix"]
    assert told_apart([Method(Mix(lam=lam)) for lam in (0.3, 0.6)]) == ["Mix", "Mix"]
