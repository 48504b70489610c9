"""How much do joint methods gain over sequential training, and at which level of conflict?

The abstract of the paper's version 4 says "up to 23% overall performance improvement across
multiple LLM evaluation benchmarks". Here skill and preference are measured apart, at equal
compute, lambda = 1/2, over levels of conflict.
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
from tradeoff.scores import Interval, interval, paired_difference
from tradeoff.theory.checked import Checked

CONFLICTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PANELS = {
    "retention": "SFT retention",
    "preference": "responses in the preferred style",
    "pairs": "held-out pairs ranked right",
}
CAPTION = (
    "The tiny language model at lambda = 1/2, 120 gradients for every method (Mix: 60 updates of "
    "two), over the share of prompts whose demonstrations contradict the pairs. Left: exact match "
    "after training over that of a model trained on SFT alone with all of them. Middle: "
    "share of generated responses in the preferred style. Right: joint methods less "
    "SFT→DPO, in points of retention (filled) and of style (open): Mix and ALRIGHT pay for the "
    "skill with style from conflict 3/4 on, MAXRIGHT keeps the style and gains no skill at "
    "conflict 1. Not drawn but in the results are the held-out pairs ranked right, of which "
    "SFT→DPO misses none and Mix 27 % at conflict 1/2. What varies is the seed, "
    "n = 10, shared by all methods; 95 % t-intervals, of stored relative gains by the "
    "jackknife. All on held-out prompts. "
    "Command: python -m analysis lm_headline"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = ends(scale)
    with style.figure(1, 3, height=3.3) as (fig, (left, middle, right)):
        draw_levels(left, table, "retention")
        draw_levels(middle, table, "preference")
        left.set_title("SFT→DPO keeps least skill")
        middle.set_title("Style: joint holds up to ½")
        middle.legend(loc="lower left", fontsize=7)
        draw_gains(right, table)
        style.save(fig, out, "lm_headline")
    return {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "conflicts": conflicts(scale),
        "specialist_exact_match": {
            str(level): specialist_score(scale, level) for level in conflicts(scale)
        },
        "methods": {
            label: {name: cell(interval(levels(table, label, name))) for name in PANELS}
            for label in METHODS
        },
        "points_joint_minus_sequential": differences(table),
        "relative_gain": {
            f"{joint} over {order}": {
                name: cell(relative(levels(table, joint, name), levels(table, order, name)))
                for name in PANELS
            }
            for joint in JOINT
            for order in METHODS[:2]
        },
    }


def conflicts(scale: str) -> tuple[float, ...]:
    """Levels of conflict; fewer in the fast form."""
    return CONFLICTS[::4] if scale == "fast" else CONFLICTS


def specialist_score(scale: str, conflict: float) -> float:
    """Exact match of the model that spent all gradients on SFT."""
    known = lm_study.task(scale, conflict)
    rows = lm_study.SCALES[scale].rows
    return float(known.skills(lm_study.specialist(scale, conflict), rows)["exact_match"][0])


def ends(scale: str) -> pd.DataFrame:
    """Final scores at lambda = 1/2, one row per method, level of conflict and seed."""
    runs = [
        lm_study.configuration(scale, lm_study.schedule(label), seed, conflict=level, marks=1)
        for label in METHODS
        for level in conflicts(scale)
        for seed in lm_study.seeds(scale)
    ]
    table = lm_study.finals(lm_study.run(scale, runs))
    best = {level: specialist_score(scale, level) for level in conflicts(scale)}
    return table.assign(
        retention=table["exact_match"] / np.maximum(table["conflict"].map(best), 1e-9),
        preference=table["preference_match"],
        pairs=table["preference_accuracy"],
    )


def levels(table: pd.DataFrame, label: str, name: str) -> Array:
    """(seed, conflict) values of one score of one method."""
    return values(table[table["method"] == label], name, "conflict")


def differences(table: pd.DataFrame) -> dict[str, Any]:
    """Joint minus sequential, paired by seed, by level of conflict."""
    return {
        f"{joint} - {order}": {
            name: cell(paired_difference(levels(table, joint, name), levels(table, order, name)))
            for name in PANELS
        }
        for joint in JOINT
        for order in METHODS[:2]
    }


def relative(joint: Array, order: Array) -> Interval:
    """Ratio of means less one over the first axis, with a jackknife t-interval."""
    n = len(joint)

    def gain(a: Array, b: Array) -> Array:
        return np.asarray(a / np.maximum(b, 1e-9) - 1)

    # A ratio to next to nothing says nothing.
    order = np.where(order.mean(0) < 0.05, np.nan, order)
    whole = gain(joint.mean(0), order.mean(0))
    rest = [(x.sum(0) - x) / (n - 1) for x in (joint, order)]
    return interval(n * whole - (n - 1) * gain(*rest))


def draw_levels(ax: Axes, table: pd.DataFrame, name: str) -> None:
    """Every method over the levels of conflict."""
    for label in METHODS:
        found, look = interval(levels(table, label, name)), style.look(label)
        ax.errorbar(
            np.sort(table["conflict"].unique()),
            found.mean,
            yerr=found.high - found.mean,
            **look.line_style(elinewidth=0.8, label=label),
        )
    ax.set(xlabel="conflict", ylabel=PANELS[name], xticks=CONFLICTS, ylim=(-0.05, 1.08))


def draw_gains(ax: Axes, table: pd.DataFrame) -> None:
    """Gains over SFT→DPO in points: retention (filled) and style (open)."""
    for label in JOINT:
        look = style.look(label)
        for name, fill in (("retention", look.color), ("preference", "white")):
            found = paired_difference(levels(table, label, name), levels(table, "SFT→DPO", name))
            places = np.sort(table["conflict"].unique())
            ax.plot(places, 100 * found.mean, **look.line_style(markerfacecolor=fill))
    ax.axhline(0, **style.BOUND)
    ax.set(
        title="More skill, less style",
        xlabel="conflict",
        ylabel="joint less SFT→DPO (points)",
        xticks=CONFLICTS,
    )


def claim_retention_gain(fast: bool = False) -> Checked:
    """Mix and ALRIGHT keep more exact match than SFT→DPO (lower).

    ``measured`` are lower ends of the 95 % intervals of the paired differences, in shares of the
    specialist's exact match, up to conflict 3/4.
    """
    found = read_json(PAPER / "results" / "lm_headline.json")["numbers"]
    pairs = [
        found["points_joint_minus_sequential"][f"{joint} - SFT→DPO"]["retention"]
        for joint in ("Mix", "ALRIGHT")
    ]
    low = [(np.asarray(cell["mean"]) - np.asarray(cell["half_width"]))[:4] for cell in pairs]
    return Checked(np.array(low), np.zeros((2, 1)), "lower", {"n": float(found["seeds"])}, 0.0)


if __name__ == "__main__":
    main(Path("out"))
