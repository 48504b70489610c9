"""The figures about sequential training: their numbers agree with their titles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from analysis.dossier.captions import caption
from analysis.fernando2024.dossier import DOSSIER

pytestmark = pytest.mark.slow

FIGURES = ("toy_trajectories", "loss_space", "sequential_gap", "budget_splits", "beta_sweep")
ORDERS = ("sft-dpo", "dpo-sft")
JOINT = ("mix", "alright", "maxright")


def test_toy_paths_end_where_the_title_says(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("toy_trajectories")
    assert found["sft-dpo"]["matched_weight"] > 0.9 > 0.1 > found["dpo-sft"]["matched_weight"]
    for order in ORDERS:
        assert found[order]["largest_front_gap_in_second_half"] > 10 * found["certified_error"]
        for joint in JOINT:
            assert found[joint]["regret"] < found[order]["regret"] / 5


def test_toy_paths_see_only_their_share_of_the_budget() -> None:
    from analysis.fernando2024.convex.toy_trajectories import run_path, toy_problem
    from tradeoff.schedules import Mix, Sequential

    problem = toy_problem()
    assert len(run_path(problem, Mix(), 40)) == 21
    assert len(run_path(problem, Sequential(), 40)) == 41


def test_loss_space_separates_the_methods(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("loss_space")
    middle = 2
    for order in ORDERS:
        for joint in ("mix", "alright"):
            cell = found["paired_regret_joint_minus_sequential"][f"{joint} - {order}"]
            assert cell["mean"][middle] + cell["half_width"][middle] < 0
    for name in (*ORDERS, *JOINT):
        cells = found[name]
        assert np.all(np.asarray(cells["regret"]["mean"]) >= cells["front_gap"]["mean"])
        assert np.all(np.diff(cells["matched_weight"]["mean"]) > 0)


def test_steps_are_tuned_within_the_grid_and_for_each_stage(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("loss_space")
    for name in (*ORDERS, *JOINT):
        stages = 2 if name in ORDERS else 1
        assert [len(scales) for scales in found["steps"][name]["scales"]] == [stages] * 5
        assert all(found["steps"][name]["inside_the_grid"]), name
    for order in ORDERS:
        shared = found["shared_step"]["regret"][order]["mean"][2]
        assert found[order]["regret"]["mean"][2] < shared
        assert found[order]["regret"]["mean"][2] > found["alright"]["regret"]["mean"][2]


def test_gap_stays_inside_its_certified_range(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("sequential_gap")
    for order in ORDERS:
        limit = found["limit"][order]
        assert 0 < limit["certified_lower"] < limit["gap"] < limit["certified_upper"]
        assert found["updates_that_certify_half_the_gap"][order] > 1
        binary = found["binary"][f"{order} lambda=0.5"]
        assert np.allclose(binary["simulated"], binary["closed_form"], rtol=0, atol=1e-9)
    assert max(found["binary"]["mix lambda=0.5"]) < 1e-6
    for joint in ("mix", "alright"):
        gaps = found["gap"][joint]["mean"]
        assert gaps[-1] < 0.6 * gaps[0]
    for order in ORDERS:
        own, hindsight = (found[kind][order] for kind in ("gap", "gap_with_hindsight"))
        assert own["mean"][-1] > 2 * hindsight["mean"][-1] > 0
        assert all(hindsight["inside_the_grid"])


def test_best_split_is_inside_and_above_mix(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("budget_splits")
    exact, noisy = found["exact"], found["stochastic"]
    for order in ORDERS:
        best = exact["best_split"][order]
        assert 1 < best["second_stage"] < exact["gradients"] - 1
        assert best["gap"] < exact["even_split"][order]
        assert best["gap"] > exact["joint"]["mix"]["gap"]
        assert best["front_gap"] > 10 * found["certified_error"]
        assert noisy["best_split"][order]["gap"] <= noisy["even_split"][order]
        assert {len(scales) for scales in noisy["steps"][order]["scales"]} == {2}
    assert exact["best_split_beats"] == []


def test_every_split_has_two_stages_and_one_is_even() -> None:
    from analysis.fernando2024.convex.budget_splits import lengths, orders

    second = lengths(100, 7)
    assert {1, 50, 99} <= set(second.tolist())
    assert second.max() == 99
    for row in orders(100, second).values():
        clocks = [schedule.plan(100).clock for schedule in row]
        assert all((clock == 1).sum() == 2 for clock in clocks)


def test_each_stage_has_its_step() -> None:
    from analysis.fernando2024.convex.tuning import StageSteps, updates
    from tradeoff.schedules import Alright, Mix, Sequential

    found = StageSteps(1.0, 0.5, 0.25).of(Sequential(share=0.5).plan(4))
    assert found == pytest.approx([1.0, 0.5**0.5, 0.25, 0.25 * 0.5**0.5])
    assert StageSteps(1.0, 0.0, 0.25).of(Mix().plan(2)) == pytest.approx([1.0, 1.0])
    assert updates(Mix(), 90, 2.0) == 30
    assert updates(Alright(lam=0.5), 90, 2.0) == 60


def test_labels_stand_apart() -> None:
    from analysis.dossier.style import apart

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
                assert np.all(np.asarray(curve["certified"]) > 0)  # these problems conflict
                assert np.all(np.asarray(curve["gap"]) >= curve["certified"])
    clean, noisy = (
        found[labels]["SFT model"]["forgotten_sft_nats"] for labels in ("clean", "noisy")
    )
    assert clean[-1] > 0.5 * clean[0]
    assert noisy[-1] < 0.05 * noisy[0]


def test_captions_are_short_and_whole(numbers: Callable[[str], dict[str, Any]]) -> None:
    for name in FIGURES:
        module = DOSSIER.module(name)
        text = caption(module, numbers(name))
        assert len(text.split()) <= 80, name
        for part in ("n = ", "aries", "nterval", f"python -m analysis {name}"):
            assert part in text, (name, part)
        assert "{" not in text


def test_claims_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.fernando2024.convex import sequential_gap

    monkeypatch.setattr(sequential_gap, "binary_gap", lambda *_: 1.0)
    assert not sequential_gap.claim_closed_form().holds
