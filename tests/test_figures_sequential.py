"""The figures about sequential training: their numbers say what their titles say."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from analysis.runner import PAPER
from tradeoff.records import read_json

FIGURES = ("toy_trajectories", "loss_space", "sequential_gap", "budget_splits", "beta_sweep")
ORDERS = ("SFT→DPO", "DPO→SFT")
JOINT = ("Mix", "ALRIGHT", "MAXRIGHT")


def test_toy_paths_end_where_the_title_says(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("toy_trajectories")
    assert found["SFT→DPO"]["matched_weight"] > 0.9 > 0.1 > found["DPO→SFT"]["matched_weight"]
    for order in ORDERS:
        assert found[order]["largest_front_gap_in_second_half"] > 10 * found["certified_error"]
        for joint in JOINT:
            assert found[joint]["regret"] < found[order]["regret"] / 5


def test_toy_paths_see_only_their_share_of_the_budget() -> None:
    from analysis.toy_trajectories import run_path, toy_problem
    from tradeoff.schedules import Mix, Sequential

    problem = toy_problem()
    assert len(run_path(problem, Mix(), 40)) == 21
    assert len(run_path(problem, Sequential(), 40)) == 41


def test_loss_space_separates_the_methods(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("loss_space")
    middle = 2
    for order in ORDERS:
        for joint in ("Mix", "ALRIGHT"):
            cell = found["paired_regret_joint_minus_sequential"][f"{joint} - {order}"]
            assert cell["mean"][middle] + cell["half_width"][middle] < 0
    for name in (*ORDERS, *JOINT):
        cells = found[name]
        assert np.all(np.asarray(cells["regret"]["mean"]) >= cells["front_gap"]["mean"])
        assert np.all(np.diff(cells["matched_weight"]["mean"]) > 0)
    sequential = np.asarray(found["SFT→DPO"]["matched_weight"]["mean"])
    assert np.ptp(sequential) < np.ptp(found["ALRIGHT"]["matched_weight"]["mean"])


def test_a_tuned_step_does_not_save_sequential_training(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    tuned = numbers("loss_space")["tuned_regret"]
    for order in ORDERS:
        assert tuned[order]["mean"][2] > tuned["ALRIGHT"]["mean"][2]


def test_gap_stays_inside_its_certified_range(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("sequential_gap")
    for order in ORDERS:
        limit = found["limit"][order]
        assert 0 < limit["certified_lower"] < limit["gap"] < limit["certified_upper"]
        assert found["updates_that_certify_half_the_gap"][order] > 1
        binary = found["binary"][f"{order} lambda=0.5"]
        assert np.allclose(binary["simulated"], binary["closed_form"], rtol=0, atol=1e-9)
    assert max(found["binary"]["Mix lambda=0.5"]) < 1e-6
    for joint in ("Mix", "ALRIGHT"):
        gaps = found["gap"][joint]["mean"]
        assert gaps[-1] < gaps[0] / 2


def test_best_split_is_inside_and_above_mix(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("budget_splits")
    for kind in ("exact", "stochastic"):
        study = found[kind]
        for order in ORDERS:
            best = study["best_split"][order]
            assert 1 < best["second_stage"] < study["gradients"]
            assert best["gap"] < study["even_split"][order]
            assert best["gap"] > study["joint"]["Mix"]["gap"]
            assert best["front_gap"] > 10 * found["certified_error"]
    assert found["exact"]["best_split_beats"] == []


def test_the_caption_says_how_far_the_best_split_stays_behind() -> None:
    study = read_json(PAPER / "results" / "budget_splits.json")["numbers"]["exact"]
    kinds = (study["best_split"], study["best_early_stop"])
    best = min(order["gap"] for kind in kinds for order in kind.values())
    times = {name: best / found["gap"] for name, found in study["joint"].items()}
    caption = importlib.import_module("analysis.budget_splits").CAPTION
    assert f"keeps {times['ALRIGHT']:.1f} times the gap of ALRIGHT" in caption
    assert f"and {times['MAXRIGHT']:.1f} times that of MAXRIGHT" in caption
    assert times["Mix"] > 100


def test_labels_stand_apart() -> None:
    from analysis.budget_splits import apart

    places = apart({"a": 1.0, "b": 1.01, "c": 1.02, "d": 5.0}, 1.5)
    ordered = [places[k] for k in "abcd"]
    assert ordered == pytest.approx([1.0, 1.5, 2.25, 5.0])


def test_every_beta_keeps_a_gap(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("beta_sweep")
    assert found["clean"]["share_of_pairs_satisfied"] == 1
    assert found["noisy"]["share_of_pairs_satisfied"] < 0.95
    for labels in ("clean", "noisy"):
        for reference in ("uniform", "SFT model"):
            for order in ORDERS:
                curve = found[labels][reference][order]
                assert np.all(np.asarray(curve["certified"]) > 0)
                assert np.all(np.asarray(curve["gap"]) >= curve["certified"])
    clean, noisy = (
        found[labels]["SFT model"]["forgotten_sft_nats"] for labels in ("clean", "noisy")
    )
    assert clean[-1] > 0.5 * clean[0]
    assert noisy[-1] < 0.05 * noisy[0]
    finite = found["clean"]["measured"]["forgotten_sft_nats"]["mean"]
    assert finite[0] < 0.05 * clean[0]  # small beta: the second stage has hardly begun


def test_claims_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis import beta_sweep, sequential_gap

    monkeypatch.setattr(sequential_gap, "binary_gap", lambda *_: 1.0)
    assert not sequential_gap.claim_closed_form().holds
    monkeypatch.setitem(beta_sweep.PAIRS, "clean", 1024)
    assert not beta_sweep.claim_anchor_fails_on_clean_labels().holds
