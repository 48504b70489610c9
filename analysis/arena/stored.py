"""The stored full run of the board, which pictures, tables and claims read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.dossier import lookup, stored_results
from tradeoff.arena import ranks
from tradeoff.checkout import ROOT

PAPER = ROOT / "papers" / "arena"
KEYS = ["problem", "lam"]
PROBLEMS = ("middle", "opposed", "noisy", "boundary")
"""Problems on which the families of methods are drawn."""
LIMIT = 1.1
"""Losses beyond this are not drawn, in units of the front's ranges."""


def shown() -> dict[str, Any]:
    """Numbers of the stored full run, see :mod:`analysis.dossier.lookup`."""
    return of("board")


def of(name: str) -> dict[str, Any]:
    """Numbers of the stored run of a figure."""
    return stored_results.numbers(lookup.place(PAPER, name))


def beside(out: Path, fast: bool, name: str = "board") -> dict[str, Any]:
    """Numbers of the board that a picture shows: in its fast form those of the folder, if any."""
    path = out / "results" / f"{name}.json"
    return stored_results.numbers(path) if fast and path.exists() else of(name)


def texts(values: Any, digits: int = 4) -> Any:
    """Numbers with so many significant digits; those of the last axis as one text.

    There are some ten thousand, which would take a line each.
    """
    every = np.asarray(values, dtype=float)
    if every.ndim == 1:
        return " ".join(f"{value:.{digits}g}" for value in every)
    return [texts(part, digits) for part in every]


def array(kept: Any) -> np.ndarray:
    """Numbers that are stored as :func:`texts`."""
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
    kept = {**numbers["means"], "coverage": numbers["coverage"]}
    values = array(kept[score])
    return pd.DataFrame(values, index=numbers["methods"], columns=numbers["problems"])


def family(numbers: Mapping[str, Any], problem: str) -> tuple[np.ndarray, np.ndarray]:
    """The certified front of a problem (n, 2), and the ends of all runs (methods, lams, 2).

    Losses are in units of the front's ranges, so that (0, 0) is the ideal point; ends are means
    over replicas.
    """
    front, at = array(numbers["fronts"][problem]), numbers["problems"].index(problem)
    ideal, ranges = front.min(axis=0), np.ptp(front, axis=0)
    ends = [
        array([of_method[at] for of_method in numbers["cells"][score]])
        for score in ("sft_loss", "preference_loss")
    ]
    return (front - ideal) / ranges, (np.stack(ends, axis=-1) - ideal) / ranges


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
    return ranks.wins(differences(numbers, baseline, score), numbers["level"])


def of_slot(numbers: Mapping[str, Any], slot: str) -> list[str]:
    """Names of the methods that fill one slot and no other, under the default schedule of it."""
    pairs = zip(numbers["methods"], numbers["slots"], strict=True)
    return [name for name, filled in pairs if filled == slot]
