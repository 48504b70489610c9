"""Boards of other scales than the convex one, as they are stored and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.arena.boards.board import compared, cost, draw_ranks, slots
from analysis.arena.stored import PAPER, means, texts
from analysis.dossier import lookup, stored_results, style
from tradeoff.arena.board import BASELINES, LEVEL, THIRD, Board
from tradeoff.arena.ranks import critical_difference, friedman, rank_table
from tradeoff.methods import find

AGAINST = (*BASELINES, "alright", "maxright")
"""Methods to which all others are compared."""
PER_CELL = ("regret", "front_gap", "sft_loss", "preference_loss")


def kept(found: Board, varies: Sequence[str], second: str) -> dict[str, Any]:
    """A board as it is stored: means in four digits, and comparisons.

    Parameters
    ----------
    found
        The board.
    varies
        In what each problem differs from the others.
    second
        Column with the regret on other rows than those of ``regret``.
    """
    methods, problems = list(found.regret.index), list(found.regret.columns)
    lams = sorted(found.runs["lam"].unique())
    place = pd.MultiIndex.from_product([methods, problems, lams])
    cells = found.cells.set_index(["name", "problem", "lam"]).loc[place]
    shape = (len(methods), len(problems), len(lams))
    third = [score for score in THIRD if score in found.runs and score != second]
    return {
        "methods": methods,
        "labels": [find(name).label for name in methods],
        "slots": [slots(name) for name in methods],
        "problems": problems,
        "varies": list(varies),
        "lams": lams,
        "replicas": int(found.runs["replica"].nunique()),
        "runs": len(found.runs),
        "training": cost(found.runs),
        "level": LEVEL,
        "at_edge": cells["at_edge"].groupby(level=0, sort=False).sum().tolist(),
        "cells": {s: texts(cells[s].to_numpy().reshape(shape)) for s in PER_CELL},
        "means": {
            name: texts(found.third(score).loc[methods, problems])
            for name, score in {"second_regret": second, **{s: s for s in third}}.items()
        },
        "coverage": texts(found.coverage.loc[methods, problems]),
        "half_width": texts(found.spread.loc[methods, problems]),
        "differences": {
            "regret": {
                name: compared(found, name, "regret")
                for name in AGAINST
                if name in found.regret.index
            }
        },
        "friedman_p": friedman(found.regret),
        "critical_difference": critical_difference(*found.regret.shape, level=LEVEL),
    }


def shown(name: str) -> dict[str, Any] | None:
    """Numbers of the stored full run of a board; None where there is none."""
    path = lookup.place(PAPER, name)
    return stored_results.numbers(path) if path.exists() else None


def draw(numbers: Mapping[str, Any], out: Path, name: str) -> None:
    """Rank of each method with its interval over the problems."""
    table = rank_table(means(numbers, "regret")).sort_values("rank", kind="stable")
    with style.figure(height=1.2 + 0.13 * len(table)) as (fig, ax):
        draw_ranks(ax, table, numbers["critical_difference"])
        style.save(fig, out, name)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What every caption says of a board's numbers."""
    p = numbers["friedman_p"]
    return {
        "problems": str(len(numbers["problems"])),
        "methods": str(len(numbers["methods"])),
        "difference": f"{numbers['critical_difference']:.1f} ranks",
        "p": _said(p),
        "replicas": str(numbers["replicas"]),
        "lams": ", ".join(f"{lam:g}" for lam in numbers["lams"]),
    }


def _said(p: float | None) -> str:
    """A p-value with its relation; too few methods or problems have none."""
    if p is None:
        return "unknown"
    return "< 0.001" if p < 1e-3 else f"= {p:.3f}"
