"""The stored calibration: what candidates are worth, and how far forecasts may be trusted.

``python -m analysis.fernando2024.forecast.calibrate`` writes ``calibration.json``. It holds the
fitted stack, the half-widths of its intervals, and the scores of forecasts of pairs of data sets
that were left out of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tradeoff.forecast.quantities import NAMES
from tradeoff.forecast.stack import Fitted
from tradeoff.records import read_json, write_json

STORED = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted stack with its intervals and its evaluation.

    Attributes
    ----------
    fitted
        Variants, slopes and intercepts.
    half_widths
        (Q,) half-widths of 90 % intervals, on the scale of the fit.
    scores
        Scores of the stack and of each control, by name: ``median_error`` and ``width`` in ranges
        of the front, ``coverage``, ``rank``, ``best_lambda``.
    about
        What it was measured on: model, pairs of data sets, seeds, updates.
    """

    fitted: Fitted
    half_widths: Float[np.ndarray, " Q"]
    scores: Mapping[str, Any]
    about: Mapping[str, Any]

    @cached_property
    def goals(self) -> dict[str, bool]:
        """Whether each goal that was set before the runs is met."""
        own = self.scores["stack"]
        controls = [self.scores[name]["median_error"] for name in ("constant", "early")]
        return {
            "error": own["median_error"] <= ERROR,
            "coverage": COVERAGE[0] <= own["coverage"] <= COVERAGE[1],
            "better than every control": own["median_error"] < min(controls),
            "cost": own["cost"]["most"] <= COST,
        }

    def elsewhere(self) -> Calibration:
        """The calibration for another model than that of the fit.

        Its intervals are wider by the factor by which those of a pretrained model should have been,
        if that was measured.
        """
        measured = self.about.get("elsewhere")
        if measured is None:
            return self
        return replace(self, half_widths=self.half_widths * measured["widened"]["factor"])

    def record(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "about": dict(self.about),
            "numbers": [list(name) for name in NAMES],
            "variants": dict(self.fitted.variants),
            "slopes": self.fitted.slopes.tolist(),
            "intercepts": self.fitted.intercepts.tolist(),
            "half_widths": self.half_widths.tolist(),
            "scores": dict(self.scores),
        }


ERROR, COVERAGE, COST = 0.10, (0.85, 0.95), 0.05
"""Goals set before any run: median error in ranges of the front, coverage of 90 % intervals, and
cost as a share of one run."""


def verdict(goals: Mapping[str, bool]) -> str:
    """A sentence on which goals are missed, if any."""
    missed = [name for name, met in goals.items() if not met]
    return f"Goals missed: {', '.join(missed)}." if missed else "All goals are met."


def from_record(record: Mapping[str, Any]) -> Calibration:
    """The calibration of a record."""
    fitted = Fitted(
        dict(record["variants"]), np.array(record["slopes"]), np.array(record["intercepts"])
    )
    return Calibration(fitted, np.array(record["half_widths"]), record["scores"], record["about"])


def stored() -> Calibration | None:
    """The calibration of the package; None in a checkout that has none yet."""
    return from_record(read_json(STORED)) if STORED.exists() else None


def store(calibration: Calibration, path: Path = STORED) -> None:
    """Write a calibration."""
    write_json(path, calibration.record())
