"""The figures on joint methods show what their titles state, in their fast form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.dossier.captions import caption
from analysis.fernando2024.convex import (
    convergence,
    equal_compute,
    quadratic_exact,
    scores,
    stale_refresh,
    text_front,
    value_error,
)
from analysis.fernando2024.convex.cases import cases
from analysis.fernando2024.methods import label
from analysis.fernando2024.stored import shown
from tradeoff.errors import InputError
from tradeoff.schedules import Alright, Maxright, Mix
from tradeoff.theory.joint import bound
from tradeoff.theory.maxright import maxright_bound

pytestmark = pytest.mark.slow

FIGURES = (
    convergence,
    stale_refresh,
    value_error,
    equal_compute,
    quadratic_exact,
    scores,
)


def test_captions_are_short_and_whole(numbers: Callable[[str], dict[str, Any]]) -> None:
    for module in FIGURES:
        name = module.__name__.split(".")[-1]
        text = caption(module, numbers(name))
        assert len(text.split()) <= 80, name
        for part in ("n = ", "aries", "nterval", f"python -m analysis {name}."):
            assert part in text, (name, part)
        assert "{" not in text


def test_average_bounds_lie_below_the_untrained_policy() -> None:
    """The rate then says something about training. One untrained policy is nearly optimal."""
    below: dict[str, int] = {}
    for case in cases(24, dimension=4, radius=1.0):
        mix, alright, maxright = (kind(lam=case.lam) for kind in (Mix, Alright, Maxright))
        limits = {
            mix: bound(case.problem, mix, 16000),
            alright: bound(case.problem, alright, 16000),
            maxright: maxright_bound(case.problem, maxright, 8000),
        }
        for method, limit in limits.items():
            found = limit < convergence.untrained(case.problem, method)
            below[method.family] = below.get(method.family, 0) + found
    assert len(below) == 3
    assert min(below.values()) >= 22


def test_gaps_fall_and_stay_below_their_bounds(numbers: Callable[[str], dict[str, Any]]) -> None:
    for kind in ("averaged", "last"):
        for curve in numbers("convergence")[kind].values():
            measured = np.array(curve["mean"]) + 1.96 * np.array(curve["se"])
            assert np.all(measured <= curve["bound"])
            assert curve["mean"][-1] < curve["mean"][0]


def test_stale_values_drift_and_swing(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("stale_refresh")
    for kind in ("weighted", "unweighted", "half"):
        assert found[kind]["swing"][-1] > 3 * found[kind]["swing"][0]
    shift = found["shift_of_never_over_lambda"]
    assert shift["common"]["below"]["mean"] > shift["tuned"]["below"]["mean"]
    # Refreshing every 10 updates is as good as at every update.
    assert abs(found["weighted"]["median_drift"][1] - found["weighted"]["median_drift"][0]) < 0.02


def test_wrong_minima_move_where_theory_says(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("value_error")
    assert np.all(np.diff(found["wrong_sft"]["weight"]) > 0)
    assert np.all(np.diff(found["wrong_preference"]["weight"]) < 0)
    middle = len(found["errors_over_range"]) // 2
    assert np.argmin(found["wrong_sft"]["excess"]) == middle
    # With correct minima MAXRIGHT does not end at the minimiser of f_lambda, which ALRIGHT
    # approaches.
    assert found["alright"]["maxright_regret"] > 1e-3
    for low, high in found["break_even_error"].values():
        assert -0.2 < low < 0 < high < 0.2
    for shares in found["share_of_bound"].values():
        assert 0 < shares["exact"][0] < shares["exact"][1] <= 1
        assert shares["measured"][1] < 1


def test_alternation_pays_where_costs_differ(numbers: Callable[[str], dict[str, Any]]) -> None:
    by_cost = numbers("equal_compute")["by_cost_ratio"]
    assert by_cost["4"]["budget_median"] < by_cost["1"]["budget_median"]
    assert len(by_cost) == 3
    alone: dict[tuple[float, int], set[float]] = {}
    for case in numbers("equal_compute")["cases"]:
        assert case["alright_predicted"] >= case["budget_rule_predicted"] - 1e-9
        at = alone.setdefault((case["conflict"], case["seed"]), set())
        at.add(round(case["alright_predicted"], 4))
    # ALRIGHT is therefore drawn at one cost ratio only.
    assert all(len(predictions) == 1 for predictions in alone.values())


def test_quadratics_are_exact_and_soups_fall_short(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("quadratic_exact")
    assert found["largest_z"] < 4.5
    assert found["final_gap"]["mix"] < found["final_gap"]["alright"]
    assert found["soup_gap_over_range"]["proportional"] < 1e-4
    assert found["soup_gap_over_range"]["turned by 60°"] > 0.05


def test_units_reorder_distances_and_nothing_else(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("scores")
    assert found["distinct_orders"] > 1
    assert found["worst_change_of_front_gap"] < 1e-9
    assert found["worst_change_of_regret"] < 1e-9
    assert found["regret"]["sft-dpo"] > 3 * found["front_gap"]["sft-dpo"]


# ---------------------------------------------------------------------- real text


def test_text_figure(tmp_path: Path) -> None:
    if not text_front.have_data(text_front.PAIRS[:1]):
        pytest.skip("the real files sft_rasbt and pref_rasbt are not part of the repository")
    found = text_front.main(tmp_path, fast=True)
    assert found["source"] == "this run"
    methods = found["sft_rasbt"]["methods"]
    # The second stage's loss is small and the first stage's is large: both orders forget.
    for part in ("train", "held_out"):
        mixed = methods["mix"][part][1]
        assert methods["sft-dpo"][part][0][0] > 2 * mixed[0]
        assert methods["dpo-sft"][part][0][1] > 1.5 * mixed[1]


def test_held_out_ends_lie_where_the_caption_says() -> None:
    """The factor between an end and the held-out curve. Below 1 the end is above the curve."""
    stored = shown("text_front")
    for pair in text_front.PAIRS:
        corners = np.log(stored[pair.sft]["front"]["held_out"])
        at = np.linspace(0, len(corners) - 1, 5001)
        curve = np.exp([np.interp(at, range(len(corners)), column) for column in corners.T]).T
        said = text_front.beyond(stored[pair.sft])
        for method, entry in stored[pair.sft]["methods"].items():
            least = min(float((curve / end).max(axis=1).min()) for end in entry["held_out"])
            if abs(least - 1) > 1e-3:  # Corners and the lines between them agree.
                assert (least > 1) == (label(method) in said), (pair.sft, method)
    assert text_front.words(stored)["beyond"].startswith("above: DPO→SFT, ")


def test_without_the_data_the_stored_run_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_front, "DATA", tmp_path)
    stored = shown("text_front")
    for fast in (True, False):
        found = text_front.main(tmp_path, fast=fast)
        assert found["source"] == "stored run"
        assert found["sft_rasbt"] == stored["sft_rasbt"]
        assert (tmp_path / "figures" / "text_front.png").exists()
    monkeypatch.setattr(text_front, "PAPER", tmp_path)
    with pytest.raises(InputError, match="no stored run"):
        text_front.stored(text_front.PAIRS)
