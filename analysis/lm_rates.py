"""Does the headline depend on the step size?

All methods of the language-model figures share one step size. Here the comparison at lambda = 1/2
is repeated with two fifths of it and with two and a half times as much.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import lm_study, style
from analysis.lm_study import Array, values
from analysis.methods import JOINT, METHODS, cell, cost
from analysis.runner import PAPER
from tradeoff.records import read_json
from tradeoff.scores import interval, paired_difference, weighted_loss
from tradeoff.theory.checked import Checked

FACTORS = (0.4, 1.0, 2.5)
PANELS = {
    "exact_match": "exact match of skills",
    "preference_match": "responses in the preferred style",
    "weighted_loss": "(SFT + preference loss)/2",
}
CAPTION = (
    "The tiny language model (conflict 0.5) at lambda = 1/2 and 120 gradients for every method, "
    "over the step size of AdamW; the other figures use 5e-4. Held-out prompts after training: "
    "skills answered exactly, responses in the preferred style, and the loss that is traded. What "
    "varies is the seed, shared by all methods, n = 10; 95 % t-intervals. The numbers hold the "
    "differences joint minus sequential, paired by seed. Command: python -m analysis lm_rates"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = ends(scale)
    with style.figure(1, 3, height=3.3) as (fig, axes):
        for ax, name in zip(axes, PANELS, strict=True):
            draw(ax, table, name)
        axes[0].set_title("Skill: SFT→DPO last")
        axes[1].set_title("Style: DPO→SFT last")
        axes[2].set_title("Loss: Mix least")
        axes[2].set_yscale("log")
        axes[2].set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
        axes[2].minorticks_off()
        axes[0].legend(loc="upper left", fontsize=7)
        style.save(fig, out, "lm_rates")
    return {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "rates": np.sort(table["rate"].unique()),
        "methods": {
            label: {name: cell(interval(by_rate(table, label, name))) for name in PANELS}
            for label in METHODS
        },
        "paired_joint_minus_sequential": {
            f"{joint} - {order}": {
                name: cell(
                    paired_difference(by_rate(table, joint, name), by_rate(table, order, name))
                )
                for name in PANELS
            }
            for joint in JOINT
            for order in METHODS[:2]
        },
    }


def ends(scale: str) -> pd.DataFrame:
    """Final scores at lambda = 1/2, one row per method, step size and seed."""
    runs = [
        lm_study.configuration(scale, lm_study.schedule(label), seed, rate=rate, marks=1)
        for rate in (factor * lm_study.SCALES[scale].rate for factor in FACTORS)
        for label in METHODS
        for seed in lm_study.seeds(scale)
    ]
    table = lm_study.finals(lm_study.run(scale, runs))
    losses = table[["sft_loss", "preference_loss"]].to_numpy()
    return table.assign(weighted_loss=weighted_loss(losses, 0.5))


def by_rate(table: pd.DataFrame, label: str, name: str) -> Array:
    """(seed, rate) values of one score of one method."""
    return values(table[table["method"] == label], name, "rate")


def draw(ax: Axes, table: pd.DataFrame, name: str) -> None:
    """Every method over the step size."""
    for label in METHODS:
        found, look = interval(by_rate(table, label, name)), style.look(label)
        ax.errorbar(
            np.sort(table["rate"].unique()),
            found.mean,
            yerr=found.high - found.mean,
            **look.line_style(elinewidth=0.8, label=label),
        )
    rates = np.sort(table["rate"].unique())
    ax.set(xlabel="step size", ylabel=PANELS[name], xscale="log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()


def claim_ordering_at_other_step_sizes(fast: bool = False) -> Checked:
    """At each of three step sizes Mix and ALRIGHT keep more exact match than SFT→DPO (lower).

    ``measured`` are the lower ends of the 95 % intervals of the paired differences.
    """
    found = read_json(PAPER / "results" / "lm_rates.json")["numbers"]
    cells = [
        found["paired_joint_minus_sequential"][f"{joint} - SFT→DPO"]["exact_match"]
        for joint in ("Mix", "ALRIGHT")
    ]
    low = np.array([np.subtract(cell["mean"], cell["half_width"]) for cell in cells])
    return Checked(low, np.zeros_like(low), "lower", {"n": float(found["seeds"])}, 0.0)


if __name__ == "__main__":
    main(Path("out"))
