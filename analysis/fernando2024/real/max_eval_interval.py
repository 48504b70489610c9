"""How often must MAXRIGHT evaluate its losses? Paths and costs by the interval k of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.fernando2024.methods import cell, cost, finals
from analysis.fernando2024.real import llm_shown, llm_study
from analysis.fernando2024.real.llm_loss_space import ends, path
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_study import LAM, LOSSES
from tradeoff.scores import interval, max_gap

SHADES = ("#000000", "#009E73", "#E69F00", "#CC79A7")
MARKERS = ("<", ">", "d", "x")
LINES: tuple[Any, ...] = ("-", (0, (7, 2)), (0, (3, 1)), (0, (1, 1)))
CAPTION = (
    f"{llm_shown.about()} λ = {LAM:g}; MAXRIGHT evaluates "
    f"{llm_study.PROBES} rows per objective every k updates (largest k: once): "
    "{spent} % of the budget. Left: mean paths, single ends. Right: larger weighted gap, 95 % "
    "t-intervals. Command: python -m analysis max_eval_interval"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields: number of seeds, and cost spent at each interval."""
    spent = ", ".join(f"{100 * share:.0f}" for share in numbers["spent"])
    return llm_shown.words(numbers) | {"spent": spent}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_shown.numbers("max_eval_interval", fast, measure)
    with style.figure(1, 2, height=3.0) as (fig, (plane, looks)):
        draw_paths(plane, found)
        draw_cost(looks, found)
        style.save(fig, out, "max_eval_interval")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Paths, ends, gaps and costs by interval."""
    size = SCALES[scale]
    runs = [
        c
        for refresh in size.intervals
        for c in llm_study.seeded(
            scale, "maxright", llm_study.schedule("maxright", LAM, refresh=refresh), size.few
        )
    ]
    table = llm_study.run(scale, runs)
    groups = [table[table["run"] // size.few == i] for i in range(len(size.intervals))]
    ideal = llm_study.ideal(scale)
    return {
        "training": cost(table),
        "intervals": size.intervals,
        "updates": [float(finals(group)["step"].mean()) for group in groups],
        "seeds": size.few,
        "ideal": ideal,
        "start": llm_study.start(scale),
        "paths": [path(group) for group in groups],
        "ends": [ends(group).tolist() for group in groups],
        "gap": [cell(interval(max_gap(ends(g), np.array(ideal), LAM))) for g in groups],
        "spent": [float(finals(group)["spent"].mean()) for group in groups],
        "probed_per_update": [probed(group) for group in groups],
        "swing": [cell(interval(swing(group))) for group in groups],
    }


def probed(runs: pd.DataFrame) -> float:
    """Evaluated rows per update, which are not trained on."""
    last = finals(runs)
    return float((last["probe_rows"] / last["step"]).mean())


def swing(runs: pd.DataFrame) -> np.ndarray:
    """Length of each run's path over the second half of training, in nats."""
    lengths = []
    for _, one in runs.groupby("run"):
        losses = one[LOSSES].to_numpy()
        steps = np.diff(losses[len(losses) // 2 :], axis=0)
        lengths.append(np.linalg.norm(steps, axis=1).sum())
    return np.array(lengths)


def name(k: int, intervals: Sequence[int]) -> str:
    """Name of an interval in the legend. The largest is longer than a run."""
    return f"k = {k}, once" if k == max(intervals) else f"k = {k}"


def draw_paths(ax: Axes, found: dict[str, Any]) -> None:
    for i, k in enumerate(found["intervals"]):
        line = np.array(found["paths"][i])
        look = style.Look(SHADES[i], MARKERS[i], LINES[i])
        ax.plot(*line.T, **look.line_style(markevery=[-1], label=name(k, found["intervals"])))
        ax.plot(*np.array(found["ends"][i]).T, **look.dots(markersize=3.5, alpha=0.5))
    ax.plot(*found["ideal"], **style.IDEAL, label="ideal point")
    ax.set(
        title="Paths by interval",
        xlabel="SFT loss (nats per token)",
        ylabel="preference loss (nats)",
    )
    ax.legend(fontsize=8, handlelength=3)


def draw_cost(ax: Axes, found: dict[str, Any]) -> None:
    ax.margins(y=0.1)
    for i, k in enumerate(found["intervals"]):
        mean, half = found["gap"][i].values()
        x = found["probed_per_update"][i]
        ax.errorbar(x, mean, half, fmt=MARKERS[i], color=SHADES[i], capsize=3)
        end = (x, mean + half)
        ax.annotate(
            name(k, found["intervals"]),
            end,
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    ax.set(
        title="Gap by rows evaluated",
        xscale="log",
        xlim=(0.4 * min(found["probed_per_update"]), 2 * max(found["probed_per_update"])),
        xlabel="rows evaluated per update",
        ylabel="larger weighted gap (nats)",
    )
