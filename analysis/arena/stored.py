"""The stored full run of the board, which pictures, tables and claims read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.dossier import stored_results
from tradeoff.checkout import ROOT

PAPER = ROOT / "papers" / "arena"
KEYS = ["problem", "lam"]


@cache
def shown() -> dict[str, Any]:
    """Numbers of the stored full run."""
    return stored_results.numbers(PAPER / "results" / "board.json")


def beside(out: Path) -> dict[str, Any]:
    """Numbers of the board in the folder of a picture; those of the full run if it has none."""
    path = out / "results" / "board.json"
    return stored_results.numbers(path) if path.exists() else shown()


def array(kept: Any) -> np.ndarray:
    """Numbers that are stored as texts, those of the last axis in one."""
    if isinstance(kept, str):
        return np.array(kept.split(), dtype=float)
    return np.stack([array(part) for part in kept])


def cells(numbers: Mapping[str, Any], score: str) -> pd.DataFrame:
    """A score of each method (rows) in each cell (columns: problem, lam)."""
    columns = pd.MultiIndex.from_product([numbers["problems"], numbers["lams"]], names=KEYS)
    values = array(numbers["cells"][score]).reshape(len(numbers["methods"]), -1)
    return pd.DataFrame(values, index=numbers["methods"], columns=columns)


def means(numbers: Mapping[str, Any], score: str) -> pd.DataFrame:
    """A score of each method (rows) on each problem (columns), mean over weights and runs."""
    if score in numbers["cells"]:
        return cells(numbers, score).T.groupby(level="problem", sort=False).mean().T
    values = array(numbers["means"][score])
    return pd.DataFrame(values, index=numbers["methods"], columns=numbers["problems"])


def differences(numbers: Mapping[str, Any], baseline: str, score: str = "regret") -> pd.DataFrame:
    """Differences to a baseline in the long form: name, problem, difference, half_width, p."""
    kept = numbers["differences"][score][baseline]
    index = pd.MultiIndex.from_product(
        [numbers["methods"], numbers["problems"]], names=["name", "problem"]
    )
    table = {key: array(values).ravel() for key, values in kept.items()}
    return pd.DataFrame(table, index=index).reset_index()


def wins(numbers: Mapping[str, Any], baseline: str, score: str = "regret") -> pd.DataFrame:
    """On how many problems each method is significantly better and worse than a baseline."""
    tests = differences(numbers, baseline, score)
    clear = tests["p"] <= numbers["level"]
    counts = {
        "better": (clear & (tests["difference"] < 0)).groupby(tests["name"], sort=False).sum(),
        "worse": (clear & (tests["difference"] > 0)).groupby(tests["name"], sort=False).sum(),
    }
    return pd.DataFrame(counts)


def of_slot(numbers: Mapping[str, Any], slot: str) -> list[str]:
    """Names of the methods that fill one slot and no other, under the default schedule of it."""
    pairs = zip(numbers["methods"], numbers["slots"], strict=True)
    return [name for name, filled in pairs if filled == slot]
