"""One number of an evaluation with its interval, overall and by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tradeoff.scores import Interval, interval, wilson


@dataclass(frozen=True)
class Score:
    """A mean over rows.

    Attributes
    ----------
    name
        Name of the measure.
    value, low, high
        The mean and its 95 % interval; NaN for the interval of a single row.
    n
        Number of rows.
    group
        The rows of the mean: a subject, a skill, or ``"all"``.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    group: str = "all"

    @classmethod
    def of(cls, name: str, found: Interval, group: str = "all") -> Score:
        """A score from an interval of one mean."""
        ends = (float(found.mean), float(found.low), float(found.high))
        return cls(name, *ends, found.n, group)


def mean(name: str, values: Sequence[float] | np.ndarray, group: str = "all") -> Score:
    """A mean of real values with Student's interval."""
    return Score.of(name, interval(values), group)


def share(name: str, hits: Sequence[float] | np.ndarray, group: str = "all") -> Score:
    """A share of rows with Wilson's interval; a tie may count as a fraction."""
    return Score.of(name, wilson(float(np.sum(hits)), len(hits)), group)


def shares(
    name: str, hits: Sequence[float] | np.ndarray, groups: Sequence[str]
) -> tuple[Score, ...]:
    """The share over all rows, then that of each group in alphabetical order.

    Parameters
    ----------
    groups
        Group of each row; if there is only one group, only the share over all rows is given.
    """
    values, labels = np.asarray(hits, dtype=float), np.asarray(groups)
    names = sorted(set(groups))
    parts = [share(name, values[labels == label], label) for label in names]
    return (share(name, values), *(parts if len(names) > 1 else []))


def table(scores: Sequence[Score]) -> pd.DataFrame:
    """One row for each score."""
    columns = ["name", "group", "value", "low", "high", "n"]
    rows: list[dict[str, Any]] = [vars(score) for score in scores]
    return pd.DataFrame(rows, columns=columns)
