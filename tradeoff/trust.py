"""How far features of responses may be trusted, as stored forecasts of trainings show."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from tradeoff.records import read_json

STORED = Path(__file__).parent / "forecast" / "calibration.json"
"""Scores of forecasts of measured trainings, see :mod:`tradeoff.forecast.calibration`."""
Kind = Literal["words", "pooled"]
NAMES: dict[Kind, str] = {"words": "hashed words", "pooled": "pooled states of the model"}
"""What a reader calls the features of a convex problem of responses."""


@cache
def _stored() -> dict[str, Any]:
    return dict(read_json(STORED))


def kind_of(features: Any) -> Kind | None:
    """The kind of features of responses; None for those that were not tried."""
    kind: Kind | None = "words" if features is None else getattr(features, "kind", None)
    return kind


def name(kind: Kind | None) -> str:
    """What a reader calls features of this kind."""
    return "the given features" if kind is None else NAMES[kind]


def sentence(kind: Kind | None) -> str:
    """How well forecasts from convex problems on these features did, beside others.

    Parameters
    ----------
    kind
        Hashed words, or pooled states of a model.
    """
    stored = _stored()
    scores, about = stored["scores"], stored["about"]
    if kind is None or kind not in scores:
        return (
            f"How far {name(kind)} may be trusted is not known: forecasts from them were not tried."
        )
    error = {
        one: f"{100 * scores[one]['median_error']:.0f} %"
        for one in (*NAMES, "constant")
        if one in scores
    }
    beside = [f"{NAMES[one]} {error[one]}" for one in NAMES if one != kind and one in error]
    beside.append(f"a constant guess {error['constant']}")
    return (
        f"How far {NAMES[kind]} may be trusted: on {about['pairs']} pairs of data sets whose "
        f"training was measured, forecasts from them missed held-out losses by {error[kind]} "
        f"of the front's range (median; {', '.join(beside)}), and ranked the pairs with a "
        f"correlation of {scores[kind]['rank']:.2f}."
    )
