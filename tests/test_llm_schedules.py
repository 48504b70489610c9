"""The rows of an update and its objective are functions of seed and position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_runs import (
    LORA,
    PICKED,
    SCHEDULES,
    begin,
    cases,
    preference_rows,
    sft_rows,
    steady,
    trainer,
    weights,
)

from tradeoff import draws
from tradeoff.llm._cuts import Extents, by_length, passes
from tradeoff.llm._gaps import KnownLosses
from tradeoff.llm._reference import stage_start
from tradeoff.llm._streams import Stream
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.defects import Defects
from tradeoff.schedules import Alright, Constrained, Maxright, Mix, Rounds, Rule, Sequential

LAMS = (0.0, 0.25, 0.6, 1.0)


# ---------------------------------------------------------------------- streams


@given(st.integers(1, 40), st.integers(0, 9), st.integers(0, 1), st.data())
def test_every_row_comes_once_an_epoch_however_it_is_asked_for(
    size: int, seed: int, objective: int, data: st.DataObject
) -> None:
    stream = Stream(size, seed, objective)
    found: list[int] = []
    while len(found) < 3 * size:
        found += stream.rows(len(found), data.draw(st.integers(1, 2 * size))).tolist()
    for epoch in range(3):
        assert sorted(found[epoch * size : (epoch + 1) * size]) == list(range(size))
    # Equal when computed at once, again, and from any position.
    assert Stream(size, seed, objective).rows(0, len(found)).tolist() == found
    start = data.draw(st.integers(0, len(found) - 1))
    assert stream.rows(start, len(found) - start).tolist() == found[start:]


def test_epochs_seeds_and_objectives_have_their_own_order() -> None:
    orders = [
        Stream(50, seed, objective).rows(50 * epoch, 50).tolist()
        for seed in (0, 1)
        for objective in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert all(order != sorted(order) for order in orders)


@given(st.lists(st.integers(1, 99), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 4))
def test_processes_share_rows_without_loss_and_pass_equally_often(
    sizes: list[int], at_once: int, processes: int
) -> None:
    rows = by_length(np.arange(len(sizes)), sizes)
    assert [sizes[i] for i in rows] == sorted(sizes, reverse=True)
    extents = Extents(np.array(sizes)[:, None], np.zeros(len(sizes), int))
    config = TrainConfig(rows_per_forward=at_once)
    parts = [list(passes(rows, extents, config, i, processes)) for i in range(processes)]
    assert len({len(part) for part in parts}) == 1
    counted = np.concatenate([part for own in parts for part, keep in own if keep])
    assert sorted(counted.tolist()) == list(range(len(sizes)))
    assert all(0 < len(part) <= at_once for own in parts for part, _ in own)


# ---------------------------------------------------------------------- passes of an update


def first_update(run: Any, processes: int = 1) -> list[Any]:
    from tradeoff.llm._passes import Feed

    found = []
    for process in range(processes):
        feed = Feed(run.data, run.config, process, processes)
        found += feed.passes(0, run.plan.rule, run._follow)
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("objective", [0, 1])
def test_shares_make_a_mean_over_the_update(objective: int, processes: int) -> None:
    run = trainer(Alright(lam=float(objective)), batch_size=7, rows_per_forward=2)
    passes = first_update(run, processes)
    items = run.data.training(objective)
    rows = np.concatenate([part.rows for part in passes if part.share])
    assert len(rows) == 7
    unit = [items[i].scored if objective == 0 else 1 for i in rows]
    for part in passes:
        assert part.objective == objective
        assert part.weight == 1.0
        assert part.share in (0.0, pytest.approx(1 / sum(unit)))
    assert {part.share > 0 for part in passes} >= {True}


def test_pairs_may_have_a_batch_size_of_their_own() -> None:
    run = trainer(Mix(), batch_size=6, preference_batch_size=3)
    passes = first_update(run)
    count = [sum(len(p.rows) for p in passes if p.objective == o) for o in (0, 1)]
    assert count == [6, 3]
    run.train(progress=False)
    assert run.feed.positions == [36, 18]


def test_the_gradient_does_not_depend_on_how_rows_are_split() -> None:
    found = []
    for at_once in (1, 3, 8):
        run = trainer(Mix(lam=0.3), batch_size=8, rows_per_forward=at_once)
        begin(run)
        run._backward(run.feed.passes(0, run.plan.rule, run._follow))
        found.append([p.grad for p in run.model.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- choices


@pytest.mark.parametrize("lam", LAMS)
def test_alright_follows_the_draws_of_the_package(lam: float) -> None:
    run = trainer(Alright(lam=lam), steps=12, seed=5, evaluate_every=12)
    run.train(progress=False)
    u = draws.uniform(draws.keys(0, 5, draws.OBJECTIVE), np.arange(12))
    assert run.tally.updates == [int((u >= lam).sum()), int((u < lam).sum())]
    assert run.feed.positions == [4 * count for count in run.tally.updates]


def test_a_weighted_draw_scales_the_gradient() -> None:
    run = trainer(Alright(lam=0.6, probability=0.2))
    weights = {tuple(run._follow(draw).round(9)) for draw in range(40)}
    assert weights == {(0.0, 3.0), (0.5, 0.0)}


def test_sequential_keeps_to_its_stages_in_both_orders() -> None:
    for first, expected in (("sft", [2, 4]), ("preference", [4, 2])):
        run = trainer(Sequential(first=first, share=1 / 3), steps=6)
        done = run.train(progress=False)
        assert run.tally.updates == expected
        table = done.table.set_index("step")
        assert table.loc[2, f"{first}_updates"] == 2


def test_mix_follows_both_with_their_weights() -> None:
    run = trainer(Mix(lam=0.3))
    passes = first_update(run)
    assert {(part.objective, part.weight) for part in passes} == {(0, 0.7), (1, 0.3)}


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(SCHEDULES, PICKED))
def test_a_run_is_a_function_of_its_seed(name: str) -> None:
    tables, ends = [], []
    for seed, noise in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002  # what else a process draws must not matter
        run = trainer(name, seed=seed, steps=4, lora=LORA)  # With dropout.
        tables.append(steady(run.train(progress=False).table))
        ends.append(weights(run))
    assert tables[0].equals(tables[1])
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())
    assert not tables[0].equals(tables[2])
    assert any(not torch.equal(ends[0][name], value) for name, value in ends[2].items())


def test_training_leaves_the_draws_of_others_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    trainer("alright").train(progress=False)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002


def test_rounds_take_turns_and_the_rate_runs_on_unless_they_restart() -> None:
    for restart, expected in (
        (False, [6, 5, 4, 3, 2, 1]),
        (True, [6, 3, 6, 6, 3, 6]),
    ):
        schedule = Rounds(rounds=2, lam=1 / 3, restart=restart)
        run = trainer(schedule, steps=6, decay="linear", evaluate_every=1)
        table = run.train(progress=False).table.set_index("step")
        assert table["preference_updates"].tolist() == [0, 0, 0, 1, 1, 1, 2]
        np.testing.assert_allclose(run.rates, 1e-2 * np.array(expected) / 6)


def test_the_preference_stage_of_rounds_begins_in_the_first_round() -> None:
    for restart in (False, True):
        assert stage_start(Rounds(rounds=2, restart=restart).plan(8)) == 2
        assert stage_start(Rounds(rounds=2, first="preference", restart=restart).plan(8)) == 0


# ---------------------------------------------------------------------- known losses


def known(schedule: Any, **settings: Any) -> KnownLosses:
    return KnownLosses(schedule.plan(20), TrainConfig(**settings), (9, 7))


def test_gaps_are_distances_from_the_optima_that_were_told() -> None:
    found = known(Maxright(optimum_error=(0.1, -0.2)), optima=(1.0, 0.5))
    found.refresh(0, lambda objective, rows: 2.0 + objective)
    np.testing.assert_allclose(found.gaps(), [2.0 - 1.1, 3.0 - 0.3])


@given(st.integers(0, 9), st.one_of(st.none(), st.integers(1, 6)))
def test_both_losses_are_refreshed_when_the_schedule_says(samples: int, refresh: Any) -> None:
    found = known(Maxright(refresh=refresh, samples=samples))
    seen: list[tuple[int, int, tuple[int, ...]]] = []
    for step in range(20):
        found.refresh(
            step, lambda o, rows, step=step: seen.append((step, o, tuple(rows.tolist()))) or 1.0
        )
    due = [0] if refresh is None else list(range(0, 20, refresh))
    assert [(step, o) for step, o, _ in seen] == [(step, o) for step in due for o in (0, 1)]
    for _, objective, rows in seen:
        size = (9, 7)[objective]
        assert len(set(rows)) == len(rows) == min(samples or size, size)
        assert rows == tuple(found.rows(objective).tolist())  # One probe set for the whole run.
    assert found.probed == sum(len(rows) for _, _, rows in seen)


def test_a_training_loss_moves_only_its_own_value() -> None:
    found = known(Maxright(), recent=0.25)
    found.refresh(0, lambda objective, rows: 4.0)
    found.observe(1, 8.0)
    assert found.values.tolist() == [4.0, 5.0]


def test_a_limit_needs_the_sft_loss_alone_and_counts_from_the_optimum() -> None:
    found = known(Constrained(limit=0.5, refresh=4, samples=3), optima=(1.0, 0.0))
    seen: list[tuple[int, int]] = []
    for step in range(9):
        found.refresh(step, lambda o, rows, step=step: seen.append((step, o)) or 2.0)
    assert seen == [(0, 0), (4, 0), (8, 0)]
    assert found.probed == 9
    assert (found.base_gap(), found.gaps()[0]) == (1.0, 1.0)
    for value, preference in ((1.5, 1.0), (1.51, 0.0)):
        found.values[0] = value
        assert found.plan.follow(0, 0.5, found.gaps(), found.base_gap())[1] == preference
    assert found.limit() == {
        "base_sft_loss": 2.0,
        "optimum": 1.0,
        "optimum_source": "given",
        "highest_sft_loss": 1.5,
        "known_sft_loss": 1.51,
    }


def test_a_relative_limit_is_a_share_of_the_gain_from_the_start() -> None:
    found = known(Constrained(limit=0.25, relative=True), optima=(1.0, 0.0))
    found.refresh(0, lambda objective, rows: 3.0)
    found.refresh(1, lambda objective, rows: 1.4)
    assert found.limit()["highest_sft_loss"] == 1.5
    assert found.plan.follow(1, 0.5, found.gaps(), found.base_gap()).tolist() == [0.0, 1.0]


def test_an_unknown_optimum_is_the_least_loss_seen() -> None:
    found = known(Constrained(limit=0.5))
    for step, value in enumerate((3.0, 2.0, 2.4, 2.6)):
        found.refresh(step, lambda objective, rows, value=value: value)
        within = found.plan.follow(step, 0.5, found.gaps(), found.base_gap())[1]
        assert within == (step < 3)
    assert (found.limit()["optimum"], found.limit()["optimum_source"]) == (
        2.0,
        "least training loss seen",
    )
    assert not Defects.everything().ends(found.values, found.optima)
    # MAXRIGHT uses zero, a lower bound.
    assert known(Maxright()).optima.tolist() == [0.0, 0.0]


def test_what_is_known_comes_back_from_a_checkpoint() -> None:
    found, other = known(Constrained()), known(Constrained())
    found.refresh(0, lambda objective, rows: 3.0)
    found.observe(0, 1.0)
    other.set_state(found.state())
    np.testing.assert_array_equal(other.numbers(), found.numbers())
    assert other.probed == found.probed > 0


def test_no_update_follows_preferences_while_the_sft_loss_is_beyond_the_limit() -> None:
    run = trainer(Constrained(limit=0.85, relative=True, refresh=1), steps=10, learning_rate=2e-2)
    every, found = np.arange(len(run.data.sft)), []
    follow = run._follow

    def watched(draw: int) -> np.ndarray:
        weights = follow(draw)
        found.append((run._mean_training_loss(0, every), weights[1] > 0))
        return weights

    run._follow = watched  # type: ignore[method-assign]
    done = run.train(progress=False)
    highest = done.summary["limit"]["highest_sft_loss"]
    assert [loss <= highest for loss, _ in found] == [preference for _, preference in found]
    assert {preference for _, preference in found} == {True, False}


def test_a_run_without_an_optimum_says_from_where_its_limit_counts() -> None:
    with pytest.warns(UserWarning, match="least SFT training loss seen"):
        run = trainer(Constrained(limit=0.1, samples=4), optima=None)
    done = run.train(progress=False)
    limit = done.summary["limit"]
    assert limit["optimum_source"] == "least training loss seen"
    assert limit["optimum"] <= limit["base_sft_loss"]
    assert run.tally.updates[1] > 0


def test_ties_go_to_sft_and_weights_to_the_gradient() -> None:
    for lam, gaps, expected in (
        (0.5, (1.0, 1.0), (0.5, 0.0)),
        (0.5, (1.0, 1.1), (0.0, 0.5)),
        (0.9, (1.0, 0.2), (0.0, 0.9)),
        (0.1, (1.0, 2.0), (0.9, 0.0)),
    ):
        run = trainer(Maxright(lam=lam))
        run.known.values = np.array(gaps)
        np.testing.assert_allclose(run._follow(0), expected)
        plain = trainer(Maxright(lam=lam, weighted=False))
        plain.known.values = np.array(gaps)
        np.testing.assert_allclose(plain._follow(0), np.sign(expected))


def test_other_schedules_evaluate_no_probe_even_where_a_stop_watches_losses() -> None:
    found = known(Alright(), defects=Defects(stop_at_either_optimum=True))
    assert found.plan.rule is Rule.DRAW
    assert found.used
    found.refresh(0, lambda objective, rows: pytest.fail("evaluated"))
    assert np.isnan(found.gaps()).all()
    found.observe(0, 3.0)
    assert found.gaps()[0] == 3.0


@settings(max_examples=5)
@given(st.integers(3, 30), st.integers(3, 30))
def test_sets_of_any_size_cycle_on_their_own(sft: int, preference: int) -> None:
    run = trainer(
        Alright(lam=0.5),
        sft=sft_rows(sft),
        preference=preference_rows(preference),
        steps=5,
        evaluate_every=5,
        holdout=0.0,
    )
    run.train(progress=False)
    assert run.feed.positions == [4 * count for count in run.tally.updates]
    assert sum(run.tally.updates) == 5
