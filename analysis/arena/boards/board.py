"""Which methods come nearest to the best trade-off at equal cost?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.arena.stored import means, texts
from analysis.dossier import style
from tradeoff.arena.board import BASELINES, LEVEL, Board, board
from tradeoff.arena.contenders import contenders, left_out
from tradeoff.arena.instances import SUITE, front
from tradeoff.arena.ranks import critical_difference, friedman, rank_table
from tradeoff.checkout import WORK
from tradeoff.methods import find, names

CAPTION = (
    "Mean rank by regret over {problems} problems, with 95 % t-intervals over problems (1 is best "
    "of {methods} methods); the bar is Nemenyi's critical difference at 5 % for all pairs, "
    "{difference}. Friedman's test that all methods are level: p {p}. Every run costs {budget} "
    "gradients, steps are tuned for each method, problem and weight; n = {replicas} replicas; what "
    "varies is the data drawn. Command: python -m analysis board --paper arena."
)
FOLDER = WORK / "arena"
AGAINST = (*BASELINES, "alright", "maxright")
"""Methods to which all others are compared."""
PER_CELL = ("regret", "front_gap", "sft_loss", "preference_loss")
PER_PROBLEM = ("law_regret", "kl", "lost", "flips", "calibration")
FULL: dict[str, Any] = {"budget": 500.0, "replicas": 32}
FAST: dict[str, Any] = {
    "budget": 60.0, "replicas": 4, "lams": (0.25, 0.75), "backend": "sequential", "jobs": 1,
}  # fmt: skip
FAST_METHODS = ("alright", "maxright", "pcgrad", "ipo", "soup")
FAST_PROBLEMS = ("middle", "boundary")
POINTS = 24
"""Points of each front that are stored."""


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    if fast:
        found = board(FAST_METHODS, FAST_PROBLEMS, folder=FOLDER / "fast", **FAST)
    else:
        found = board(folder=FOLDER / "full", progress=True, **FULL)
    numbers = kept(found) | {"budget": (FAST if fast else FULL)["budget"]}
    draw(numbers, out)
    return numbers


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    p = numbers["friedman_p"]
    return {
        "problems": str(len(numbers["problems"])),
        "methods": str(len(numbers["methods"])),
        "difference": f"{numbers['critical_difference']:.1f} ranks",
        "p": "< 0.001" if p < 1e-3 else f"= {p:.3f}",
        "budget": f"{numbers['budget']:g}",
        "replicas": str(numbers["replicas"]),
    }


# ---------------------------------------------------------------------- what is stored


def kept(found: Board) -> dict[str, Any]:
    """The board as it is stored: means in four digits, comparisons and fronts."""
    methods, problems = list(found.regret.index), list(found.regret.columns)
    lams = sorted(found.runs["lam"].unique())
    place = pd.MultiIndex.from_product([methods, problems, lams])
    cells = found.cells.set_index(["name", "problem", "lam"]).loc[place]
    shape = (len(methods), len(problems), len(lams))
    parts = {name: find(name) for name in methods}
    return {
        "methods": methods,
        "labels": [parts[name].label for name in methods],
        "slots": [slots(name) for name in methods],
        "problems": problems,
        "varies": [SUITE[name].varies for name in problems],
        "lams": lams,
        "replicas": int(found.runs["replica"].nunique()),
        "runs": len(found.runs),
        "training": cost(found.runs),
        "level": LEVEL,
        "gradients_per_update": gradients(found),
        "at_edge": cells["at_edge"].groupby(level=0, sort=False).sum().tolist(),
        "cells": {s: texts(cells[s].to_numpy().reshape(shape)) for s in PER_CELL},
        "means": {s: texts(found.third(s).loc[methods, problems]) for s in PER_PROBLEM},
        "coverage": texts(found.coverage.loc[methods, problems]),
        "half_width": texts(found.spread.loc[methods, problems]),
        "differences": {
            score: {name: compared(found, name, score) for name in AGAINST}
            for score in ("regret", "front_gap")
        },
        "fronts": {name: texts(points(name), 6) for name in problems},
        "friedman_p": friedman(found.regret),
        "critical_difference": critical_difference(*found.regret.shape, level=LEVEL),
        "left_out": {name: why for name in names() if (why := left_out(name)) is not None},
    }


def slots(name: str) -> str:
    """The slots that a method fills, or "schedule"."""
    return ", ".join(find(name).changed()) or "schedule"


def gradients(found: Board) -> list[float]:
    """Gradients that an update costs, looks included, by method."""
    updates = found.cells.groupby("name", sort=False)["updates"].mean()
    return [round(float(2 * updates["mix"] / updates[name]), 3) for name in found.regret.index]


def cost(runs: pd.DataFrame) -> dict[str, float]:
    """How many runs there are, and the processor time of all cells, tuning included."""
    cells = runs.groupby(["name", "problem", "lam"])["cpu_seconds"].first()
    return {"runs": len(runs), "cpu_seconds": round(float(cells.sum()), 1)}


def compared(found: Board, baseline: str, score: str) -> dict[str, Any]:
    """Differences to a baseline by method and problem."""
    table = found.differences(baseline, score)
    shape = found.regret.shape
    columns = ("difference", "half_width", "p")
    return {key: texts(table[key].to_numpy().reshape(shape)) for key in columns}


def points(problem: str) -> np.ndarray:
    """Points of a certified front, from one end to the other."""
    every = front(problem).points
    return every[np.linspace(0, len(every) - 1, min(POINTS, len(every))).round().astype(int)]


# ---------------------------------------------------------------------- the picture


def draw(numbers: Mapping[str, Any], out: Path) -> None:
    table = rank_table(means(numbers, "regret")).sort_values("rank", kind="stable")
    with style.figure(height=1.2 + 0.13 * len(table)) as (fig, ax):
        draw_ranks(ax, table, numbers["critical_difference"])
        style.save(fig, out, "board")


def draw_ranks(ax: Axes, table: pd.DataFrame, difference: float) -> None:
    """Rank of each method with its interval, the best on top; methods of the paper in colour."""
    known = contenders(AGAINST)
    for row, (name, place) in enumerate(table.iterrows()):
        label = known[str(name)].label if name in known else ""
        look = style.look(label)
        ends = place["rank_low"], place["rank_high"]
        ax.plot(ends, (row, row), color=look.color, linewidth=1)
        ax.plot(place["rank"], row, color=look.color, marker=look.marker, linestyle="none")
    best = float(table["rank"].iloc[0])
    ax.plot((best, best + difference), (-1.5, -1.5), color="0.1", linewidth=3)
    ax.text(best, -2.0, "critical difference", fontsize=7, va="bottom")
    ax.set_yticks(range(len(table)), list(table.index), fontsize=6)
    ax.set(xlabel="rank by regret (1 is best)", ylim=(len(table) - 0.5, -4.5))
