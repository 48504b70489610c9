"""Whether two scores order the same methods alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tradeoff.arena.ranks import kendall, order
from tradeoff.errors import InputError

FEWEST = 3
"""Methods below which there is no order to compare."""


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between two orders of methods.

    Attributes
    ----------
    tau
        1 for one order, 0 for unrelated ones, -1 for opposite ones.
    low, high
        Ends of its 95 % bootstrap interval over methods.
    n
        Number of methods.
    """

    tau: float
    low: float
    high: float
    n: int


def agreement(
    first: pd.Series, second: pd.Series, *, draws: int = 2000, seed: int = 0
) -> Agreement:
    """Kendall's tau between two scores of methods, with its interval.

    Parameters
    ----------
    first, second
        Scores by name of the method; only methods that both have count. NaN is no score.
    draws, seed
        Samples of methods, drawn with replacement, and the seed of the draws.

    Raises
    ------
    InputError
        If fewer than three methods have both scores.

    Notes
    -----
    The interval is from the 2.5 % to the 97.5 % quantile of tau over the samples. A method that a
    sample has twice is level with itself, and tau-b leaves such pairs out. The interval says what
    another choice of methods could give; it does not hold the noise of the scores.
    """
    first, second = first.dropna(), second.dropna()
    common = [name for name in first.index if name in second.index]
    if len(common) < FEWEST:
        raise InputError(
            "too few methods have both scores",
            field="second",
            value=len(common),
            remedy=f"Give scores of at least {FEWEST} methods in common.",
        )
    pair = [each.loc[common].to_numpy(dtype=float) for each in (first, second)]
    one, other = (order(score) for score in pair)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(draws * [len(common)], np.full(len(common), 1 / len(common)))
    # A method that is drawn c times counts c times, so that pairs count by the product.
    both, left, right = (
        np.einsum("kn,nm,km->k", drawn, signs, drawn, optimize=True)
        for signs in (one * other, abs(one), abs(other))
    )
    with np.errstate(invalid="ignore"):
        found = both / np.sqrt(left * right)
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [0.025, 0.975]) if len(found) else (np.nan, np.nan)
    return Agreement(kendall(*pair), float(low), float(high), len(common))
