"""Places on a board: ranks with intervals, and differences with a correction for their number."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tradeoff.scores import interval

Array = NDArray[np.float64]


def ranks(values: pd.DataFrame) -> pd.DataFrame:
    """Rank of each method in each column, 1 for the least value; equal values share their mean."""
    return values.rank(axis=0, method="average")


def rank_table(values: pd.DataFrame) -> pd.DataFrame:
    """Mean rank over problems, with its 95 % t-interval within the ranks that there are.

    Parameters
    ----------
    values
        One row a method, one column a problem; less is better.
    """
    found = interval(ranks(values).to_numpy(), axis=1)
    low, high = np.clip(found.low, 1, len(values)), np.clip(found.high, 1, len(values))
    columns = {"rank": found.mean, "rank_low": low, "rank_high": high}
    return pd.DataFrame(columns, index=values.index)


def friedman(values: pd.DataFrame) -> float:
    """p-value of Friedman's test that all methods have the same ranks over the problems.

    Parameters
    ----------
    values
        One row a method, one column a problem; less is better. NaN for fewer than two problems or
        three methods.

    Notes
    -----
    Friedman (1937), with the correction for ties.
    """
    from scipy.stats import friedmanchisquare

    if values.shape[0] < 3 or values.shape[1] < 2:
        return float("nan")
    return float(friedmanchisquare(*values.to_numpy()).pvalue)


def critical_difference(methods: int, problems: int, level: float = 0.05) -> float:
    """Difference of mean ranks from which on two methods differ, of all pairs compared at once.

    Parameters
    ----------
    methods, problems
        How many are ranked, and over how many problems.
    level
        Probability of any false difference.

    Notes
    -----
    Nemenyi's test, as in Demsar (2006), equation (2): ``q sqrt(k (k + 1) / (6 n))`` where q is
    the quantile of the studentized range over sqrt(2).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    z = np.linspace(-9, 9, 4001)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)

    def missed(q: float) -> float:
        """By how much the range of so many normal numbers stays within q too rarely."""
        inside = np.trapezoid(density * (ndtr(z) - ndtr(z - q)) ** (methods - 1), z)
        return float(1 - level - methods * inside)

    quantile = brentq(missed, 1e-3, 30.0) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * problems)))


def paired_p(differences: ArrayLike) -> float:
    """Two-sided p-value of a paired t-test; 1 where all differences are zero, NaN for only one."""
    from scipy.special import stdtr

    sample = np.asarray(differences, dtype=float)
    if len(sample) < 2:
        return float("nan")
    spread = float(sample.std(ddof=1))
    if spread == 0:
        return 1.0 if sample.mean() == 0 else 0.0
    t = float(sample.mean()) / (spread / np.sqrt(len(sample)))
    return float(2 * stdtr(len(sample) - 1, -abs(t)))


def wins(tests: pd.DataFrame, level: float) -> pd.DataFrame:
    """On how many problems each method is significantly better and worse than a baseline.

    Parameters
    ----------
    tests
        Of :meth:`tradeoff.arena.Board.differences`: name, problem, difference, p.
    level
        A difference counts if its corrected p is at most this.

    Returns
    -------
    DataFrame
        better and worse, one row a method in the order of the tests. The p of the baseline itself
        is NaN, so that it has none.
    """
    clear, sign = tests["p"] <= level, np.sign(tests["difference"])
    sides = {"better": clear & (sign < 0), "worse": clear & (sign > 0)}
    return pd.DataFrame(sides).groupby(tests["name"], sort=False).sum()


def order(values: Array) -> Array:
    """(n, n) sign of each value less each other one, also of infinite ones; NaN of NaN."""
    with np.errstate(invalid="ignore"):
        apart = np.subtract.outer(values, values)
    level = np.equal.outer(values, values)
    return np.sign(np.where(level, 0.0, apart))


def kendall(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's tau-b between two orders of the same methods; NaN where one of them is constant."""
    a, b = (order(np.asarray(v, dtype=float)) for v in (first, second))
    above = np.triu_indices(len(a), 1)
    a, b = a[above], b[above]
    scale = np.sqrt(float(np.sum(a != 0)) * float(np.sum(b != 0)))
    return float(np.sum(a * b) / scale) if scale > 0 else float("nan")
