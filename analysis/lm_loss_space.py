"""Where do the methods end when a language model is trained, at equal cost?

Held-out losses of every run, and what a reader of the responses sees, at two levels of conflict.
The runs are those of :mod:`analysis.lm_headline`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import lm_headline, lm_study, style
from analysis.lm_models import SCALES
from analysis.lm_study import values
from analysis.methods import JOINT, METHODS, cell, cost
from tradeoff.scores import interval, paired_difference

LAMBDAS = (0.5,)
"""Weights that are run; :data:`analysis.lm_tuning.LAMBDAS` has those that are tuned for."""
LEVEL = 0.5
"""Conflict of what is stored by weight."""
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
    "Where do the methods end at equal cost? Tiny language model, λ = 1/2, conflict 1/4 (above) "
    "and 1/2 (below), tuned step sizes. Dots are runs, markers means with 95 % t-intervals in both "
    "directions; all held out. Left: both losses; line: equal weighted loss, through SFT→DPO. "
    "Right: exact match of the skill and responses in the preferred style; no policy is beyond "
    "the dashed line. What varies is the seed, n = 10. Command: python -m analysis lm_loss_space"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = lm_headline.ends(scale)
    levels = sorted(table["conflict"].unique())
    with style.figure(len(levels), 2, height=2.4 * len(levels), squeeze=False) as (fig, axes):
        for (losses, behaviour), level in zip(axes, levels, strict=True):
            rows = table[table["conflict"] == level]
            draw_plane(losses, rows, "sft_loss", "preference_loss")
            draw_level(losses, rows)
            losses.set(
                title=f"Losses, conflict {level:g}",
                xlabel="SFT loss (nats per token)",
                ylabel="preference loss (nats)",
            )
            draw_plane(behaviour, rows, "preference_match", "exact_match")
            draw_ceiling(behaviour, level)
        axes[0, 0].legend(fontsize=7)
        style.save(fig, out, "lm_loss_space")
    shown = table[table["conflict"] == LEVEL]
    return {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "spent": lm_study.cost_spent(table),
        "gradients": SCALES[scale].gradients,
        "conflict": LEVEL,
        "lambdas": LAMBDAS,
        "methods": summaries(shown),
        "paired_joint_minus_sequential": paired(shown),
        "by_conflict": {
            f"{level:g}": summaries(table[table["conflict"] == level]) for level in levels
        },
        "samples_at_half": {
            label: json.loads(one(shown, label).query("seed == 0")["samples"].iloc[0])
            for label in METHODS
        },
    }


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
    """Runs as dots, means with intervals in both directions."""
    for label in METHODS:
        rows, look = one(table, label), style.look(label)
        ax.scatter(rows[x], rows[y], s=3, color=look.color, alpha=0.5, linewidths=0)
        across, along = (interval(rows[name]) for name in (x, y))
        ax.errorbar(
            across.mean,
            along.mean,
            xerr=across.high - across.mean,
            yerr=along.high - along.mean,
            **look.dots(linewidth=1, elinewidth=0.8, label=label, zorder=4),
        )


def draw_level(ax: Axes, table: pd.DataFrame) -> None:
    """Pairs of losses whose weighted loss is that of SFT→DPO; below the line is better."""
    mean = one(table, "SFT→DPO")[["sft_loss", "preference_loss"]].mean().to_numpy()
    low, high = ax.get_xlim()
    x = np.array([low, high])
    bottom, top = ax.get_ylim()
    ax.plot(x, mean.sum() - x, **style.BOUND)
    ax.set(xlim=(low, high), ylim=(bottom, top))


def draw_ceiling(ax: Axes, level: float) -> None:
    """What no policy exceeds: that share of the demonstrations contradicts the preferred style."""
    ax.plot([1 - level, 1], [1, 1 - level], **style.BOUND)
    ax.set(
        title=f"Skill against style, conflict {level:g}",
        xlabel="responses in the preferred style",
        ylabel="exact match of skills",
    )


if __name__ == "__main__":
    main(Path("out"))
