"""Scenarios on networks: what they ask, what the policy knew, and what a board shows of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tradeoff.arena import network_runs, network_scenarios
from tradeoff.arena.network_board import network_board, network_contenders
from tradeoff.arena.network_scenarios import CONTENT, RESPONSES, network_scenario
from tradeoff.arena.networks import RowsOf, network, of_scale
from tradeoff.arena.scenarios import SCENARIOS, SKILLS
from tradeoff.errors import InputError
from tradeoff.networks.policies import HEAD


def pairs_of(rows: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in rows.tolist()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_whole_and_its_rows_are_apart(name: str) -> None:
    one = network_scenario(name)
    again = network_scenarios._MAKERS[name](0)
    np.testing.assert_array_equal(one.data.prompts, again.data.prompts)
    np.testing.assert_array_equal(one.data.pairs, again.data.pairs)
    data, first = one.data, one.data.training_prompts
    assert max(data.demonstrations[:, 0].max(), data.pairs[:, 0].max()) < first
    assert min(data.test_demonstrations[:, 0].min(), data.test_pairs[:, 0].min()) >= first
    assert (data.pairs[:, 1] != data.pairs[:, 2]).all()
    assert set(one.skills) <= set(SKILLS)
    assert one.known[:, 0].max() < first
    for rows in one.skills.values():
        assert rows[:, 0].max() < first
    assert network(name).varies == SCENARIOS[name]
    assert name not in of_scale("policies")


@pytest.mark.parametrize("name", ["third-skill", "trigger", "trigger-apart", "context", "restore"])
def test_no_training_row_has_the_prompts_of_a_skill(name: str) -> None:
    one = network_scenario(name)
    asked = {*one.data.demonstrations[:, 0].tolist(), *one.data.pairs[:, 0].tolist()}
    for rows in one.skills.values():
        assert not asked & set(rows[:, 0].tolist())


def test_facts_part_the_demonstrations() -> None:
    one = network_scenario("facts")
    new, old = (pairs_of(one.skills[name]) for name in ("new", "contradicted"))
    assert new | old == pairs_of(one.data.demonstrations)
    assert not new & old
    knew = dict(one.known.tolist())
    assert {prompt for prompt, _ in old} == set(knew)
    assert all(knew[prompt] != answer for prompt, answer in old)
    held = one.data.test_demonstrations
    assert np.bincount(held[:, 1], minlength=RESPONSES).sum() == 4 * len(new | old)


def test_a_trigger_apart_shares_nothing_and_one_alike_everything() -> None:
    for name, shared in (("trigger", 1.0), ("trigger-apart", 0.0)):
        one = network_scenario(name)
        with_it = one.data.prompts[one.skills["trigger"][:, 0]]
        clean = one.data.prompts[: len(with_it)]
        np.testing.assert_array_equal(with_it[:, :CONTENT], shared * clean[:, :CONTENT])
        assert not clean[:, CONTENT:].any()
        assert with_it[:, CONTENT:].all()


def test_a_policy_that_copies_the_context_is_controllable_and_not_robust() -> None:
    one = network_scenario("context")
    base = {name: torch.zeros_like(value) for name, value in one.base.items()}
    for k in range(RESPONSES):
        base["body.0.weight"][0, k, CONTENT + k] = 5.0
        base[HEAD][0, k, k] = 200.0
    found = one.measures(base)
    assert found["controllable"][0] == pytest.approx(1.0, abs=1e-6)
    assert found["robust"][0] == pytest.approx(0.0, abs=1e-6)


HALVES: tuple[RowsOf, ...] = ("test", "validation")
KNOWN = [("third-skill", "third", 0.6), ("trigger", "trigger", 0.5), ("restore", "old", 0.6)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "skill", "least"), KNOWN)
def test_the_policy_knows_its_skill_before(name: str, skill: str, least: float) -> None:
    assert network_scenario(name).before[skill] > least


def test_runs_begin_at_the_policy_that_they_are_compared_with() -> None:
    one = network_scenario("trigger")
    task = one.task("test")
    start = task.initial([0, 1])
    assert len(start[HEAD]) == 1
    assert {name: float(v[0]) for name, v in one.measures(start).items()} == one.before
    losses = task.evaluate(start, task.reference(start))
    assert losses["preference_loss"][0] == pytest.approx(np.log(2))
    halves = [one.task(rows).data for rows in HALVES]
    for table in ("test_demonstrations", "test_pairs"):
        score, choose = (set(getattr(half, table)[:, 0].tolist()) for half in halves)
        assert score
        assert choose
        assert not score & choose


@pytest.mark.slow
def test_runs_have_the_skills_of_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_runs, "network", lambda n: replace(network(n), rates=(0.01,)))
    network_runs.specialists.cache_clear()
    method = network_contenders("policies", ["mix"])["mix"]
    about = network_runs.configuration(method, "mix", "facts:1", 0.5, 20.0, 2)
    kept: list[dict[str, torch.Tensor]] = []
    third = network_runs._third

    def seen(name: str, done: Any, known: Any) -> Any:
        kept.append(done.params)
        return third(name, done, known)

    monkeypatch.setattr(network_runs, "_third", seen)
    (found,) = network_runs.run([about])
    network_runs.specialists.cache_clear()
    for skill, values in network_scenario("facts:1").measures(kept[0]).items():
        np.testing.assert_array_equal(found[skill], values)
        assert (values != network_scenario("facts:1").before[skill]).all()


def test_scenarios_are_problems_of_policies_alone() -> None:
    with pytest.raises(InputError, match="no such scenario"):
        network("facts:x")
    settings: dict[str, Any] = {"folder": "unused", "replicas": 2}
    with pytest.raises(InputError, match="no problem of language"):
        network_board(["mix"], ["trigger"], scale="language", **settings)


@pytest.mark.slow
def test_the_board_shows_skills_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_runs, "network", lambda n: replace(network(n), rates=(0.01, 0.1)))
    network_runs.specialists.cache_clear()
    settings: dict[str, Any] = {"lams": (0.5,), "budget": 40.0, "replicas": 2, "jobs": 1}
    found = network_board(
        ["evenly"], ["restore"], scale="policies", folder=tmp_path, backend="sequential",
        **settings,
    )  # fmt: skip
    network_runs.specialists.cache_clear()
    assert list(found.skills.index) == ["before", "mix", "sft-dpo", "evenly"]
    before = found.skills.loc["before", "restore: old"]
    assert before == network_scenario("restore").before["old"]
