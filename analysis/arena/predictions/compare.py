"""Comparisons of methods on the stored board, as claims make them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.arena.stored import cells, means, of_slot, shown, wins
from analysis.dossier.evidence import MOST, equivalent, holds_on_units
from analysis.dossier.mutations import SWAPPED, mutate, swapped
from tradeoff.arena.instances import SUITE
from tradeoff.theory.checked import Checked

HALF = len(SUITE) // 2
"""At most half of the problems."""


def less(
    first: str | Sequence[str],
    second: str,
    *,
    mutation: str | None,
    score: str = "regret",
    at_least: float = MOST,
    lams: Sequence[float] | None = None,
) -> Checked:
    """That each of the first methods has less of a score than the second one on enough cells.

    Parameters
    ----------
    first, second
        Names on the board.
    mutation
        "swapped-roles"; None for the claim.
    score
        "regret" or "front_gap".
    at_least
        Share of the cells of a problem that it needs in order to count.
    lams
        Weights that count; all by default.
    """
    pairs = [(name, second) for name in _listed(first)]
    return _each(pairs, mutation, score, at_least, lams)


def more(
    first: str | Sequence[str],
    second: str,
    *,
    mutation: str | None,
    score: str = "regret",
    at_least: float = MOST,
    lams: Sequence[float] | None = None,
) -> Checked:
    """That each of the first methods has more of a score, likewise."""
    pairs = [(second, name) for name in _listed(first)]
    return _each(pairs, mutation, score, at_least, lams)


def level(first: str, second: str, margin: float, score: str = "regret") -> Checked:
    """That two methods differ by less than a margin in the mean over problems."""
    table = means(shown(), score)
    return equivalent((table.loc[first] - table.loc[second]).to_numpy(), margin)


def most_wins(slot: str, baseline: str, at_most: int, score: str = "regret") -> Checked:
    """That no method of a slot is significantly better than a baseline on more problems."""
    numbers = shown()
    counts = wins(numbers, baseline, score).loc[of_slot(numbers, slot), "better"]
    return Checked(float(counts.max()), float(at_most), "upper", {"methods": len(counts)}, 0.0)


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _each(
    pairs: Sequence[tuple[str, str]],
    mutation: str | None,
    score: str,
    at_least: float,
    lams: Sequence[float] | None,
) -> Checked:
    """That the first method of each pair has less of a score than the second on enough cells."""
    table = cells(shown(), score)
    if lams is not None:
        table = table.loc[:, table.columns.get_level_values("lam").isin(lams)]
    pairs = mutate(mutation, pairs, {SWAPPED: [swapped(pair) for pair in pairs]})
    return all_of([on_problems(pd.Series(table.loc[x] < table.loc[y]), at_least) for x, y in pairs])


def on_problems(held: pd.Series, at_least: float = MOST) -> Checked:
    """That something holds on most problems, of truth values by problem and weight."""
    return holds_on_units(held.unstack("problem", sort=False).T.to_numpy(), at_least)


def all_of(found: Sequence[Checked]) -> Checked:
    """Several findings of shares as one, with the constants of the weakest."""
    weakest = min(
        found, key=lambda each: (float(np.asarray(each.measured)), each.constants["share"])
    )
    measured, bounds = (
        np.array([float(getattr(each, name)) for each in found]) for name in ("measured", "bound")
    )
    return Checked(measured, bounds, "lower", dict(weakest.constants), 0.0)
