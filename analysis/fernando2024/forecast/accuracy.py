"""How good forecasts of pairs are that a calibration never saw: error, ranks, coverage, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from analysis.fernando2024.forecast.measured import CONTROLS, EARLY, POOLED, WORDS
from tradeoff.forecast.candidates import CANDIDATES, STACKED
from tradeoff.forecast.quantities import LAMBDAS, forgetting, front, knee, ranges
from tradeoff.forecast.stack import Fitted, Measured, fit, half_widths, left_out

Array = NDArray[np.float64]
STACK = "stack"
FORECASTS: dict[str, tuple[str, ...]] = {
    STACK: STACKED,
    **{name: (name,) for name in CANDIDATES},
    WORDS: (WORDS,),
    POOLED: (POOLED,),
    **CONTROLS,
}
"""Candidates of each forecast that is judged."""
POINTS = 2 * len(LAMBDAS)


def judge(examples: Sequence[Measured], costs: pd.DataFrame) -> dict[str, Any]:
    """Scores of every forecast, each pair forecast from the other pairs.

    Parameters
    ----------
    examples
        See :func:`measured.examples`.
    costs
        Measurements, see :func:`measured.run`.
    """
    scores = {}
    for name, members in FORECASTS.items():
        # Controls may know the held-out losses of the base model exactly.
        own = [replace(e, base=e.starts[EARLY]) for e in examples] if name in CONTROLS else examples
        scores[name] = _scores(own, members) | {"cost": _cost(costs, name)}
    return scores


def _cost(costs: pd.DataFrame, name: str) -> dict[str, float] | None:
    """Mean and largest cost of a forecast as a share of a run; None for a control."""
    if name in CONTROLS:
        return None
    one = costs if name == STACK else costs[costs["candidate"] == name]
    column = one["total_cost"] if name == STACK else one["cost"]
    return {"mean": float(column.mean()), "most": float(column.max())}


def _scores(examples: Sequence[Measured], members: Sequence[str]) -> dict[str, Any]:
    rows = []
    for fitted, own, others in left_out(examples, members):
        half = half_widths(others, members)
        rows += [_judged(fitted, one, half) for one in own]
    errors = np.stack([row["errors"] for row in rows])
    inside = np.stack([row["inside"] for row in rows])
    return {
        "median_error": float(np.nanmedian(errors)),
        "mean_error": float(np.nanmean(errors)),
        "worst_tenth": float(np.nanquantile(errors, 0.9)),
        "by_pair": {
            group: float(np.nanmedian(errors[[row["group"] == group for row in rows]]))
            for group in dict.fromkeys(row["group"] for row in rows)
        },
        "by_unit": np.nanmedian(errors, axis=(1, 2)).tolist(),
        "seen": _seen(examples, members),
        "coverage": float(np.nanmean(inside)),
        "width": float(np.nanmedian([row["width"] for row in rows])),
        "rank": _ranks(rows, "front"),
        "forgetting_rank": _ranks(rows, "forgetting"),
        "forgetting_error": float(np.nanmedian([row["forgetting_error"] for row in rows])),
        "forgetting_coverage": float(np.nanmean([row["inside_orders"] for row in rows])),
        "best_lambda": float(np.mean([row["knee"] for row in rows])),
    }


def fresh(known: Sequence[Measured], new: Sequence[Measured]) -> dict[str, Any]:
    """Scores of the stack and of the controls on pairs on which nothing was fitted or chosen."""
    found = {}
    for name in (STACK, *CONTROLS):
        members = FORECASTS[name]
        parts = [
            [replace(e, base=e.starts[EARLY]) for e in some] if name in CONTROLS else some
            for some in (known, new)
        ]
        fitted, half = fit(parts[0], members), half_widths(parts[0], members)
        rows = [_judged(fitted, one, half) for one in parts[1]]
        errors = np.stack([row["errors"] for row in rows])
        found[name] = {
            "median_error": float(np.nanmedian(errors)),
            "by_pair": {row["group"]: float(np.nanmedian(row["errors"])) for row in rows},
            "coverage": float(np.nanmean([row["inside"] for row in rows])),
            "rank": _ranks(rows, "front"),
        }
    return found


def _seen(examples: Sequence[Measured], members: Sequence[str]) -> float:
    """Median error where each pair is among those that the fit has seen: no forecast at all."""
    fitted, found = fit(examples, members), []
    for one in examples:
        assert one.truth is not None
        away = front(fitted.losses(one)) - front(one.truth)
        found.append(np.abs(away) / np.maximum(ranges(one.truth), 1e-6))
    return float(np.nanmedian(found))


def _judged(fitted: Fitted, one: Measured, half: Array) -> dict[str, Any]:
    """Errors of one pair and seed, in units of the ranges of its measured front."""
    assert one.truth is not None
    found, low, high = (fitted.losses(one, side * half) for side in (0, -1, 1))
    spread = np.maximum(ranges(one.truth), 1e-6)
    true, said = front(one.truth), front(found)
    inside = (one.truth >= low) & (one.truth <= high)
    measured = np.where(np.isfinite(one.truth), inside, np.nan)
    away = (true - true.min(axis=0)) / spread
    lost = forgetting(found), forgetting(one.truth)
    return {
        "group": one.group,
        "errors": np.abs(said - true) / spread,
        "inside": measured[:POINTS],
        "inside_orders": measured[POINTS:],
        "width": np.median((front(high) - front(low)) / spread),
        "front": (said, true),
        "forgetting": lost,
        "forgetting_error": np.abs(lost[0] - lost[1]) / spread,
        # What the forecast's best weight loses against the true one.
        "knee": float(np.sum(away[knee(said)]) - np.sum(away[knee(true)])) / 2,
    }


def _ranks(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Median over the numbers of Spearman's rank correlation over pairs."""
    said, true = (np.stack([np.ravel(row[name][k]) for row in rows]) for k in (0, 1))
    known = np.isfinite(true).all(axis=1)
    if known.sum() < 3:
        return None
    found = [
        spearmanr(said[known, k], true[known, k]).statistic
        for k in range(said.shape[1])
        if np.ptp(said[known, k]) > 1e-9
    ]
    return float(np.median(found)) if found else 0.0
