"""Numbers of the study on SmolLM2: ends, paths, forgetting, log-probabilities and flipped pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.fernando2024.methods import cell, cost, finals
from analysis.fernando2024.real.smol_methods import LAM
from tradeoff.scores import Interval, interval, paired_difference, weighted_loss

LOSSES = ["sft_loss", "preference_loss"]
BASELINE = "sft-dpo"
"""The method with which others are compared."""


def numbers(methods: Sequence[str], single: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """All numbers of one pair of data sets.

    Parameters
    ----------
    methods
        Names of methods, in the order of the figures.
    single
        Table of the runs on one objective.
    table
        Table of the runs of every method, all on the same seeds.
    """
    start = single.iloc[0]
    ideal = [
        _end(single, name)[:, i].mean() for i, name in enumerate(("sft-only", "preference-only"))
    ]
    unit = float(weighted_loss(start[LOSSES].to_numpy(dtype=float) - ideal, LAM))
    return {
        "training": cost(single, table),
        "seeds": int(table["seed"].nunique()),
        "start": start[LOSSES].tolist(),
        "ideal": [float(value) for value in ideal],
        "rates": _rates(table),
        "methods": {name: _method(table, name, unit) for name in methods},
        "single": {name: _end(single, name).tolist() for name in ("sft-only", "preference-only")},
    }


def _rates(table: pd.DataFrame) -> dict[str, list[float]]:
    """Step sizes of each method: of updates on demonstrations, and of updates on pairs."""
    first = table.groupby("name")[["rate", "preference_rate"]].first()
    return {str(name): [float(v) for v in row] for name, *row in first.itertuples()}


def _method(table: pd.DataFrame, name: str, unit: float) -> dict[str, Any]:
    """Numbers of one method."""
    runs = table[table["name"] == name]
    ends, base = _end(table, name), _end(table, BASELINE)
    losses = weighted_loss(ends, LAM)
    against = paired_difference(losses, weighted_loss(base, LAM))
    last = finals(runs).sort_values("seed")
    marks = runs.assign(mark=runs.groupby("run").cumcount())
    return {
        "ends": ends.tolist(),
        "path": marks.groupby("mark")[LOSSES].mean().to_numpy().tolist(),
        "weighted_loss": cell_of(losses),
        "less_baseline": _half(against),
        "less_baseline_in_ranges": _half(against, 1 / unit),
        "accuracy": cell_of(100 * last["preference_accuracy"].to_numpy()),
        "exact": cell_of(100 * last["exact"].to_numpy()),
        "chosen": cell_of(np.array([_change(row, "chosen") for _, row in last.iterrows()])),
        "rejected": cell_of(np.array([_change(row, "rejected") for _, row in last.iterrows()])),
        "flips": {k: cell_of(100 * v) for k, v in flips(last).items()},
    }


def flips(last: pd.DataFrame) -> dict[str, np.ndarray]:
    """Shares of held-out pairs by the change of their order in training, one value for each run.

    A pair is correct if the chosen response has the larger log-probability.
    """
    found: dict[str, list[float]] = {"gained": [], "lost": [], "right": []}
    for _, row in last.iterrows():
        before, after = (
            np.asarray(row[f"{when}_chosen"]) > np.asarray(row[f"{when}_rejected"])
            for when in ("base", "end")
        )
        found["gained"].append(float((after & ~before).mean()))
        found["lost"].append(float((before & ~after).mean()))
        found["right"].append(float(after.mean()))
    return {name: np.array(values) for name, values in found.items()}


def _change(row: Any, response: str) -> float:
    """Mean change of a response's log-probability in training, in nats."""
    return float(np.mean(np.asarray(row[f"end_{response}"]) - np.asarray(row[f"base_{response}"])))


def _end(table: pd.DataFrame, name: str) -> np.ndarray:
    """(seeds, 2) final losses of a method, in order of the seed."""
    return finals(table[table["name"] == name]).sort_values("seed")[LOSSES].to_numpy()


def cell_of(values: np.ndarray) -> dict[str, Any]:
    """Mean and half width; without a half width if there is one value."""
    return _half(interval(values))


def _half(found: Interval, factor: float = 1.0) -> dict[str, Any]:
    """Mean and half width of an interval, as stored; None if one seed gives no half width."""
    kept = {key: factor * float(value) for key, value in cell(found).items()}
    return {key: value if np.isfinite(value) else None for key, value in kept.items()}
