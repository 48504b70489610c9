"""Comparisons of methods on the stored board, as claims make them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.arena.stored import cells, means, shown, wins
from analysis.dossier.evidence import MOST, equivalent, holds_on
from analysis.dossier.mutations import SWAPPED, mutate
from tradeoff.theory.checked import Checked

ITSELF = "itself"
"""Each method is compared with itself."""


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
        "swapped-roles" or "itself"; None for the claim.
    score
        "regret" or "front_gap".
    at_least
        Share of the cells, for the low end of its interval.
    lams
        Weights that count; all by default.
    """
    table = cells(shown(), score)
    if lams is not None:
        table = table.loc[:, table.columns.get_level_values("lam").isin(lams)]
    found = []
    for name in [first] if isinstance(first, str) else first:
        pair = mutate(mutation, (name, second), {SWAPPED: (second, name), ITSELF: (name, name)})
        found.append(holds_on((table.loc[pair[0]] < table.loc[pair[1]]).to_numpy(), at_least))
    lows = np.array([np.asarray(each.measured).item() for each in found])
    shares = [each.constants["share"] for each in found]
    kept = {"share": min(shares), "n": found[0].constants["n"]}
    return Checked(lows, np.full(len(lows), at_least), "lower", kept, 0.0)


def more(
    first: str | Sequence[str], second: str, *, mutation: str | None, score: str = "regret",
    at_least: float = MOST, lams: Sequence[float] | None = None,
) -> Checked:  # fmt: skip
    """That each of the first methods has more of a score, likewise."""
    if isinstance(first, str):
        return less(second, first, mutation=mutation, score=score, at_least=at_least, lams=lams)
    found = [
        less(second, name, mutation=mutation, score=score, at_least=at_least, lams=lams)
        for name in first
    ]
    lows = np.concatenate([np.atleast_1d(each.measured) for each in found])
    kept = {"share": min(each.constants["share"] for each in found)}
    return Checked(lows, np.full(len(lows), at_least), "lower", kept, 0.0)


def level(first: str, second: str, margin: float, score: str = "regret") -> Checked:
    """That two methods differ by less than a margin in the mean over problems."""
    table = means(shown(), score)
    return equivalent((table.loc[first] - table.loc[second]).to_numpy(), margin)


def most_wins(names: Sequence[str], baseline: str, at_most: int, score: str = "regret") -> Checked:
    """That none of some methods is significantly better than a baseline on more problems."""
    counts = wins(shown(), baseline, score).loc[list(names), "better"]
    return Checked(float(counts.max()), float(at_most), "upper", {"methods": len(counts)}, 0.0)
