"""The arena: instances with certified fronts, runs at equal cost, and places on the board."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tradeoff.arena import SUITE, board, contenders, instance, instances, left_out
from tradeoff.arena import board as board_function
from tradeoff.arena.agreement import agreement
from tradeoff.arena.board import BASELINES, Board
from tradeoff.arena.contenders import LOOK_EVERY, LOOK_SAMPLES, look_cost
from tradeoff.arena.instances import front
from tradeoff.arena.measures import measures
from tradeoff.arena.ranks import friedman, kendall, paired_p, rank_table
from tradeoff.arena.runs import SCALES, at_edge, configuration, run, tuned
from tradeoff.convex import LogLinear, minimise, random_log_linear
from tradeoff.errors import InputError
from tradeoff.methods import Method, find, names
from tradeoff.schedules import FORWARD, Mix, Sequential
from tradeoff.scores import holm


@pytest.mark.parametrize("name", SUITE)
def test_every_instance_is_the_same_at_every_call(name):
    first, second = instance(name).make(), instance(name).make()
    theta = np.full(first.dimension, 0.1)
    assert isinstance(first, LogLinear)
    np.testing.assert_array_equal(first.losses(theta), second.losses(theta))


def test_redundant_features_change_no_minimum():
    from tradeoff.arena.instances import redundant_features
    from tradeoff.convex import random_log_linear

    plain = random_log_linear(5, conflict=0.5)
    wide = redundant_features(plain, 64, seed=1)
    assert wide.dimension == 64
    values = [minimise(problem, 0.5, tolerance=1e-10).value for problem in (plain, wide)]
    assert values[0] == pytest.approx(values[1], abs=1e-8)


def test_a_quarter_of_the_pairs_is_flipped_and_nothing_else():
    from tradeoff.arena.instances import flipped_pairs
    from tradeoff.convex import random_log_linear

    plain = random_log_linear(7, pairs=400)
    flipped = flipped_pairs(plain, 0.25, seed=1)
    moved = flipped.chosen != plain.chosen
    assert 0.15 < moved.mean() < 0.35
    np.testing.assert_array_equal(flipped.chosen[moved], plain.rejected[moved])
    np.testing.assert_array_equal(flipped.rejected[~moved], plain.rejected[~moved])


def test_noisy_demonstrations_stay_responses_to_their_prompt():
    from tradeoff.arena.instances import noisy_demonstrations
    from tradeoff.convex import random_log_linear

    plain = random_log_linear(6, demonstrations=400)
    noisy = noisy_demonstrations(plain, 0.25, seed=1)
    assert 0.1 < (noisy.demonstrations != plain.demonstrations).mean() < 0.3
    np.testing.assert_array_equal(
        plain.prompt_of_row[noisy.demonstrations], plain.prompt_of_row[plain.demonstrations]
    )


def test_an_unknown_problem_is_named():
    with pytest.raises(InputError, match=r"no such problem.*nowhere"):
        instance("nowhere")


def test_the_catalogue_takes_part_unless_there_is_a_reason():
    taking_part = contenders()
    for name in names():
        assert (name in taking_part) == (left_out(name) is None)
    assert set(BASELINES) <= set(taking_part)
    with pytest.raises(InputError, match="AOT"):
        contenders(["aot"])


def test_looks_cost_forward_passes():
    maxright = contenders(["maxright"])["maxright"]
    assert look_cost(maxright) == pytest.approx(FORWARD * 2 * LOOK_SAMPLES / LOOK_EVERY)
    assert look_cost(find("mix")) == 0.0
    about = configuration(maxright, "maxright", "middle", 0.5, 600.0, 4)
    assert about["steps"] * (1 + look_cost(maxright)) == pytest.approx(600, rel=0.01)
    assert configuration(find("mix"), "mix", "middle", 0.5, 600.0, 4)["steps"] == 300


def test_a_run_depends_on_nothing_else_in_its_list():
    several = [
        configuration(find(name), name, "boundary", lam, 10.0, 2)
        for name, lam in (("mix", 0.5), ("pcgrad", 0.5), ("ipo", 0.25))
    ]
    together = run(several)
    for alone, found in zip(several, together, strict=True):
        again = run([alone])[0].drop(columns="cpu_seconds")
        pd.testing.assert_frame_equal(again, found.drop(columns="cpu_seconds"))


def test_stages_choose_a_pair_of_steps_and_others_one():
    problem = instance("boundary").make()
    single, staged = tuned(problem, [Method(Mix()), Method(Sequential())], 40, [0.5, 0.5])
    assert single[0] == single[1]
    assert set(staged) <= set(SCALES)
    assert at_edge((SCALES[0], SCALES[3]), staged=True) is False
    assert at_edge((SCALES[0], SCALES[0]), staged=False) is True


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arena")
    return board(
        ["ipo"], ["middle", "boundary"], folder=folder, lams=(0.25, 0.75), budget=60, replicas=4,
        backend="sequential",
    )  # fmt: skip


def test_a_board_has_every_method_on_every_problem(small: Board):
    table = small.table()
    assert sorted(table["name"]) == sorted([*BASELINES, "ipo"])
    assert len(small.cells) == 3 * 2 * 2
    assert table["rank"].is_monotonic_increasing
    assert (table["rank_low"] >= 1).all()
    assert (table["rank_high"] <= 3).all()
    assert (small.runs["regret"] >= small.runs["front_gap"] - 1e-12).all()
    assert ((small.coverage > 0) & (small.coverage <= 1)).all().all()
    mix = table.set_index("name").loc["mix"]
    assert mix["better_than_mix"] == mix["worse_than_mix"] == 0
    with pytest.raises(InputError, match="no such order"):
        small.table("fame")


def test_regret_is_that_of_the_certified_minimum(small: Board):
    row = small.runs.iloc[0]
    problem, found = instance(row["problem"]).make(), front(row["problem"])
    least = minimise(problem, row["lam"], tolerance=1e-10).value
    loss = (1 - row["lam"]) * row["sft_loss"] + row["lam"] * row["preference_loss"]
    scale = (1 - row["lam"]) * found.ranges[0] + row["lam"] * found.ranges[1]
    assert row["regret"] == pytest.approx((loss - least) / scale, abs=2e-4)


def test_a_board_needs_two_replicas(tmp_path):
    with pytest.raises(InputError, match="at least 2"):
        board_function(folder=tmp_path, replicas=1)


def test_the_law_is_the_limit_of_the_rows():
    from tradeoff.convex.instances import log_linear_population

    law = log_linear_population(3, conflict=0.5)
    many = random_log_linear(3, conflict=0.5, demonstrations=200_000, pairs=200_000)
    theta = np.random.default_rng(0).normal(size=(4, law.dimension))
    np.testing.assert_array_equal(law.features, many.features)
    np.testing.assert_allclose(law.losses(theta), many.losses(theta), rtol=0.02)
    assert instance("middle").law is not None


def test_measures_of_the_reference_and_of_the_specialist():
    problem = instance("middle").make()
    specialist = minimise(problem, 0.0, tolerance=1e-10).theta
    found = measures(problem, np.stack([np.zeros(problem.dimension), specialist]))
    assert found["kl"][0] == pytest.approx(0.0, abs=1e-12)
    assert found["kl"][1] > 0.1
    assert found["lost"][1] == found["gained"][1] == found["flips"][1] == 0.0
    # At the reference all responses are equally likely, so each of them is a most likely one.
    assert found["lost"][0] == 0.0
    assert found["calibration"][0] == pytest.approx(1 - 1 / 8)


def test_flips_of_unrelated_rows_are_those_of_chance():
    problem = random_log_linear(0, demonstrations=2000, conflict=0.5)
    theta = np.random.default_rng(0).normal(size=(40, problem.dimension))
    assert measures(problem, theta)["flips"].mean() == pytest.approx(1.0, abs=0.15)


def test_a_board_of_one_problem_ranks_over_replicas(small: Board):
    one = Board(small.runs[small.runs["problem"] == "middle"])
    table = one.table()
    assert repr(one).startswith("Board(3 methods on 1 problem, ")
    assert np.isfinite(table[["rank_low", "rank_high"]].to_numpy()).all()


def test_differences_are_paired_and_corrected(small: Board):
    found = small.differences("mix").set_index(["name", "problem"])
    runs = small.runs[small.runs["problem"] == "middle"]
    means = runs.groupby(["name", "replica"])["regret"].mean()
    apart = means["ipo"] - means["mix"]
    row = found.loc[("ipo", "middle")]
    assert row["difference"] == pytest.approx(apart.mean())
    assert row["p"] >= stats.ttest_1samp(apart, 0).pvalue
    assert np.isnan(found.loc[("mix", "middle"), "p"])
    assert small.spread.shape == small.regret.shape
    assert (small.third("law_regret") > 0).all().all()
    with pytest.raises(InputError, match="not on the board"):
        small.differences("fame")


def test_a_users_rows_are_a_problem(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(instances, "ACCURACY", 0.02)
    rows = [{"prompt": f"p {k}", "completion": f"answer {k} {k % 3}"} for k in range(12)]
    pairs = [{"prompt": f"p {k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(9)]
    for name, given in (("mine.jsonl", rows), ("taste.jsonl", pairs)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in given))
    name = "mine.jsonl,taste.jsonl"
    assert instance(name).varies == "your rows: 12 demonstrations, 9 pairs"
    settings = {"lams": (0.5,), "budget": 20, "replicas": 2, "backend": "sequential"}
    found = board(["ipo"], [name], folder=tmp_path / "runs", **settings)
    assert list(found.regret.columns) == [name]
    assert "law_regret" not in found.runs
    about = configuration(find("mix"), "mix", name, 0.5, 20, 2)
    assert about["rows"] == instance(name).rows
    assert "rows" not in configuration(find("mix"), "mix", "middle", 0.5, 20, 2)
    with pytest.raises(InputError, match="not two files"):
        instance("mine.jsonl,")


def test_friedman_is_scipys():
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 7)))
    assert friedman(values) == pytest.approx(stats.friedmanchisquare(*values.to_numpy()).pvalue)
    assert np.isnan(friedman(values.iloc[:, :1]))


def test_ranks_share_ties_and_stay_on_the_board():
    values = pd.DataFrame({"a": [1.0, 2.0, 2.0], "b": [1.0, 3.0, 2.0]}, index=["x", "y", "z"])
    found = rank_table(values)
    assert found["rank"].tolist() == [1.0, 2.75, 2.25]
    assert found["rank_low"].min() >= 1
    assert found["rank_high"].max() <= 3


def test_holm_and_the_paired_test_are_those_of_the_books():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, np.nan]), [0.03, 0.06, 0.06, np.nan])
    sample = np.array([0.3, -0.1, 0.5, 0.2])
    assert paired_p(sample) == pytest.approx(stats.ttest_1samp(sample, 0).pvalue)
    assert paired_p([0.0, 0.0]) == 1.0
    assert paired_p([1.0, 1.0]) == 0.0
    assert np.isnan(paired_p([1.0]))


def test_kendall_is_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.integers(5, size=(2, 12)).astype(float)
    assert kendall(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
    assert np.isnan(kendall([1, 1], [1, 2]))
    diverged = [1.0, np.inf, 2.0, np.inf]
    assert kendall(diverged, range(4)) == pytest.approx(stats.kendalltau(diverged, range(4))[0])
    assert kendall(np.array([3, 1, 2], np.uint8), [1, 2, 3]) == pytest.approx(-1 / 3)


def test_agreement_leaves_out_methods_without_a_score():
    names = list("abcde")
    first = pd.Series([1.0, 2.0, np.nan, 3.0, np.inf], names)
    found = agreement(first, pd.Series(range(5), names))
    assert (found.n, found.tau, found.low) == (4, 1.0, 1.0)
    level = agreement(pd.Series(1.0, names), pd.Series(range(5), names))
    assert np.isnan([level.tau, level.low, level.high]).all()


def test_no_number_of_workers_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match="Use 1 or more, or -1 for all cores"):
        board(["simpo"], ["middle"], folder=tmp_path, jobs=0)
