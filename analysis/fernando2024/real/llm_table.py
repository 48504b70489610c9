"""The paper's table on real text: a score of skill and a score of taste, by method and lambda."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.fernando2024.methods import METHODS, cell, cost, finals, labels
from analysis.fernando2024.real import llm_scores, llm_shown, llm_study
from analysis.fernando2024.real.llm_loss_space import part
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_study import LAM
from tradeoff.scores import Interval, interval

COLUMNS = ("sft_retention", "preference_accuracy")
CAPTION = (
    f"{llm_shown.about()} Left, in place of MMLU: share of the progress "
    "of SFT alone, whose spread is included. Right, in place of a judge: pairs that the implicit "
    "reward ranks correctly. 95 % intervals. Command: python -m analysis llm_table"
)
words = llm_shown.words


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_shown.numbers("llm_table", fast, measure)
    with style.figure(1, 2, height=4.6, sharey=True) as (fig, axes):
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
    lams = SCALES[scale].lams
    begin, best = llm_study.start(scale)[0], llm_study.least(scale)[0]
    rounds = [m for m in table["method"].unique() if m not in METHODS]

    def scores(method: str, weights: tuple[float, ...]) -> dict[str, Any]:
        runs = [part(table, method, lam) for lam in weights]
        return {
            column: [cell(score(one, column, begin, best)) for one in runs] for column in COLUMNS
        }

    return {
        "training": cost(table),
        "lambdas": lams,
        "seeds": SCALES[scale].seeds,
        "few": SCALES[scale].few,
        "specialists": SCALES[scale].specialists,
        "table": {method: scores(method, lams) for method in METHODS},
        "rounds": {method: scores(method, (LAM,)) for method in rounds},
    }


def score(runs: pd.DataFrame, column: str, begin: float, best: np.ndarray) -> Interval:
    """Mean of one score over seeds with its interval, in percent."""
    last = finals(runs).sort_values("seed")
    if column == "preference_accuracy":
        return interval(100 * last["preference_accuracy"].to_numpy())
    # The factor 100 gives the ratio in percent.
    gained, most = begin - last["sft_loss"].to_numpy(), begin - best
    return llm_scores.ratio(100 * gained, most)


def draw(ax: Axes, found: dict[str, Any], column: str) -> None:
    """Draw one score: one row per method, with lambda by position within the row."""
    rows = [(m, found["lambdas"], found["table"][m][column]) for m in METHODS]
    rows += [(m, [LAM], values[column]) for m, values in found["rounds"].items()]
    for row, (method, lams, cells) in enumerate(rows):
        look = style.look(method)
        for i, (lam, kept) in enumerate(zip(lams, cells, strict=True)):
            y = row + 0.28 * (i - (len(lams) - 1) / 2)
            ax.errorbar(kept["mean"], y, xerr=kept["half_width"], capsize=2, **look.dots())
            ax.annotate(
                f"λ {lam:g}", (kept["mean"], y), (4, 3), textcoords="offset points", fontsize=6
            )
    ax.set_yticks(range(len(rows)), labels(name for name, _, _ in rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
