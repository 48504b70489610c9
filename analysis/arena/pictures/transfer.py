"""Do ranks of methods transfer across scales?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.arena import transfer
from analysis.arena.transfer import TITLES
from analysis.dossier import style
from tradeoff.methods import find

CAPTION = (
    "Left: Kendall's tau of the mean regrets of the methods on two scales; below it its 95 % "
    "bootstrap interval over methods, and their number; on the diagonal the mean tau between two "
    "problems of one scale. Right: ranks of the methods on the law behind the convex rows and on "
    "{other}. Networks and held-out text are scored on rows that no method trained on. What "
    "varies is the choice of methods. Command: python -m analysis transfer --paper arena."
)
LABELLED = ("sft-dpo", "dpo-sft", "mix", "alright", "maxright")
"""Methods that are drawn in their colours."""


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    tables = transfer.regrets(transfer.boards())
    numbers = {
        "scales": list(tables),
        "methods": {scale: len(table) for scale, table in tables.items()},
        "problems": {scale: table.shape[1] for scale, table in tables.items()},
        "within": {
            scale: transfer.within(table) for scale, table in tables.items() if table.shape[1] > 1
        },
        "between": pairs(tables),
        "without_preference": pairs(tables, "preference"),
        "everywhere": pairs(on_all(tables)),
        "other": next((s for s in ("policies", "text held out", "text") if s in tables), "rows"),
    }
    draw(out, numbers, tables)
    return numbers


def pairs(tables: Mapping[str, pd.DataFrame], without: str = "") -> list[dict[str, Any]]:
    """Agreement of each two scales."""
    return [
        {"first": one, "second": other}
        | asdict(transfer.between(tables[one], tables[other], without))
        for one, other in combinations(tables, 2)
    ]


def on_all(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of the methods that ran on every scale, so that pairs of scales compare."""
    every = list(tables.values())
    common = [name for name in every[0].index if all(name in table.index for table in every)]
    return {scale: table.loc[common] for scale, table in tables.items()}


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    return {"other": TITLES[numbers["other"]]}


# ---------------------------------------------------------------------- the picture


def draw(out: Path, numbers: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> None:
    with style.figure(1, 2, height=4.4, width_ratios=(1.8, 1)) as (fig, axes):
        draw_taus(axes[0], numbers)
        draw_ranks(axes[1], tables["law"], tables[numbers["other"]], TITLES[numbers["other"]])
        style.save(fig, out, "transfer")


def draw_taus(ax: Axes, numbers: Mapping[str, Any]) -> None:
    """A cell for each two scales; the upper triangle stays empty."""
    scales = numbers["scales"]
    values = np.full((len(scales), len(scales)), np.nan)
    for scale, tau in numbers["within"].items():
        at = scales.index(scale)
        values[at, at] = tau
        ax.text(at, at, f"{tau:.2f}", ha="center", va="center", fontsize=8, style="italic")
    for each in numbers["between"]:
        x, y = scales.index(each["first"]), scales.index(each["second"])
        values[y, x] = each["tau"]
        text = f"{each['tau']:.2f}\n{each['low']:.2f} to {each['high']:.2f}\nn = {each['n']}"
        ax.text(x, y, text, ha="center", va="center", fontsize=5.5)
    ax.imshow(values, vmin=-1, vmax=1, cmap="RdBu", alpha=0.6)
    names = [TITLES[scale] for scale in scales]
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.grid(False)


def draw_ranks(ax: Axes, first: pd.DataFrame, second: pd.DataFrame, title: str) -> None:
    """Ranks of the methods on both scales; those of the paper in their colours."""
    common = [name for name in first.index if name in second.index]
    x, y = (table.loc[common].mean(axis=1).rank() for table in (first, second))
    ax.plot(x, y, ".", color="0.5", markersize=4)
    for name in (each for each in LABELLED if each in common):
        label = find(name).label
        ax.plot(x[name], y[name], **style.look(label).dots(label=label))
    ax.set(xlabel="rank on the convex law", ylabel=f"rank on {title}")
    ax.legend(fontsize=6)
