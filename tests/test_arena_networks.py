"""Boards of networks: rows that score are apart, runs do not depend on others, and units."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tradeoff.arena import instances, network_runs
from tradeoff.arena.agreement import agreement
from tradeoff.arena.instances import instance
from tradeoff.arena.network_board import (
    NetworkBoard,
    network_board,
    network_contenders,
    network_left_out,
    scored,
)
from tradeoff.arena.networks import NETWORKS, network, of_scale, task_of
from tradeoff.arena.ranks import kendall
from tradeoff.cli import main
from tradeoff.errors import InputError
from tradeoff.methods import find, names
from tradeoff.schedules import Alright

NAME = "policies-strong"


@pytest.fixture
def two_rates(monkeypatch):
    """Problems with a grid of two rates, and optima from short runs, so that tuning is short."""

    def made(name):
        return replace(network(name), rates=(0.01, 0.1))

    monkeypatch.setattr(network_runs, "network", made)
    monkeypatch.setattr(network_runs, "LONGER", 0.05)
    for cached in (network_runs.least_losses, network_runs.specialists):
        cached.cache_clear()
    yield
    for cached in (network_runs.least_losses, network_runs.specialists):
        cached.cache_clear()


def about(name: str, lam: float = 0.5, budget: float = 12.0) -> dict:
    method = network_contenders("policies", [name])[name]
    return network_runs.configuration(method, name, NAME, lam, budget, 2)


def test_rows_that_score_have_other_prompts_than_rows_that_choose():
    score, choose = (task_of(NAME, rows).data for rows in ("test", "validation"))
    np.testing.assert_array_equal(score.demonstrations, choose.demonstrations)
    for name in ("test_demonstrations", "test_pairs"):
        one, other = (set(getattr(data, name)[:, 0].tolist()) for data in (score, choose))
        assert one
        assert other
        assert not one & other
        assert min(one | other) >= score.training_prompts


@pytest.mark.usefixtures("two_rates")
def test_a_run_depends_on_nothing_else_in_its_list():
    several = [about("mix"), about("pcgrad"), about("mix", 0.25)]
    together = network_runs.run(several)
    for alone, found in zip(several, together, strict=True):
        again = network_runs.run([alone])[0].drop(columns="cpu_seconds")
        pd.testing.assert_frame_equal(again, found.drop(columns="cpu_seconds"), rtol=1e-9)
    assert (together[0]["sft_loss"] != together[2]["sft_loss"]).all()


@pytest.mark.usefixtures("two_rates")
def test_sft_alone_loses_fewer_rows_than_preferences_alone():
    alone, both = (replace(find("alright"), schedule=Alright(lam=lam)) for lam in (0.0, 1.0))
    cells = [network_runs.configuration(m, "x", NAME, m.lam, 60.0, 3) for m in (alone, both)]
    alone, both = network_runs.run(cells)
    assert alone["lost"].mean() < both["lost"].mean()
    assert alone["flips"].mean() < both["flips"].mean()
    assert (both["kl"] > 0.0).all()


@pytest.mark.usefixtures("two_rates")
def test_specialists_know_demonstrations_best():
    known = network_runs.specialists(NAME, 3, 60.0)
    task = task_of(NAME)
    start = task.initial(range(3))
    losses = [task.evaluate(p, task.reference(start))["sft_loss"] for p in (known, start)]
    assert (losses[0] < losses[1] - 0.05).all()
    for name, weight in network_runs.specialists(NAME, 2, 60.0).items():
        torch.testing.assert_close(weight, known[name][:2], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("two_rates")
def test_stages_have_rates_of_their_own_and_gaps_known_optima():
    staged, looks = about("sft-dpo"), about("maxright")
    assert staged["steps"] == 12 > looks["steps"]
    found = network_runs.run([staged])[0]
    assert set(found["later_step"]) <= {0.01, 0.1}
    least = network_runs.least_losses(NAME)
    start = network_runs.run([looks])[0].iloc[0]
    assert 0 < least[0] < start["start_rows_sft_loss"]
    assert 0 < least[1] < start["start_rows_preference_loss"]


def test_rates_are_chosen_by_the_loss_on_rows_that_do_not_score(monkeypatch):
    asked = []

    def trained(name, task, runs, steps):
        asked.append(task)
        return [rates[0] for _, _, rates in runs]

    def ends(losses):
        return pd.DataFrame(
            {"sft_loss": losses, "preference_loss": losses, "diverged": np.array(losses) < 0.005}
        )

    monkeypatch.setattr(network_runs, "_trained", trained)
    monkeypatch.setattr(network_runs, "_ends", ends)
    chosen = network_runs.tuned(NAME, [find("mix")], 10, np.array([0.5]))
    # The least loss is that of a run that diverged, so that the next rate is chosen.
    assert chosen == [(0.01, 0.01)]
    assert asked == [task_of(NAME, "validation")]


def table() -> pd.DataFrame:
    """Two methods at two weights with two replicas: one trains SFT alone, the other both."""
    rows = []
    for name, losses in (("skill", (1.0, 0.7)), ("both", (1.2, 0.3))):
        for lam in (0.25, 0.75):
            for replica in range(2):
                sft, preference = losses[0] + 0.01 * replica, losses[1]
                rows.append((name, "p", lam, replica, sft, preference, sft, preference))
    columns = ["name", "problem", "lam", "replica", "sft_loss", "preference_loss"]
    found = pd.DataFrame(rows, columns=[*columns, "rows_sft_loss", "rows_preference_loss"])
    start = {f"start_{kind}sft_loss": 2.0 for kind in ("", "rows_")}
    start |= {f"start_{kind}preference_loss": 0.7 for kind in ("", "rows_")}
    more = {"step": 0.1, "at_edge": False, "steps": 5, "cpu_seconds": 1.0}
    return found.assign(**start, **more)


def test_regret_is_in_units_of_the_best_known_gains():
    found = NetworkBoard(scored(table()))
    cells = found.cells.set_index(["name", "lam"])["regret"]
    # Best at either weight is "both" at 3/4, and "skill" loses .4 of a gain of .4 there.
    scale = 0.25 * (2.0 - 1.005) + 0.75 * (0.7 - 0.3)
    assert cells[("both", 0.75)] == pytest.approx(0.0, abs=1e-12)
    assert cells[("skill", 0.75)] == pytest.approx((0.75 * 0.4 - 0.25 * 0.2) / scale)
    assert (found.runs["front_gap"] <= found.runs["regret"] + 1e-12).all()
    # One of several points of the front: the start is its corner.
    assert found.coverage.loc["both", "p"] == pytest.approx(1.0)
    assert found.coverage.loc["skill", "p"] == pytest.approx(0.0)


def test_units_are_unknown_where_nobody_gains():
    start = table().assign(sft_loss=3.0, preference_loss=0.9)
    assert scored(start)["regret"].isna().all()


def test_a_scale_takes_the_methods_that_it_can_hold():
    for scale in ("policies", "language"):
        taking_part = network_contenders(scale)
        for name in names():
            assert (name in taking_part) == (network_left_out(name, scale) is None)
    assert network_left_out("kto", "policies") is None
    assert "all responses" in str(network_left_out("kto", "language"))
    with pytest.raises(InputError, match="none is written"):
        network_contenders("policies", ["strata"])


def test_unknown_scales_and_problems_are_named():
    assert of_scale("policies")[0] in NETWORKS
    with pytest.raises(InputError, match=r"no such scale.*trees"):
        of_scale("trees")
    with pytest.raises(InputError, match=r"no such problem.*nowhere"):
        network("nowhere")
    with pytest.raises(InputError, match="at least 2"):
        network_board(scale="policies", folder="unused", replicas=1)


@pytest.mark.slow
@pytest.mark.usefixtures("two_rates")
def test_a_board_of_policies_has_a_table(tmp_path):
    settings = {"scale": "policies", "lams": (0.5,), "budget": 24.0, "replicas": 2, "jobs": 1}
    found = network_board(
        ["evenly"], [NAME], folder=tmp_path, backend="sequential", **settings
    )  # fmt: skip
    assert sorted(found.table()["name"]) == ["evenly", "mix", "sft-dpo"]
    assert found.runs["regret"].notna().all()
    assert list(found.thirds.columns) == ["kl", "lost", "gained", "flips", "calibration"]
    assert found.thirds.notna().all().all()
    assert set(found.thirds) <= set(found.cells)


@pytest.mark.slow
def test_the_language_model_is_scored_on_rows_of_its_own():
    score, choose = (task_of("language-strong", rows) for rows in ("test", "validation"))
    assert score.base is choose.base
    assert not set(score.test_sft.kept.tolist()) & set(choose.test_sft.kept.tolist())
    assert network("language-strong").pair() > 1


def test_agreement_of_equal_and_of_opposite_orders():
    noise = np.random.default_rng(2).normal(size=20) * 2
    score = pd.Series(np.arange(20.0), index=[f"m{k}" for k in range(20)])
    same = agreement(score, 2 * score, draws=50)
    assert (same.tau, same.low, same.high, same.n) == (1.0, 1.0, 1.0, 20)
    assert agreement(score, -score, draws=50).tau == -1.0
    rng = np.random.default_rng(0)
    chance = agreement(score, pd.Series(rng.permutation(score), index=score.index), draws=200)
    assert chance.low < 0 < chance.high
    assert agreement(score, score.iloc[5:], draws=10).n == 15
    ties = score // 3
    wide, narrow = (agreement(score.iloc[:n], ties.iloc[:n] + noise[:n]) for n in (8, 20))
    assert wide.high - wide.low > narrow.high - narrow.low
    rows = np.random.default_rng(1).integers(20, size=(2000, 20))
    taus = [kendall(score.to_numpy()[k], (ties + noise).to_numpy()[k]) for k in rows[:300]]
    assert np.quantile(taus, [0.025, 0.975]) == pytest.approx([narrow.low, narrow.high], abs=0.06)
    with pytest.raises(InputError, match="too few methods"):
        agreement(score, score.iloc[:2])


def test_held_out_files_take_the_place_of_the_law(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(instances, "ACCURACY", 0.02)
    for part in ("", "_test"):
        rows = [{"prompt": f"p {k}{part}", "completion": f"answer {k % 5}"} for k in range(9)]
        pairs = [
            {"prompt": f"p {k}{part}", "chosen": f"good {k}", "rejected": f"bad {k}"}
            for k in range(7)
        ]
        for name, given in (("skill", rows), ("taste", pairs)):
            path = tmp_path / f"{name}{part}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in given))
    two = "skill.jsonl,taste.jsonl"
    four = instance(f"{two},skill_test.jsonl,taste_test.jsonl")
    assert instance(two).law is None
    law, problem = four.law(), four.make()
    assert law.dimension == problem.dimension
    assert four.rows != instance(two).rows
    theta = np.full(law.dimension, 0.1)
    assert (law.losses(theta) != problem.losses(theta)).any()
    with pytest.raises(InputError, match="or four"):
        instance("a.jsonl,b.jsonl,c.jsonl")


def test_the_command_lists_a_scale_and_refuses_what_it_cannot_do(capsys):
    def said(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit):
            main(("arena", *arguments))
        return capsys.readouterr()

    listed = json.loads(said("--scale", "language", "--list", "--json")[0])
    assert [row["problem"] for row in listed["problems"]] == of_scale("language")
    assert "kto" not in {row["name"] for row in listed["methods"]}
    assert "only convex problems can match" in said("--scale", "policies", "--match", "beta")[1]
    assert "no such scale" in said("--scale", "trees")[1]
