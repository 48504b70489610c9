"""The stored paths among which the reader of the report page chooses."""

import numpy as np
import pytest

from analysis.dossier import controls
from analysis.fernando2024 import explorers
from analysis.fernando2024.convex import explorer
from analysis.fernando2024.convex.loss_space import LAMBDAS, METHODS
from analysis.fernando2024.dossier import DOSSIER
from tradeoff.records import read_json


def stored(name):
    return read_json(DOSSIER.folder / "results" / f"{name}.json")["numbers"]


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return explorer.main(tmp_path_factory.mktemp("explorer"), fast=True)


def end(path):
    return path["sft_loss"][-1], path["preference_loss"][-1]


def test_mean_scores_are_those_of_the_loss_space_figure_at_its_shared_step():
    """The same runs by other code: all records of a path, compared with the last iterate alone."""
    other = stored("loss_space")
    for path in stored("explorer")["paths"]:
        chosen = path["chosen"]
        if chosen["run"] == "mean":
            regret = other["shared_step"]["regret"][chosen["schedule"]]["mean"]
            at = LAMBDAS.index(float(chosen["lambda"]))
            assert path["regret"] == pytest.approx(regret[at], rel=1e-3, abs=1e-7)


@pytest.mark.slow
def test_every_choice_is_stored_once(fast):
    made = [tuple(path["chosen"].values()) for path in fast["paths"]]
    assert len(made) == len(set(made)) == len(METHODS) * len(LAMBDAS) * (explorer.RUNS + 1)
    assert len(fast["splits"]) == 2 * len(explorer.SHARES)
    assert len(fast["refresh"]) == explorer.INSTANCES * len(explorer.REFRESH)


def test_the_full_run_stays_small():
    assert (DOSSIER.folder / "results" / "explorer.json").stat().st_size < 400_000


@pytest.mark.slow
def test_all_paths_start_at_the_uniform_policy_and_spend_the_budget(fast):
    for path in fast["paths"] + fast["splits"]:
        assert path["gradients"][0] == 0
        assert path["gradients"][-1] == fast["gradients"]
        assert np.all(np.diff(path["gradients"]) > 0)
        assert path["sft_loss"][0] == pytest.approx(np.log(8), abs=1e-3)


@pytest.mark.slow
def test_no_mean_path_passes_the_front(fast):
    front = np.asarray(fast["fronts"]["laboratory"]["curve"])
    for path in fast["paths"]:
        for sft, preference in zip(path["sft_loss"], path["preference_loss"], strict=True):
            if front[0, 0] <= sft <= front[-1, 0]:
                # The chord lies above the convex front, by less than the tolerance.
                assert preference >= np.interp(sft, *front.T) - 0.01


@pytest.mark.slow
def test_a_split_that_gives_all_to_one_stage_forgets_the_order(fast):
    ends = {(path["schedule"], path["chosen"]["share"]): end(path) for path in fast["splits"]}
    for share in ("0.0", "1.0"):
        assert ends["sft-dpo", share] == pytest.approx(ends["dpo-sft", share], abs=2e-3)
    assert ends["sft-dpo", "0.0"] != pytest.approx(ends["sft-dpo", "1.0"], abs=0.1)


def test_stale_values_make_a_path_swing():
    for instance in range(1, explorer.INSTANCES + 1):
        spread = {}
        for path in stored("explorer")["refresh"]:
            if path["chosen"]["instance"] == str(instance):
                late = np.asarray(path["gradients"]) >= 0.8 * path["gradients"][-1]
                spread[path["chosen"]["k"]] = np.ptp(np.asarray(path["preference_loss"])[late])
        assert spread["never"] > 2 * spread["1"]


def test_a_curve_is_shown_when_all_its_choices_are_taken():
    made = {"schedule": "mix", "lambda": "0.5"}
    assert controls.shown({}, made)
    assert controls.shown(made, {"schedule": "mix", "lambda": "0.5", "run": "1"})
    assert controls.shown(made, {"schedule": "all", "lambda": "0.5"})
    assert not controls.shown(made, {"schedule": "all", "lambda": "0.9"})


def test_plots_hold_what_is_stored_and_nothing_else():
    results = {name: stored(name) for name in ("explorer", "lm_loss_space", "loss_space")}
    for plot in explorers.explorers(results):
        starts = {control.name: control.start for control in plot.controls}
        assert any(row["shown"] for row in plot.rows)
        for control in plot.controls:
            assert control.start in control.values
            assert len(control.texts) == len(control.values)
        for row in plot.rows:
            assert set(row["chosen"]) <= set(starts)
            assert len(row["cells"]) == len(plot.columns)
