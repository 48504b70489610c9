"""The paper's bars on real text, drawn as dots: both gaps and the distance to the ideal point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.fernando2024.methods import cell, cost, finals, labels
from analysis.fernando2024.real import llm_scores, llm_shown, llm_study
from analysis.fernando2024.real.llm_loss_space import ends, part
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_study import LAM, LOSSES
from tradeoff.scores import front_gap, ideal_distance, interval, regret, weighted_loss

MEASURES = {
    "preference_gap": "preference gap (nats)",
    "sft_gap": "SFT gap (nats)",
    "ideal_distance": "distance to ideal point (nats)",
}
CAPTION = (
    f"{llm_shown.about()} λ = {LAM:g}. Gaps are relative to runs on one objective, whose "
    "spread counts. They may be negative, as other runs may generalise better. Small dots: single "
    "runs; large: means with 95 % intervals. Command: python -m analysis llm_bars"
)
words = llm_shown.words


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_shown.numbers("llm_bars", fast, measure)
    with style.figure(1, len(MEASURES), height=2.9, sharey=True) as (fig, axes):
        for ax, (name, title) in zip(axes, MEASURES.items(), strict=True):
            draw(ax, found, name)
            ax.set_xlabel(title)
        style.save(fig, out, "llm_bars")
    return found


def draw(ax: Axes, found: dict[str, Any], name: str) -> None:
    """Draw one measure, with one row per method."""
    methods = list(found["values"])
    for row, method in enumerate(methods):
        look, values = style.look(method), np.array(found["values"][method][name])
        mean, half = found["bars"][method][name].values()
        ax.plot(values, np.full(len(values), row + 0.22), **look.dots(markersize=3, alpha=0.5))
        ax.errorbar(mean, row, xerr=half, capsize=3, **look.dots(markersize=7))
    ax.axvline(0, **style.BOUND)
    ax.set_yticks(range(len(methods)), labels(methods))
    ax.set_ylim(len(methods) - 0.5, -0.5)


def measure(scale: str) -> dict[str, Any]:
    """Every measure of every seed, with its interval. Regret and front gap are in ranges.

    Regret is f_lambda at weight 1/2 less the lowest value of any run of this comparison. The front
    gap is the same difference at the weight that suits the run best.
    """
    table = llm_study.run(scale, llm_study.comparison(scale))
    begin, least = np.array(llm_study.start(scale)), llm_study.least(scale)
    ideal = np.array([values.mean() for values in least])
    weights = np.linspace(0, 1, 101)
    reached = finals(table)[LOSSES].to_numpy()
    lowest = np.array([weighted_loss(reached, lam).min() for lam in weights])
    ranges, values, bars = begin - ideal, {}, {}
    names = list(dict.fromkeys(table[table["lam"] == LAM]["method"]))
    for method in names:
        losses = ends(part(table, method, LAM))
        values[method] = {
            "preference_gap": losses[:, 1] - ideal[1],
            "sft_gap": losses[:, 0] - ideal[0],
            "ideal_distance": ideal_distance(losses, ideal),
            "regret": regret(losses, LAM, weighted_loss(reached, LAM).min(), ranges),
            "front_gap": front_gap(losses, weights, lowest, ranges)[0],
        }
        cells = {name: cell(interval(v)) for name, v in values[method].items()}
        bars[method] = cells | llm_scores.gaps(losses, least)
    return {
        "training": cost(table),
        "seeds": SCALES[scale].seeds,
        "values": values,
        "bars": bars,
    }
