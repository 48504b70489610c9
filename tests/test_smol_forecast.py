"""Forecasts of the study on SmolLM2: stored before its runs, and judged by them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analysis.fernando2024.forecast import smol_forecast, smol_predictions
from analysis.fernando2024.forecast.calibrate import signs
from analysis.fernando2024.forecast.smol_forecast import at, compared, scores
from analysis.fernando2024.real import smol_methods, smol_plan, smol_rows
from analysis.fernando2024.stored import shown
from tradeoff.forecast import calibration
from tradeoff.forecast.candidates import STACKED
from tradeoff.forecast.quantities import LAMBDAS, LOSSES, NAMES, from_scale, place, to_scale
from tradeoff.records import read_json

WEIGHTS = ("0.01", "0.25", "0.5", "0.75", "0.99")


def said(shift: float = 0.0) -> Any:
    """A forecast whose Mix losses are (lambda, 1 - lambda), and 0.2 elsewhere."""
    values = np.full(len(NAMES), 0.2)
    for lam in LAMBDAS:
        values[place(f"mix {lam:g}", "sft_loss")] = lam
        values[place(f"mix {lam:g}", "preference_loss")] = 1 - lam
    values = values + shift
    return SimpleNamespace(losses=values, low=values - 0.1, high=values + 0.1)


def found() -> dict[str, Any]:
    """Runs that end where this forecast says."""
    swept = {
        lam: {
            "mix": {"sft_loss": {"mean": float(lam)}, "preference_loss": {"mean": 1 - float(lam)}}
        }
        for lam in WEIGHTS
    }
    methods = {name: {"ends": [[0.1, 0.2], [0.3, 0.2]]} for name in (*smol_forecast.METHODS, "mix")}
    return {
        "seeds": 2,
        "start": [1.0, 0.7],
        "ideal": [0.0, 0.2],
        "methods": methods,
        "extras": {"lambdas": {"values": swept}},
    }


def test_a_right_forecast_has_no_error_and_covers_everything() -> None:
    one = compared(said(), found())
    assert [row["plan"] for row in one["numbers"][::2]] == [
        *("sft-dpo", "dpo-sft", "rounds 4"),
        *("mix 0.25", "mix 0.5", "mix 0.75"),
    ]
    judged = scores({"one": one})["forecast"]
    assert judged["median_error"] == pytest.approx(0, abs=1e-12)
    assert judged["coverage"] == 1
    wrong = scores({"one": compared(said(0.25), found())})["forecast"]
    assert wrong["coverage"] == 0
    # Units are what training on the objective alone gains: 1 and 0.5 nats.
    assert wrong["median_error"] == pytest.approx((0.25 + 0.5) / 2)


def test_without_the_sweep_mix_is_that_of_the_comparison() -> None:
    alone = {**found(), "extras": {}}
    plans = [row["plan"] for row in compared(said(), alone)["numbers"]]
    assert plans[-2:] == ["mix 0.5"] * 2
    assert at(said().losses, "mix 0.25", 0.25, LOSSES.index("sft_loss")) == pytest.approx(0.25)


def test_a_control_of_the_other_pairs_does_not_see_its_own() -> None:
    same = {name: compared(said(), found()) for name in ("one", "two", "three")}
    judged = scores(same)
    assert judged["others"]["median_error"] == pytest.approx(0, abs=1e-9)
    assert judged["nothing"]["median_error"] > 0.1
    other = found()
    for row in other["methods"].values():
        row["ends"] = [[2.0, 2.0]]
    for lam in WEIGHTS:
        other["extras"]["lambdas"]["values"][lam]["mix"] = {loss: {"mean": 2.0} for loss in LOSSES}
    changed = scores({**same, "two": compared(said(), other)})
    assert changed["others"]["by_pair"]["two"] > 1
    assert changed["others"]["by_pair"]["one"] < changed["others"]["by_pair"]["two"]
    assert scores({}) == {}


def test_a_forecast_of_the_wrong_sign_is_counted() -> None:
    one = compared(said(), found())
    assert [signs({"one": one}, loss) for loss in LOSSES] == [[6, 6], [6, 6]]
    for row in one["numbers"]:
        row["forecast"] = 2 * row["start"] - row["forecast"]
    assert [signs({"one": one, "two": one}, loss)[0] for loss in LOSSES] == [0, 0]


def test_intervals_are_widened_by_what_the_other_pairs_ask_for() -> None:
    def rows(*errors: float) -> list[dict[str, float]]:
        middle = np.log(1.1)
        scale = {"forecast": middle, "low": middle - 0.1, "high": middle + 0.1}
        made = {name: float(from_scale(value)) for name, value in scale.items()}
        return [{**made, "measured": float(from_scale(middle + 0.1 * each))} for each in errors]

    found = smol_forecast.widened({"a": rows(-1.0, 2.0), "b": rows(0.5, 3.0)})
    assert found["factor"] == pytest.approx(3.0)
    assert found["coverage"] == 0.75  # Of b, the width that a asks for is 2.
    numbers = {pair: one["numbers"] for pair, one in shown("smol_forecast")["pairs"].items()}
    stored = smol_forecast.widened(numbers)
    for one in (row for part in numbers.values() for row in part):
        half = (to_scale(one["high"]) - to_scale(one["low"])) / 2 * stored["factor"]
        one["held"] = abs(to_scale(one["forecast"]) - to_scale(one["measured"])) <= half
    held = [row["held"] for part in numbers.values() for row in part]
    assert np.mean(held) >= 0.9 > np.mean(held) - 2 / len(held)


def test_stored_predictions_are_of_pairs_and_a_budget_of_the_study() -> None:
    stored, form = read_json(smol_predictions.STORED), smol_plan.FORMS[smol_predictions.FORM]
    assert stored["form"] == smol_predictions.about(form)
    assert set(stored["pairs"]) <= set(smol_rows.PAIRS)
    mix = smol_methods.METHODS["mix"]
    assert stored["form"]["updates"] == smol_methods.updates(mix, form.budget, form.batch)
    known = calibration.stored()
    assert known is not None
    for pair, forecast in smol_predictions.forecasts(stored, known).items():
        one = stored["pairs"][pair]
        assert set(one["variants"]) == set(STACKED)
        assert forecast.cost == one["cost"] < 0.1
        assert (forecast.low <= forecast.losses).all()
        assert (forecast.losses <= forecast.high).all()
