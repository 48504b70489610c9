"""Ensembles: each run as if alone, equal to plain torch, with any others and in any order."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal

from tradeoff.convex import minimise, trajectories
from tradeoff.errors import InputError
from tradeoff.methods import Method, find, names
from tradeoff.methods.losses import Dpo
from tradeoff.methods.transforms import Retrieved, Written
from tradeoff.networks import optimizers
from tradeoff.networks.followed import Choices
from tradeoff.networks.loop import Loop
from tradeoff.networks.policies import HEAD, PolicyConfig, last_layer, policy_data
from tradeoff.networks.tasks import PolicyTask, one_run
from tradeoff.networks.train import Run, grid, train
from tradeoff.schedules import (
    PREFERENCE,
    SFT,
    Alright,
    Constrained,
    Maxright,
    Mix,
    Rounds,
    Sequential,
)

DATA = policy_data(
    0, prompts=20, test_prompts=15, responses=4, dimension=3, demonstrations=50, pairs=40
)
CONFIG = PolicyConfig(width=6, depth=2, head_scale=1.0)
DOUBLE = PolicyTask(DATA, CONFIG, beta=0.5, dtype=torch.float64)
SINGLE = PolicyTask(DATA, CONFIG, beta=0.5)
SIX = (
    Run(Sequential(share=0.4), 0),
    Run(Sequential(first="preference", replay=0.3), 5),
    Run(Mix(lam=0.3), 0),
    Run(Alright(lam=0.7), 1),
    Run(Maxright(lam=0.5, refresh=3, samples=8), 2),
    Run(Maxright(lam=0.2, refresh=None, weighted=False), 0),
)
SETTINGS = {"steps": 25, "learning_rate": 0.05, "batch_size": 7, "optima": [0.1, 0.2]}


class Poisoned(PolicyTask):
    """A task whose SFT row 0 has no finite loss, so a run diverges when it draws that row."""

    def losses(self, params, objective, index, reference=None):
        value = super().losses(params, objective, index, reference)
        if objective == PREFERENCE:
            return value
        return value + torch.where((index == 0).any(), torch.nan, 0.0)


def rows_of(run: Run, objective: int, step: int, batch_size: int, task=DOUBLE) -> torch.Tensor:
    """Training rows of one run's gradient."""
    choices = Choices([run], 1000, batch_size, task.sizes, np.zeros((1, 2)), 0.1)
    return torch.from_numpy(choices.batch(objective, step, np.array([0]))[0])


def loss_on(params, objective: int, index: torch.Tensor, shift: torch.Tensor, task=DOUBLE):
    """The loss of one run on these rows, with (J,) margins of its reference."""
    return task.losses(params, objective, index, shift[index] if objective else None)


def by_hand(task, run: Run, follow, *, steps, learning_rate, batch_size, clip=None, betas=None):
    """One run written with nn.ParameterDict, autograd and torch.optim."""
    base = task.initial([run.seed])
    shift = task.reference(base).train[0]
    names = list(base)
    leaves = [base[name][0].clone().requires_grad_() for name in names]
    if betas is None:
        descent = torch.optim.SGD(leaves, lr=learning_rate)
    else:
        descent = torch.optim.AdamW(leaves, lr=learning_rate, betas=betas, weight_decay=0.01)
    for step in range(steps):
        descent.zero_grad()
        total = torch.zeros((), dtype=task.dtype)
        for objective, weight in enumerate(follow(step)):
            if weight:
                index = rows_of(run, objective, step, batch_size)
                given = dict(zip(names, leaves, strict=True))
                total = total + weight * loss_on(given, objective, index, shift, task)
        total.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(leaves, clip)
        descent.step()
    return {name: leaf.detach() for name, leaf in zip(names, leaves, strict=True)}


def measures(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table that do not depend on time."""
    return table.drop(columns=["seconds", "run"])


# ---------------------------------------------------------------------- against torch


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_runs_of_an_ensemble_take_the_steps_of_torch_optim(optimizer, clip) -> None:
    adam = {"betas": (0.8, 0.95), "weight_decay": 0.01} if optimizer == "adamw" else {}
    runs = [Run(Mix(lam=0.3), 0), Run(Mix(lam=0.3), 4), Run(Mix(lam=1.0), 0), Run(Mix(lam=0.0), 1)]
    settings = {"steps": 12, "learning_rate": 0.03, "batch_size": 5, "clip": clip}
    done = train(DOUBLE, runs, optimizer=optimizer, **settings, **adam)
    for place, run in enumerate(runs):
        weights = (1 - run.schedule.lam, run.schedule.lam)
        expected = by_hand(
            DOUBLE, run, lambda step, w=weights: w, **settings, betas=adam.get("betas")
        )
        for name, value in expected.items():
            assert_allclose(done.params[name][place].numpy(), value.numpy(), atol=1e-10)


def test_a_second_stage_begins_with_a_new_optimiser() -> None:
    run, settings = Run(Sequential(share=0.5), 3), {"learning_rate": 0.03, "batch_size": 5}
    done = train(DOUBLE, [run, Run(Mix(), 0)], steps=10, **settings, weight_decay=0.01)
    theta = {n: p[0] for n, p in DOUBLE.initial([3]).items()}
    shift = DOUBLE.reference(DOUBLE.initial([3])).train[0]
    for stage, objective in ((range(5), SFT), (range(5, 10), PREFERENCE)):
        leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
        descent = torch.optim.AdamW(leaves.values(), 0.03, betas=(0.9, 0.95), weight_decay=0.01)
        for step in stage:
            descent.zero_grad()
            index = rows_of(run, objective, step, 5)
            loss_on(leaves, objective, index, shift).backward()
            descent.step()
        theta = {n: p.detach() for n, p in leaves.items()}
    for name, value in theta.items():
        assert_allclose(done.params[name][0].numpy(), value.numpy(), atol=1e-10)


def test_the_gradient_of_mix_is_the_weighted_sum() -> None:
    settings = {"steps": 1, "learning_rate": 1.0, "optimizer": "sgd"}
    schedules = [Mix(lam=0.3), Mix(lam=0.0), Mix(lam=1.0), Alright(lam=0.0), Alright(lam=1.0)]
    done = train(DOUBLE, grid(schedules, [0]), **settings)
    base = DOUBLE.initial([0])
    for name, value in done.params.items():
        moved = value - base[name]
        assert_allclose(moved[0].numpy(), (0.7 * moved[1] + 0.3 * moved[2]).numpy(), atol=1e-13)
        assert_array_equal(moved[1], moved[3])
        assert_array_equal(moved[2], moved[4])


def test_step_sizes_decay_with_the_clock_of_the_stage() -> None:
    rates = [0.3, 0.3 / 2**0.5, 0.3, 0.3 / 2**0.5]
    run = Run(Sequential(share=0.5), 0)
    done = train(
        DOUBLE, [run], steps=4, learning_rate=0.3, decay=0.5, optimizer="sgd", batch_size=5
    )
    base = DOUBLE.initial([0])
    shift, theta = DOUBLE.reference(base).train[0], one_run(base, 0)
    for step, rate in enumerate(rates):
        leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
        index = rows_of(run, int(step >= 2), step, 5)
        loss_on(leaves, int(step >= 2), index, shift).backward()
        theta = {n: (p - rate * p.grad).detach() for n, p in leaves.items()}
    for name, value in theta.items():
        assert_allclose(done.params[name][0].numpy(), value.numpy(), atol=1e-12)


# ---------------------------------------------------------------------- company and order


@pytest.mark.parametrize(("task", "tolerance"), [(DOUBLE, 1e-10), (SINGLE, 2e-4)])
def test_runs_do_not_depend_on_their_company_or_order(task, tolerance) -> None:
    together = train(task, SIX, **SETTINGS)
    order = [3, 0, 5, 2, 4, 1]
    shuffled = train(task, [SIX[i] for i in order], **SETTINGS)
    chunked = train(task, SIX, **SETTINGS, at_once=2)
    for place, run in enumerate(SIX):
        alone = train(task, [run], **SETTINGS)
        for name, value in together.params.items():
            for other in (
                alone.params[name][0],
                shuffled.params[name][order.index(place)],
                chunked.params[name][place],
            ):
                assert_allclose(value[place].numpy(), other.numpy(), atol=tolerance)
        mine = measures(together.table[together.table["run"] == place])
        same = mine.drop(columns="schedule").reset_index(drop=True)
        expected = measures(alone.table).drop(columns="schedule")
        assert_frame_equal(same, expected, atol=tolerance, rtol=tolerance)


def test_the_same_call_gives_the_same_bits() -> None:
    first, second = train(SINGLE, SIX, **SETTINGS), train(SINGLE, SIX, **SETTINGS)
    assert_frame_equal(measures(first.table), measures(second.table), check_exact=True)
    for name, value in first.params.items():
        assert torch.equal(value, second.params[name])


@pytest.fixture
def threads():
    """Set the number of threads of torch, and reset it to one afterwards."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def test_a_small_ensemble_runs_on_one_thread_and_restores_the_number(threads, monkeypatch) -> None:
    seen, found = [], []
    real = Loop.update

    def update(self, *arguments):
        seen.append(torch.get_num_threads())
        real(self, *arguments)

    monkeypatch.setattr(Loop, "update", update)
    for number in (1, 4):
        threads(number)
        found.append(train(SINGLE, SIX, **SETTINGS))
        assert torch.get_num_threads() == number
    assert set(seen) == {1}
    assert_frame_equal(measures(found[0].table), measures(found[1].table), check_exact=True)
    for name, value in found[0].params.items():
        assert torch.equal(value, found[1].params[name])


def test_threads_change_rounding_only_in_a_large_ensemble(threads, monkeypatch) -> None:
    monkeypatch.setattr(importlib.import_module("tradeoff.networks.train"), "SMALL", 0)
    found = []
    for number in (1, 4):
        threads(number)
        found.append(train(DOUBLE, SIX, **{**SETTINGS, "steps": 8}))
    for name, value in found[0].params.items():
        assert_allclose(value.numpy(), found[1].params[name].numpy(), atol=1e-6)


def test_the_callers_settings_and_tensors_are_left_alone() -> None:
    torch.manual_seed(0)
    state, start = torch.random.get_rng_state(), SINGLE.initial([0])
    kept = {name: value.clone() for name, value in start.items()}
    for alone in (False, True):
        train(SINGLE, [SIX[0]], **SETTINGS, start=start, last_layer_only=alone)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in start.items():
        assert torch.equal(value, kept[name])


# ---------------------------------------------------------------------- comparing gaps


@pytest.mark.parametrize("refresh", [1, 4, None])
@pytest.mark.parametrize("samples", [0, 6])
def test_maxright_follows_the_larger_known_gap(refresh, samples) -> None:
    lam, recent, optima = 0.4, 0.25, np.array([0.9, 0.0])
    run = Run(Maxright(lam=lam, refresh=refresh, samples=samples), 1)
    settings = {"learning_rate": 0.5, "batch_size": 5, "optimizer": "sgd"}
    done = train(
        DOUBLE, [run], steps=15, optima=optima, recent=recent, evaluate_every=1, **settings
    )
    counts = done.table[["sft_updates", "preference_updates"]].to_numpy()
    base = DOUBLE.initial([1])
    theta, shift = one_run(base, 0), DOUBLE.reference(base).train[0]
    choices = Choices([run], 15, 5, DOUBLE.sizes, np.zeros((1, 2)), recent)
    known, evaluated = np.zeros(2), 0
    for step in range(15):
        if step == 0 or (refresh and step % refresh == 0):
            for i in (SFT, PREFERENCE):
                index = torch.from_numpy(choices.probe(i, samples, np.array([0]))[0])
                known[i] = float(loss_on(theta, i, index, shift))
                evaluated += len(index)
        gaps = (known - optima) * [1 - lam, lam]
        chosen = int(gaps[1] > gaps[0])
        assert (counts[step + 1] - counts[step]).tolist() == [1 - chosen, chosen]
        leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
        index = rows_of(run, chosen, step, 5)
        loss = loss_on(leaves, chosen, index, shift)
        loss.backward()
        known[chosen] += recent * (float(loss.detach()) - known[chosen])
        weight = (1 - lam, lam)[chosen]
        theta = {n: (p - 0.5 * weight * p.grad).detach() for n, p in leaves.items()}
    assert 0 < counts[-1, 0] < 15
    assert done.table["probe_rows"].iloc[-1] == evaluated
    for name, value in theta.items():
        assert_allclose(done.params[name][0].numpy(), value.numpy(), atol=1e-10)


@pytest.mark.parametrize("optimum", [0.9, None])
@pytest.mark.parametrize("relative", [False, True])
def test_constrained_follows_preferences_within_its_limit(optimum, relative) -> None:
    limit, recent, refresh = 0.4 if relative else 0.3, 0.25, 4
    run = Run(Constrained(limit=limit, relative=relative, refresh=refresh, samples=6), 1)
    optima = None if optimum is None else [optimum, 0.0]
    settings = {"learning_rate": 0.5, "batch_size": 5, "optimizer": "sgd", "recent": recent}
    with nullcontext() if optima else pytest.warns(UserWarning, match="least SFT loss seen"):
        done = train(DOUBLE, [run], steps=24, optima=optima, evaluate_every=1, **settings)
    counts = done.table[["sft_updates", "preference_updates"]].to_numpy()
    base = DOUBLE.initial([1])
    theta, shift = one_run(base, 0), DOUBLE.reference(base).train[0]
    choices = Choices([run], 24, 5, DOUBLE.sizes, np.zeros((1, 2)), recent)
    probe = torch.from_numpy(choices.probe(SFT, 6, np.array([0]))[0])
    known = least = first = float(loss_on(theta, SFT, probe, shift))
    followed = []
    for step in range(24):
        if step % refresh == 0:
            known = float(loss_on(theta, SFT, probe, shift))
            least = min(least, known)
        lowest = least if optimum is None else optimum
        chosen = int(known - lowest <= (limit * (first - lowest) if relative else limit))
        followed.append(chosen)
        assert (counts[step + 1] - counts[step]).tolist() == [1 - chosen, chosen]
        leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
        loss = loss_on(leaves, chosen, rows_of(run, chosen, step, 5), shift)
        loss.backward()
        if chosen == SFT:
            known += recent * (float(loss.detach()) - known)
            least = min(least, known)
        theta = {n: (p - 0.5 * p.grad).detach() for n, p in leaves.items()}
    assert set(followed) == {0, 1}
    assert done.table["probe_rows"].iloc[-1] == 6 * 6
    for name, value in theta.items():
        assert_allclose(done.params[name][0].numpy(), value.numpy(), atol=1e-10)


def test_rounds_keep_the_optimiser_unless_they_restart() -> None:
    kept, restarted = (Run(Rounds(rounds=3, restart=restart), 0) for restart in (False, True))
    plan = kept.schedule.plan(12)
    manual = [theta_after(run, DOUBLE) for run in (kept, restarted)]
    assert plan.clock.max() == 12
    done = train(DOUBLE, [kept, restarted], steps=12, learning_rate=0.05, decay="linear")
    for place, theta in enumerate(manual):
        for name, value in theta.items():
            assert_allclose(done.params[name][place].numpy(), value.numpy(), atol=1e-10)


def theta_after(run: Run, task: PolicyTask):
    """Parameters after 12 updates of torch's AdamW, which restarts where the clock restarts."""
    plan, base = run.schedule.plan(12), task.initial([run.seed])
    theta, shift = one_run(base, 0), task.reference(base).train[0]
    leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
    starts = [*np.flatnonzero(plan.clock == 1).tolist(), 12]
    for step in range(12):
        length = next(e - s for s, e in pairwise(starts) if s <= step < e)
        if plan.clock[step] == 1:
            optimizer = torch.optim.AdamW(leaves.values(), betas=(0.9, 0.95), weight_decay=0.0)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - (int(plan.clock[step]) - 1) / length)
        optimizer.zero_grad()
        objective = int(plan.probability[step])
        loss_on(leaves, objective, rows_of(run, objective, step, 32), shift, task).backward()
        optimizer.step()
    return {n: p.detach() for n, p in leaves.items()}


def test_optima_may_differ_from_run_to_run() -> None:
    schedule = Maxright(lam=0.5, samples=4)
    runs = grid([schedule], [0, 0])
    done = train(DOUBLE, runs, steps=10, learning_rate=0.01, optima=[[9.0, 0.0], [0.0, 9.0]])
    last = done.table[done.table["step"] == 10]
    assert last["preference_updates"].tolist() == [10, 0]


# ---------------------------------------------------------------------- divergence


def test_a_run_that_diverges_is_marked_and_frozen_and_the_others_go_on() -> None:
    poisoned = Poisoned(DATA, CONFIG, 0.5, torch.float64)
    settings = {"steps": 30, "learning_rate": 0.02, "batch_size": 4}
    runs = [*grid([Alright(lam=0.5)], range(4)), Run(Alright(lam=1.0), 7)]
    done = train(poisoned, runs, **settings, evaluate_every=4, clip=1.0)
    for place, run in enumerate(runs):
        plan, step = run.schedule.plan(30), 0
        choices = Choices([run], 30, 4, DOUBLE.sizes, np.zeros((1, 2)), 0.1)
        while step < 30 and not (
            choices.weights(step)[0, SFT] and (rows_of(run, SFT, step, 4) == 0).any()
        ):
            step += 1
        expected = step if step < len(plan) else np.nan
        assert_array_equal(done.diverged_at[place], expected)
        healthy = train(DOUBLE, [run], **{**settings, "steps": step}, clip=1.0)
        for name, value in done.params.items():
            assert_allclose(value[place].numpy(), healthy.params[name][0].numpy(), atol=1e-10)
        last = done.table[done.table["run"] == place].iloc[-1]
        assert last["sft_updates"] + last["preference_updates"] == step
        assert_array_equal(last["diverged_at"], expected)
    assert np.isnan(done.diverged_at[-1])
    assert np.isfinite(done.diverged_at[:-1]).any()


def test_a_step_size_that_is_too_large_ends_one_run_only() -> None:
    runs = grid([Mix()], [0, 0, 1])
    done = train(
        SINGLE, runs, steps=20, learning_rate=[0.1, 1e38, 0.1], optimizer="sgd", evaluate_every=5
    )
    assert np.isnan(done.diverged_at[[0, 2]]).all()
    assert done.diverged_at[1] < 5
    assert done.table.loc[done.table["run"] != 1, "sft_loss"].notna().all()


# ---------------------------------------------------------------------- parts and tables


def test_the_last_layer_alone_can_be_trained() -> None:
    done = train(SINGLE, SIX, **SETTINGS, last_layer_only=True)
    base = SINGLE.initial([run.seed for run in SIX])
    for name, value in done.params.items():
        for place in range(len(SIX)):
            assert torch.equal(value[place], base[name][place]) == (name != HEAD)


def test_the_reference_may_be_an_sft_optimum() -> None:
    optimum = train(SINGLE, [Run(Alright(lam=0.0), 0)], steps=30, learning_rate=0.05).params
    done = train(SINGLE, SIX[:2], steps=5, learning_rate=0.01, reference=optimum, start=optimum)
    first = done.table[done.table["step"] == 0]
    assert_allclose(first["preference_loss"], np.log(2), rtol=1e-6)
    moved = train(SINGLE, SIX[:2], steps=5, learning_rate=0.01, reference=optimum)
    start = moved.table[moved.table["step"] == 0]
    assert (np.abs(start["preference_loss"] - np.log(2)) > 1e-3).all()


def test_the_table_has_a_row_for_each_run_and_evaluation() -> None:
    done = train(SINGLE, SIX, **SETTINGS, evaluate_every=10)
    table = done.table
    assert table["step"].tolist() == [0, 10, 20, 25] * 6
    assert table["run"].tolist() == np.repeat(range(6), 4).tolist()
    assert table["schedule"].unique().tolist() == [
        *("SFT→DPO", "DPO→SFT (replay)", "Mix", "ALRIGHT", "MAXRIGHT (k=3)", "MAXRIGHT (k=never)")
    ]
    last = table[table["step"] == 25]
    assert last["sft_updates"].iloc[0] == 10
    assert (last["sft_updates"] + last["preference_updates"]).tolist() == [
        25,
        25,
        50,
        *[25] * 3,
    ]
    assert (table["probe_rows"] > 0).tolist() == [False] * 16 + [False, *[True] * 3] * 2
    assert table["seconds"].iloc[:4].is_monotonic_increasing
    assert table["diverged_at"].isna().all()
    logarithmic = train(SINGLE, SIX[:1], **{**SETTINGS, "steps": 100}).table["step"]
    assert logarithmic.iloc[[0, 1, -1]].tolist() == [0, 1, 100]
    assert 8 < len(logarithmic) < 15


def test_rows_of_data_are_drawn_evenly() -> None:
    choices = Choices([Run(Mix(), 3)], 1000, 8, (10, 20), np.zeros((1, 2)), 0.1)
    for objective, size in enumerate((10, 20)):
        drawn = np.stack([choices.batch(objective, t, np.array([0]))[0] for t in range(1000)])
        counts = np.bincount(drawn.ravel(), minlength=size)
        assert len(counts) == size
        assert_allclose(counts, 8000 / size, atol=5 * np.sqrt(8000 / size))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"runs": []}, "runs"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"optima": None}, "optima"),
        ({"decay": -0.5}, "decay"),
        ({"optimizer": "sgd", "weight_decay": 0.1}, "weight_decay"),
        ({"start": SINGLE.initial([0, 1])}, "start"),
        ({"reference": SINGLE.initial([0, 1])}, "reference"),
    ],
)
def test_bad_settings_name_the_field(changes, field) -> None:
    with pytest.raises(InputError, match=field):
        train(SINGLE, **{"runs": SIX, **SETTINGS, **changes})


def test_an_unknown_optimiser_and_a_negative_seed_are_refused() -> None:
    with pytest.raises(InputError, match="seed"):
        Run(Mix(), -1)
    with pytest.raises(InputError, match="optimizer"):
        optimizers.make.__wrapped__("lion", torch.zeros(1, 1), (0.9, 0.95), 0.0)


def test_stages_take_their_rates_in_turn() -> None:
    """A second stage with rate 0 changes nothing; rounds use the first rate again."""
    run = Run(Sequential(share=0.4), 3)
    whole = train(DOUBLE, [run], steps=20, learning_rate=[[0.05, 0.0]])
    first = train(DOUBLE, [Run(Alright(lam=0.0), 3)], steps=8, learning_rate=0.05)
    moved = train(DOUBLE, [run], steps=20, learning_rate=[[0.05, 0.02]])
    for name, value in first.params.items():
        assert_array_equal(whole.params[name].numpy(), value.numpy())
    assert not torch.equal(moved.params[HEAD], first.params[HEAD])
    turns = Run(Rounds(rounds=3, restart=True), 3)
    plan = turns.schedule.plan(12)
    choices = Choices([turns, run], 12, 7, DOUBLE.sizes, np.zeros((2, 2)), 0.1)
    stages = np.array([choices.stage(step) for step in range(12)])
    assert stages[:, 0].tolist() == (np.cumsum(plan.clock == 1) - 1).tolist()
    assert stages[-1].tolist() == [5, 1]
    same, pairs = [
        train(DOUBLE, [turns, run], steps=12, learning_rate=rate)
        for rate in (0.05, [[0.05, 0.05], [0.05, 0.05]])
    ]
    for name, value in same.params.items():
        assert_array_equal(pairs.params[name].numpy(), value.numpy())


@pytest.mark.parametrize("rate", [[0.1, 0.1, 0.1], [[0.1], [0.1], [0.1]], [[]]])
def test_rates_for_other_runs_are_refused(rate: list) -> None:
    with pytest.raises(InputError, match="there are 2 runs"):
        train(DOUBLE, SIX[:2], **{**SETTINGS, "learning_rate": rate})


# ---------------------------------------------------------------------- methods that change more

PLAIN_AND_OTHERS = (
    Run(Mix(lam=0.3), 0),
    Run(find("mix+pcgrad", 0.3), 0),
    Run(find("mix+simpo", 0.3), 0),
    Run(find("mix+stch+dft", 0.3), 2),
    Run(find("alright+nca_pair+uft", 0.6), 1),
    Run(find("mix+poft+hinge+mgda", 0.6), 1),
)
SHORT = {"steps": 6, "learning_rate": 0.05, "batch_size": 5}


def test_methods_run_in_any_company():
    together = train(DOUBLE, PLAIN_AND_OTHERS, **SHORT)
    assert together.table.schedule.unique().tolist()[1:3] == ["Mix, PCGrad", "Mix, SimPO"]
    for place, run in enumerate(PLAIN_AND_OTHERS):
        alone = train(DOUBLE, [run], **SHORT)
        for name, value in alone.params.items():
            assert_allclose(together.params[name][place], value[0], atol=1e-12)
    plain = train(DOUBLE, PLAIN_AND_OTHERS[:1], **SHORT).params
    assert_array_equal(
        plain[HEAD][0], train(DOUBLE, [Run(Method(Mix(lam=0.3)), 0)], **SHORT).params[HEAD][0]
    )


@pytest.mark.parametrize("reference", ["base", "other"])
def test_the_same_loss_as_a_slot_trains_the_same_policy(reference):
    schedules = [Mix(lam=0.3), Alright(lam=0.4), Sequential()]
    anchor = "base" if reference == "base" else DOUBLE.initial([9])
    same = [Method(s, preference=Dpo(beta=DOUBLE.beta)) for s in schedules]
    plain, again = (
        train(DOUBLE, grid(given, [0, 1]), **SHORT, optimizer="sgd", reference=anchor)
        for given in (schedules, same)
    )
    for name, value in plain.params.items():
        assert_allclose(again.params[name], value, atol=1e-12)
    columns = ["sft_loss", "preference_loss_train"]
    assert_allclose(again.table[columns], plain.table[columns], atol=1e-12)


AT_BOTH = [
    name
    for name in names()
    if all(find(name).unsupported(scale) is None for scale in ("networks", "convex"))
]


def rows_of_the_convex_run(choices, objective, count, runs):
    """The single rows that a part of the method needs, drawn after those of the updates.

    Networks draw them from a stream of their own.
    """
    for j in range(count):
        drawn = np.array([len(choices.groups[0][0]) + j])
        yield choices._pick(choices._samples[objective], objective, drawn, runs)


@cache
def at_the_last_layer():
    """A base, a start near it, weights with this start, and the convex problem of the layer."""
    base = DOUBLE.initial([3])
    one = {key: value[0] for key, value in base.items()}
    fixed = one[HEAD].flatten().numpy()
    # Training starts near the reference, where some losses are not differentiable.
    start = fixed + 0.1 * np.random.default_rng(0).normal(size=len(fixed))
    begin = {**base, HEAD: torch.from_numpy(start).view_as(base[HEAD])}
    problem = replace(last_layer(DATA, one, radius=1e6, beta=DOUBLE.beta), reference=fixed)
    return base, start, begin, problem


@cache
def least_losses():
    return [minimise(at_the_last_layer()[-1], float(i)).value for i in (0, 1)]


@pytest.mark.parametrize("name", AT_BOTH)
def test_the_last_layer_trains_as_the_convex_problem_does(name, monkeypatch):
    """Every method, on the same rows with the same rule, at both scales."""
    method = find(name, 0.4)
    # A mask is drawn by the name of its tensor, which here is the same one.
    monkeypatch.setattr("tradeoff.convex._hooks.BLOCKS", (HEAD,))
    monkeypatch.setattr(Choices, "single_rows", rows_of_the_convex_run)
    if method.preference.whole_batch or method.schedule.plan(8).watched:
        return
    # They train more than the last layer, or look at prompts where problems look at features.
    if method.parameters.adds or isinstance(method.data, Retrieved):
        return
    # What is written, or likened to another response, is text here.
    if isinstance(method.data, Written) or "likeness" in method.preference.asks:
        return
    if getattr(method.anchor, "noise", 0.0):  # Prompts are noisy here, and features there.
        method = replace(method, anchor=replace(method.anchor, noise=0.0))
    steps = max(4, getattr(method.schedule, "rounds", 4))
    base, start, begin, problem = at_the_last_layer()
    optima = least_losses() if method.gradient.uses_losses else [0.0, 0.0]
    done = train(
        DOUBLE,
        [Run(method, 3)],
        steps=steps,
        learning_rate=0.2,
        batch_size=1,
        optimizer="sgd",
        last_layer_only=True,
        start=begin,
        reference=base,
        optima=optima,
    )
    # The same rows are drawn: those of replica 3 under root seed 0.
    settings = {"steps": steps, "step_size": 0.2, "replicas": 4, "engine": "numpy"}
    runs = trajectories(problem, method, start=start, **settings)
    assert_allclose(done.params[HEAD][0].flatten(), runs.last[0, 3, -1], atol=1e-9)


def test_a_task_without_records_says_so():
    with pytest.raises(InputError, match="log-probabilities of its responses"):
        train(WithoutRecords(DOUBLE), [Run(find("mix+simpo"), 0)], **SHORT)
    with pytest.raises(InputError, match="never follows both"):
        train(DOUBLE, [Run(find("alright+mgda"), 0)], **SHORT)


class WithoutRecords:
    """A task that computes its losses only."""

    def __init__(self, task: PolicyTask) -> None:
        for name in (
            "sizes",
            "batched",
            "last_layer_name",
            "initial",
            "losses",
            "reference",
            "evaluate",
        ):
            setattr(self, name, getattr(task, name))

    def to(self, device):
        return self
