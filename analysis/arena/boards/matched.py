"""Do losses of pairs differ once all have the problem's beta, and a weight means the same?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.arena import stored
from analysis.arena.boards.board import FULL, cost
from analysis.arena.stored import means, texts
from analysis.dossier import style
from tradeoff.arena.board import LEVEL, Board, board
from tradeoff.arena.instances import problem_of
from tradeoff.arena.matching import Match, equal_weight, matched
from tradeoff.checkout import WORK
from tradeoff.methods import find

CAPTION = (
    "Distance behind the front (left) and regret (right) less those of Mix, which trains DPO, for "
    "{losses} losses of pairs on three terms: with their own settings, with the beta of the "
    "problem, and with that at the weight at which the loss pulls as DPO does where the policy is "
    "the reference. Means over {problems} problems, with 95 % t-intervals over problems for the "
    "last; values beyond {limit} are drawn there. n = {replicas} replicas; what varies is the data "
    "drawn. Command: python -m analysis matched --paper arena."
)
FOLDER = WORK / "arena" / "matched"
TERMS: tuple[Match, ...] = ("beta", "weight")
SCORES = ("regret", "front_gap")
PER_PROBLEM = ("law_regret", "kl")
MARGIN = 0.01
"""Differences to DPO that do not count, in units of the front's ranges; set before the run."""
LIMIT = 0.15
FAST: dict[str, Any] = {
    "budget": 60.0, "replicas": 4, "lams": (0.25, 0.75), "backend": "sequential", "jobs": 1,
}  # fmt: skip
FAST_METHODS = ("mix", "sigmoid", "ipo", "slic")
FAST_PROBLEMS = ("middle", "unequal-scale")
LOOKS: dict[str, dict[str, Any]] = {
    "own": {"marker": ".", "color": "0.7"},
    "beta": {"marker": "o", "color": "C0", "markerfacecolor": "none", "markersize": 4},
    "weight": {"marker": "o", "color": "C1", "markersize": 3},
}
LABELS = {"own": "own settings", "beta": "problem's β", "weight": "and its pull"}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    names: tuple[str, ...]
    places: tuple[str, ...]
    settings: dict[str, Any]
    if fast:
        names, places, settings = FAST_METHODS, FAST_PROBLEMS, FAST
    else:
        names = ("mix", *stored.of_slot(stored.shown(), "preference"))
        places, settings = (), {**FULL, "progress": True}
    folder = FOLDER / "fast" if fast else FOLDER
    found = {
        match: board(names, places, folder=folder / match, match=match, **settings)
        for match in TERMS
    }  # fmt: skip
    numbers: dict[str, Any] = {
        "losses": described(names[1:], next(iter(found.values()))),
        **{match: kept(each, names) for match, each in found.items()},
        "training": cost(pd.concat([each.runs for each in found.values()])),
    }
    draw(numbers, out)
    return numbers


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    one = numbers["weight"]
    return {
        "losses": str(len(numbers["losses"])),
        "problems": str(len(one["problems"])),
        "replicas": str(one["replicas"]),
        "limit": f"{LIMIT:g}",
    }


# ---------------------------------------------------------------------- what is stored


def kept(found: Board, names: tuple[str, ...]) -> dict[str, Any]:
    """A board of losses as it is stored, in the form of the whole board."""
    problems, lams = list(found.regret.columns), sorted(found.runs["lam"].unique())
    every = list(names)
    place = pd.MultiIndex.from_product([every, problems, lams])
    cells = found.cells.set_index(["name", "problem", "lam"]).loc[place]
    shape = (len(names), len(problems), len(lams))
    return {
        "methods": every,
        "problems": problems,
        "lams": lams,
        "replicas": int(found.runs["replica"].nunique()),
        "runs": int(found.runs["name"].isin(names).sum()),
        "level": LEVEL,
        "at_edge": cells["at_edge"].groupby(level=0, sort=False).sum().tolist(),
        "cells": {score: texts(cells[score].to_numpy().reshape(shape)) for score in SCORES},
        "coverage": texts(found.coverage.loc[every, problems]),
        "means": {s: texts(found.third(s).loc[every, problems]) for s in PER_PROBLEM},
        "differences": {score: {"mix": compared(found, names, score)} for score in SCORES},
    }


def compared(found: Board, names: tuple[str, ...], score: str) -> dict[str, Any]:
    """Differences to Mix by loss and problem, corrected for all of them."""
    only = Board(found.runs[found.runs["name"].isin(names)])
    table = only.differences("mix", score).set_index(["name", "problem"])
    wide = table.unstack("problem").loc[list(names)]
    problems = list(found.regret.columns)
    return {key: texts(wide[key][problems]) for key in ("difference", "half_width", "p")}


def described(names: tuple[str, ...], found: Board) -> dict[str, dict[str, Any]]:
    """What each loss has of its own, what it has on the first problem, and its weight for 1/2."""
    problem = str(found.regret.columns[0])
    place, about = problem_of(problem), {}
    for name in names:
        own = find(name).preference
        other = matched(find(name), problem, 0.5, "beta").preference
        changed = {
            key: [value, other.to_dict()[key]]
            for key, value in own.to_dict().items()
            if other.to_dict()[key] != value
        }
        about[name] = {
            "label": find(name).label.removeprefix("Mix, "),
            "has_beta": sorted({"beta", "tau", "temperature"} & set(own.to_dict())),
            "changed": changed,
            "weight": round(equal_weight(place, other, 0.5), 4),
        }
    return about


# ---------------------------------------------------------------------- the picture


def draw(numbers: Mapping[str, Any], out: Path) -> None:
    last = less_mix(numbers["weight"], "front_gap")
    order = list(last.drop("mix").mean(axis=1).sort_values(kind="stable").index)
    boards: dict[str, Any] = {match: numbers[match] for match in TERMS}
    whole = stored.shown()
    if set(order) <= set(whole["methods"]):
        boards = {"own": whole, **boards}
    with style.figure(1, 2, height=1.4 + 0.14 * len(order)) as (fig, axes):
        for ax, score in zip(axes, ("front_gap", "regret"), strict=True):
            for kind, kept_board in boards.items():
                x = less_mix(kept_board, score).loc[order]
                mean = np.clip(x.mean(axis=1), -LIMIT, LIMIT)
                ax.plot(
                    mean, range(len(order)), linestyle="none", label=LABELS[kind], **LOOKS[kind]
                )
            half = interval_of(numbers["weight"], score).loc[order, "half"]
            ax.errorbar(mean, range(len(order)), xerr=half, fmt="none", ecolor="C1", linewidth=0.7)
            ax.axvline(0.0, color="0.4", linewidth=0.8)
            ax.set_yticks(range(len(order)), order, fontsize=6)
            ax.set(xlabel=f"{score.replace('_', ' ')} less that of Mix", ylim=(len(order), -1),
                   xlim=(-0.05, LIMIT + 0.01))  # fmt: skip
        axes[0].legend(fontsize=7)
        style.save(fig, out, "matched")


def less_mix(numbers: Mapping[str, Any], score: str) -> pd.DataFrame:
    """A score of each loss (rows) on each problem (columns) less that of Mix."""
    found = means(numbers, score)
    return found - found.loc["mix"]


def interval_of(numbers: Mapping[str, Any], score: str) -> pd.DataFrame:
    """Mean over problems of a score less that of Mix, and half of its 95 % t-interval."""
    from tradeoff.scores import interval

    table = less_mix(numbers, score)
    found = interval(table.to_numpy(), axis=1)
    return pd.DataFrame({"mean": found.mean, "half": found.high - found.mean}, index=table.index)
