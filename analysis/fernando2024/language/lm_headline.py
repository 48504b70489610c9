"""How much do joint methods gain over sequential training, and at which level of conflict?

Retention of the SFT skill and the preferred style at equal cost and lambda = 1/2, over levels of
conflict. Every method has its own step sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.fernando2024.language import lm_study, lm_tuning
from analysis.fernando2024.language.lm_study import Array, values
from analysis.fernando2024.methods import (
    JOINT,
    METHODS,
    bounds,
    cell,
    cost,
    label,
    paired_ratio,
    ratio,
)
from tradeoff.scores import Interval, interval, paired_difference

CONFLICTS = tuple(sorted(level for level, lam in lm_tuning.SETTINGS if lam == 0.5))
PANELS = {
    "retention": "SFT retention",
    "preference": "responses in the preferred style",
    "pairs": "held-out pairs ranked right",
}
LOSSES = ("weighted_loss", "sft_loss", "preference_loss")
CAPTION = (
    "What does joint training gain, and at which conflict? Conflict is the share of prompts whose "
    "demonstrations contradict the pairs. Tiny language model, λ = 1/2, equal cost, tuned step "
    "sizes. Left: exact match over that of {specialists} models trained by SFT alone. Middle: "
    "responses in the preferred style. Right: joint less SFT→DPO, in points of retention (filled) "
    "and style (open). What varies is the seed, n = {seeds}; 95 % intervals. Command: python -m "
    "analysis lm_headline"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {name: str(numbers[name]) for name in ("specialists", "seeds")}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = ends(scale)
    alone = {level: lm_study.specialist_scores(scale, level) for level in conflicts(scale)}
    best = np.stack([alone[level]["exact_match"] for level in conflicts(scale)], axis=-1)
    numbers = {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "spent": lm_study.cost_spent(table),
        "conflicts": conflicts(scale),
        "specialists": len(best),
        "sft_alone": {
            name: cell(interval(np.stack([scores[name] for scores in alone.values()], axis=-1)))
            for name in ("exact_match", "preference_match", "preference_accuracy", *LOSSES)
        },
        "methods": {
            key: {
                **{name: cell(measured(table, key, name, best)) for name in PANELS},
                **{name: cell(interval(levels(table, key, name))) for name in LOSSES},
            }
            for key in METHODS
        },
        "points_joint_minus_sequential": {
            f"{joint} - {order}": {
                name: cell(difference(table, joint, order, name, best)) for name in PANELS
            }
            for joint in JOINT
            for order in METHODS[:2]
        },
        "times_as_much": {
            f"{joint} over {order}": {
                name: bounds(paired_ratio(levels(table, joint, name), levels(table, order, name)))
                for name in ("exact_match", "preference")
            }
            for joint in JOINT
            for order in METHODS[:2]
        },
    }
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Draw skill and style by conflict, and the gains of joint methods over SFT→DPO."""
    with style.figure(1, 3, height=3.6) as (fig, (left, middle, right)):
        fig.set_layout_engine("constrained", wspace=0.09)
        draw_levels(left, numbers, "retention")
        draw_levels(middle, numbers, "preference")
        left.set_title("Skill kept")
        middle.set_title("Preferred style")
        draw_gains(right, numbers)
        handles, labels = middle.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower left", ncols=5, fontsize=8)
        style.save(fig, out, "lm_headline")


def conflicts(scale: str) -> tuple[float, ...]:
    """Levels of conflict; one level in the fast form."""
    return (0.5,) if scale == "fast" else CONFLICTS


def ends(scale: str) -> pd.DataFrame:
    """Final scores at lambda = 1/2, one row per method, level of conflict and seed."""
    table = lm_study.compared(scale, [(level, 0.5) for level in conflicts(scale)])
    return table.assign(preference=table["preference_match"], pairs=table["preference_accuracy"])


def levels(table: pd.DataFrame, key: str, name: str) -> Array:
    """(seed, conflict) values of one score of one method."""
    return values(table[table["method"] == key], name, "conflict")


def measured(table: pd.DataFrame, key: str, name: str, best: Array) -> Interval:
    """One measure by level of conflict. Retention is relative to the specialists, see `ratio`."""
    if name == "retention":
        return ratio(levels(table, key, "exact_match"), best)
    return interval(levels(table, key, name))


def difference(table: pd.DataFrame, joint: str, order: str, name: str, best: Array) -> Interval:
    """Joint minus sequential, paired by seed. Retention is relative to the specialists' score."""
    score = "exact_match" if name == "retention" else name
    a, b = (levels(table, key, score) for key in (joint, order))
    return ratio(a - b, best) if name == "retention" else paired_difference(a, b)


def draw_levels(ax: Axes, numbers: Mapping[str, Any], name: str) -> None:
    """Draw one measure of every method over the levels of conflict."""
    for place, key in enumerate(METHODS):
        found, look = numbers["methods"][key][name], style.look(key)
        ax.errorbar(
            np.asarray(numbers["conflicts"]) + 0.012 * (place - 2),
            found["mean"],
            yerr=found["half_width"],
            **look.line_style(elinewidth=0.8, label=label(key)),
        )
    ax.set(xlabel="conflict", ylabel=PANELS[name], xticks=CONFLICTS, ylim=(-0.05, 1.08))


def draw_gains(ax: Axes, numbers: Mapping[str, Any]) -> None:
    """Draw gains over SFT→DPO in points: retention (filled) and style (open)."""
    for place, key in enumerate(JOINT):
        look = style.look(key)
        for name, fill in (("retention", look.color), ("preference", "white")):
            found = numbers["points_joint_minus_sequential"][f"{key} - sft-dpo"][name]
            mean, half = (100 * np.asarray(found[part]) for part in ("mean", "half_width"))
            levels_ = np.asarray(numbers["conflicts"]) + 0.012 * (place - 1)
            shape = look.line_style(markerfacecolor=fill, elinewidth=0.8)
            ax.errorbar(levels_, mean, yerr=half, **shape)
    for name, fill in (("skill", "0.35"), ("style", "white")):
        ax.plot([], [], "o", color="0.35", markerfacecolor=fill, label=name)
    ax.legend(loc="upper left", fontsize=8, handletextpad=0.2)
    ax.axhline(0, **style.BOUND)
    ax.set(
        title="Joint less SFT→DPO",
        xlabel="conflict",
        ylabel="points",
        xticks=CONFLICTS,
    )


if __name__ == "__main__":
    main(Path("out"))
