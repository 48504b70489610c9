"""The paper's table on real text: a score of skill and a score of taste, by method and lambda."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import llm_study, style
from analysis.llm_loss_space import part
from analysis.methods import METHODS, cell, cost, finals
from tradeoff.scores import interval, retention

COLUMNS = ("sft_retention", "preference_accuracy")
CAPTION = (
    f"{llm_study.about('full')} In place of MMLU, on which so small a model stays at chance: the "
    "share of the SFT optimum's progress on held-out SFT loss that a run reaches, in percent. In "
    "place of the win rate by a judge: the share of held-out pairs whose chosen response the "
    "implicit reward prefers, in percent. Means with 95 % t-intervals. "
    "Command: python -m analysis llm_table"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_study.numbers("llm_table", fast, measure)
    with style.figure(1, 2, height=3.9, sharey=True) as (fig, axes):
        for ax, column, title in zip(
            axes, COLUMNS, ("SFT progress kept (%)", "pairs preferred as chosen (%)"), strict=True
        ):
            draw(ax, found, column)
            ax.set_xlabel(title)
        style.save(fig, out, "llm_table")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Mean and half width of both scores, by method and in order of lambda."""
    table = llm_study.run(scale, llm_study.comparison(scale))
    lams = llm_study.SCALES[scale].lams
    begin, best = llm_study.start(scale)[0], llm_study.ideal(scale)[0]
    return {
        "training": cost(table),
        "lambdas": lams,
        "seeds": llm_study.SCALES[scale].seeds,
        "table": {
            method: {
                column: [
                    cell(interval(score(part(table, method, lam), column, begin, best)))
                    for lam in lams
                ]
                for column in COLUMNS
            }
            for method in METHODS
        },
    }


def score(runs: pd.DataFrame, column: str, begin: float, best: float) -> np.ndarray:
    """One score of every seed, in percent."""
    last = finals(runs).sort_values("seed")
    if column == "preference_accuracy":
        return 100 * last["preference_accuracy"].to_numpy()
    losses = last["sft_loss"].to_numpy()
    return 100 * retention(np.full(len(losses), best), losses, np.full(len(losses), begin))


def draw(ax: Axes, found: dict[str, Any], column: str) -> None:
    """One score: methods from top to bottom, lambda by the place within a method."""
    lams = found["lambdas"]
    for row, method in enumerate(METHODS):
        look = style.look(method)
        for i, lam in enumerate(lams):
            mean, half = found["table"][method][column][i].values()
            y = row + 0.28 * (i - (len(lams) - 1) / 2)
            ax.errorbar(mean, y, xerr=half, capsize=2, **look.dots())
            ax.annotate(
                f"λ {lam:g}", (mean, y), xytext=(4, 3), textcoords="offset points", fontsize=6
            )
    ax.set_yticks(range(len(METHODS)), METHODS)
    ax.set_ylim(len(METHODS) - 0.5, -0.5)
