"""Where do the methods end when a language model is trained, at equal compute?

Above: held-out losses of every run, and what a reader of the responses sees. Below: paired
differences in the weighted loss, joint minus sequential, for both orders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import lm_study, style
from analysis.lm_models import SCALES
from analysis.lm_study import values
from analysis.methods import JOINT, METHODS, cell, cost
from tradeoff.plots import label_lines
from tradeoff.scores import interval, paired_difference

LAMBDAS = (0.5, 0.75)
MEASURES = (
    "sft_loss",
    "preference_loss",
    "weighted_loss",
    "preference_accuracy",
    "exact_match",
    "answer_match",
    "preference_match",
)
CAPTION = (
    "Where do the methods end at equal cost? Tiny language model, conflict 1/2, tuned step sizes; "
    "λ is sequential training's share of preference updates. Above: runs, and means with 95 % "
    "t-intervals, joined in order of λ; held out. Dashed: exact match and style cannot sum to "
    "more than 1.5. Below: differences in λ × preference + (1 - λ) × SFT loss, paired by seed. "
    "What varies is the seed, n = 10. Command: python -m analysis lm_loss_space"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = ends(scale)
    with style.figure(2, 2, height=4.5) as (fig, axes):
        (losses, behaviour), (forward, backward) = axes
        draw_plane(losses, table, "sft_loss", "preference_loss")
        losses.set(
            title="Losses of every run",
            xscale="log",
            yscale="log",
            xlabel="SFT loss (nats per token)",
            ylabel="preference loss (nats)",
        )
        losses.legend(loc="lower left", handlelength=3.2)
        draw_plane(behaviour, table, "preference_match", "exact_match")
        draw_ceiling(behaviour)
        draw_differences(forward, table, "SFT→DPO")
        draw_differences(backward, table, "DPO→SFT")
        forward.set_title("Weighted loss less that of SFT→DPO")
        backward.set_title("Weighted loss less that of DPO→SFT")
        style.save(fig, out, "lm_loss_space")
    return {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "spent": lm_study.cost_spent(table),
        "gradients": SCALES[scale].gradients,
        "lambdas": LAMBDAS,
        "methods": summaries(table),
        "paired_joint_minus_sequential": paired(table),
        "samples_at_half": {
            label: json.loads(
                one(table, label).query("lam == 0.5 and seed == 0")["samples"].iloc[0]
            )
            for label in METHODS
        },
    }


def ends(scale: str) -> pd.DataFrame:
    """Final measures of the whole grid; one row per method, weight and seed."""
    runs = [
        lm_study.configuration(scale, lm_study.schedule(label, lam), seed)
        for label in METHODS
        for lam in LAMBDAS
        for seed in lm_study.seeds(scale)
    ]
    return lm_study.finals(lm_study.run(scale, runs))


def one(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """Rows of one method."""
    return table[table["method"] == label]


def summaries(table: pd.DataFrame) -> dict[str, Any]:
    """Mean and half width of the 95 % interval of every measure, by method, in order of lambda."""
    return {
        label: {name: cell(interval(values(one(table, label), name, "lam"))) for name in MEASURES}
        for label in METHODS
    }


def paired(table: pd.DataFrame) -> dict[str, Any]:
    """Joint minus sequential on common draws; of a loss, negative: the joint method wins."""
    return {
        f"{joint} - {order}": {
            name: cell(
                paired_difference(
                    values(one(table, joint), name, "lam"), values(one(table, order), name, "lam")
                )
            )
            for name in MEASURES
        }
        for joint in JOINT
        for order in METHODS[:2]
    }


def draw_plane(ax: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Runs as dots, means with intervals in both directions, joined in order of lambda."""
    for label in METHODS:
        rows, look = one(table, label), style.look(label)
        ax.scatter(rows[x], rows[y], s=2, color=look.color, alpha=0.5, linewidths=0)
        across, along = (interval(values(rows, name, "lam")) for name in (x, y))
        ax.errorbar(
            across.mean,
            along.mean,
            xerr=across.high - across.mean,
            yerr=along.high - along.mean,
            **look.line_style(linewidth=1, elinewidth=0.7, label=label, zorder=4),
        )


def draw_ceiling(ax: Axes) -> None:
    """What no policy exceeds: half of the demonstrations contradict the preferred style."""
    ax.plot([0.5, 1], [1, 0.5], **style.BOUND)
    ax.annotate("no policy beyond", (0.72, 0.80), fontsize=8, rotation=-24, color="0.35")
    ax.set(
        title="Skill against style",
        xlabel="responses in the preferred style",
        ylabel="exact match of skills",
    )


def draw_differences(ax: Axes, table: pd.DataFrame, order: str) -> None:
    """Weighted loss of joint methods less that of one order, by lambda."""
    lambdas = np.sort(table["lam"].unique())
    base = values(one(table, order), "weighted_loss", "lam")
    ends = {}
    for place, label in enumerate(JOINT):
        found = paired_difference(values(one(table, label), "weighted_loss", "lam"), base)
        look, shift = style.look(label), 0.012 * (place - 1)
        ax.errorbar(
            lambdas + shift,
            found.mean,
            yerr=found.high - found.mean,
            **look.line_style(linewidth=1, elinewidth=0.8, capsize=2),
        )
        ends[label] = (float(found.mean[-1]), look.color)
    label_lines(ax, lambdas[-1] + 0.02, ends)
    ax.axhline(0, **style.BOUND)
    ax.set(
        xlabel="weight λ of the preference objective",
        ylabel=f"less {order}'s (nats)",
        xticks=lambdas,
        xlim=(0.05, 1.15),
    )


if __name__ == "__main__":
    main(Path("out"))
