"""Write the package's calibration of `tradeoff forecast` from the stored full runs.

python -m analysis.fernando2024.forecast.calibrate
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from analysis.fernando2024.stored import shown
from tradeoff.forecast import calibration

MODEL = "SmolLM2-135M-Instruct"
"""Model on which forecasts were stored before its runs."""


def stored_run() -> calibration.Calibration:
    """The calibration of the stored full run of `forecast_accuracy`, and how it did elsewhere."""
    found = calibration.from_record(shown("forecast_accuracy")["calibration"])
    other = shown("smol_forecast")
    if not other["scores"]:
        return found
    elsewhere = {
        "model": MODEL,
        "pairs": len(other["pairs"]),
        "median_error": other["scores"]["forecast"]["median_error"],
        "coverage": other["scores"]["forecast"]["coverage"],
        "nothing": other["scores"]["nothing"]["median_error"],
        "widened": other["scores"]["widened"],
        "signs": {
            name: signs(other["pairs"], f"{name.lower()}_loss") for name in ("SFT", "preference")
        },
    }
    return replace(found, about={**found.about, "elsewhere": elsewhere})


def signs(pairs: Mapping[str, Any], loss: str) -> list[int]:
    """Of how many losses a forecast said rightly whether they rise or fall, and of how many."""
    rows = [row for one in pairs.values() for row in one["numbers"] if row["loss"] == loss]
    changes = [(row["forecast"] - row["start"], row["measured"] - row["start"]) for row in rows]
    return [sum(said * true > 0 for said, true in changes), len(rows)]


if __name__ == "__main__":
    calibration.store(stored_run())
