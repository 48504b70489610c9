"""Whether ranks of methods agree between scales: Kendall's tau with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.arena import scales, stored
from tradeoff.arena.agreement import Agreement, agreement
from tradeoff.arena.ranks import kendall

BOARDS = ("board", "text", "policies", "language")
TITLES = {
    "rows": "convex, rows",
    "law": "convex, law",
    "text": "text, rows",
    "text held out": "text, held out",
    "policies": "policies",
    "language": "language model",
}
"""Names of the scales as they are shown; networks are scored on held-out rows."""
SPLIT = "without preference losses"
"""Preference losses have settings of their own, such as beta, and share much of the order."""


def regrets(boards: Mapping[str, Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """Regret of each method (rows) on each problem (columns), by scale."""
    places = {
        "rows": ("board", "regret"),
        "law": ("board", "law_regret"),
        "text": ("text", "regret"),
        "text held out": ("text", "second_regret"),
        "policies": ("policies", "regret"),
        "language": ("language", "regret"),
    }
    return {
        scale: stored.means(boards[name], score)
        for scale, (name, score) in places.items()
        if name in boards
    }


def boards() -> dict[str, Mapping[str, Any]]:
    """Numbers of the stored full runs that there are."""
    found = {name: scales.shown(name) for name in BOARDS}
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def between(first: pd.DataFrame, second: pd.DataFrame, without: str = "") -> Agreement:
    """Agreement of mean regrets on two scales, of the methods on both.

    Parameters
    ----------
    first, second
        Of :func:`regrets`.
    without
        A slot; methods that change it do not count.
    """
    common = [name for name in first.index if name in second.index]
    if without:
        slots = _slots()
        common = [name for name in common if without not in slots.get(name, "").split(", ")]
    return agreement(first.loc[common].mean(axis=1), second.loc[common].mean(axis=1))


def within(table: pd.DataFrame) -> float:
    """Mean tau between two problems of one scale; NaN for a single problem."""
    pairs = combinations(table.columns, 2)
    found = [kendall(table[one], table[other]) for one, other in pairs]
    return float(np.mean(found)) if found else float("nan")


def _slots() -> dict[str, str]:
    numbers = stored.shown()
    return dict(zip(numbers["methods"], numbers["slots"], strict=True))
