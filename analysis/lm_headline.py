"""How much do joint methods gain over sequential training, and at which level of conflict?

Retention of the SFT skill and the preferred style at equal cost, lambda = 1/2, over levels of
conflict, every method with its own step sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import lm_study, style
from analysis.lm_study import Array, values
from analysis.methods import JOINT, METHODS, cell, cost, paired_ratio, ratio
from analysis.mutations import SWAPPED, mutate
from analysis.runner import PAPER
from analysis.stored_results import numbers as stored_numbers
from tradeoff.scores import Interval, interval, paired_difference
from tradeoff.theory.checked import Checked

CONFLICTS = (0.5,)
PANELS = {
    "retention": "SFT retention",
    "preference": "responses in the preferred style",
    "pairs": "held-out pairs ranked right",
}
LOSSES = ("weighted_loss", "sft_loss", "preference_loss")
LEVEL = 0.02
"""Difference in weighted loss, in nats, up to which methods count as level; set before the runs."""
CAPTION = (
    "What does joint training gain, and at which conflict (share of prompts whose demonstrations "
    "contradict the pairs)? Tiny language model, λ = 1/2, equal cost, tuned step sizes. Left: "
    "exact match over that of 5 models with SFT alone. Middle: responses in the preferred style. "
    "Right: joint less SFT→DPO, points of retention (filled) and style (open). What varies is the "
    "seed, n = 10; 95 % intervals, of retention by the delta method. Command: python -m analysis "
    "lm_headline"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = ends(scale)
    alone = {level: lm_study.specialist_scores(scale, level) for level in conflicts(scale)}
    best = np.stack([alone[level]["exact_match"] for level in conflicts(scale)], axis=-1)
    with style.figure(1, 3, height=3.3) as (fig, (left, middle, right)):
        draw_levels(left, table, "retention", best)
        draw_levels(middle, table, "preference", best)
        left.set_title("Skill kept")
        middle.set_title("Preferred style")
        middle.legend(loc="lower left", fontsize=7)
        draw_gains(right, table, best)
        style.save(fig, out, "lm_headline")
    return {
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
            label: {
                **{name: cell(measured(table, label, name, best)) for name in PANELS},
                **{name: cell(interval(levels(table, label, name))) for name in LOSSES},
            }
            for label in METHODS
        },
        "points_joint_minus_sequential": {
            f"{joint} - {order}": {
                name: cell(difference(table, joint, order, name, best)) for name in PANELS
            }
            for joint in JOINT
            for order in METHODS[:2]
        },
        "weighted_loss_sequential_minus_joint": {
            f"{order} - {joint}": cell(
                paired_difference(
                    levels(table, order, "weighted_loss"), levels(table, joint, "weighted_loss")
                )
            )
            for joint in JOINT
            for order in METHODS[:2]
        },
        "times_as_much": {
            f"{joint} over {order}": {
                name: relative(levels(table, joint, name), levels(table, order, name))
                for name in ("exact_match", "preference")
            }
            for joint in JOINT
            for order in METHODS[:2]
        },
    }


def conflicts(scale: str) -> tuple[float, ...]:
    """Levels of conflict; one in the fast form."""
    return CONFLICTS[-1:] if scale == "fast" else CONFLICTS


def ends(scale: str) -> pd.DataFrame:
    """Final scores at lambda = 1/2, one row per method, level of conflict and seed."""
    runs = [
        lm_study.configuration(scale, lm_study.schedule(label), seed, conflict=level)
        for level in conflicts(scale)
        for label in METHODS
        for seed in lm_study.seeds(scale)
    ]
    table = lm_study.finals(lm_study.run(scale, runs))
    return table.assign(preference=table["preference_match"], pairs=table["preference_accuracy"])


def levels(table: pd.DataFrame, label: str, name: str) -> Array:
    """(seed, conflict) values of one score of one method."""
    return values(table[table["method"] == label], name, "conflict")


def measured(table: pd.DataFrame, label: str, name: str, best: Array) -> Interval:
    """One measure by level of conflict; retention is relative to the specialists, see `ratio`."""
    if name == "retention":
        return ratio(levels(table, label, "exact_match"), best)
    return interval(levels(table, label, name))


def difference(table: pd.DataFrame, joint: str, order: str, name: str, best: Array) -> Interval:
    """Joint minus sequential, paired by seed; of retention, over what the specialists score."""
    score = "exact_match" if name == "retention" else name
    a, b = (levels(table, label, score) for label in (joint, order))
    return ratio(a - b, best) if name == "retention" else paired_difference(a, b)


def relative(joint: Array, order: Array) -> dict[str, Any]:
    """Ratio of means by level, with Fieller's interval; ends are None where it is unbounded."""
    found = paired_ratio(joint, order)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def draw_levels(ax: Axes, table: pd.DataFrame, name: str, best: Array) -> None:
    """Every method over the levels of conflict."""
    for place, label in enumerate(METHODS):
        found, look = measured(table, label, name, best), style.look(label)
        ax.errorbar(
            np.sort(table["conflict"].unique()) + 0.012 * (place - 2),
            found.mean,
            yerr=found.high - found.mean,
            **look.line_style(elinewidth=0.8, label=label),
        )
    ax.set(xlabel="conflict", ylabel=PANELS[name], xticks=CONFLICTS, ylim=(-0.05, 1.08))


def draw_gains(ax: Axes, table: pd.DataFrame, best: Array) -> None:
    """Gains over SFT→DPO in points: retention (filled) and style (open)."""
    for place, label in enumerate(JOINT):
        look = style.look(label)
        for name, fill in (("retention", look.color), ("preference", "white")):
            found = difference(table, label, "SFT→DPO", name, best)
            levels_ = np.sort(table["conflict"].unique()) + 0.012 * (place - 1)
            half = 100 * (found.high - found.mean)
            shape = look.line_style(markerfacecolor=fill, elinewidth=0.8)
            ax.errorbar(levels_, 100 * found.mean, yerr=half, **shape)
    ax.axhline(0, **style.BOUND)
    ax.set(
        title="Joint less SFT→DPO",
        xlabel="conflict",
        ylabel="points",
        xticks=CONFLICTS,
    )


# ---------------------------------------------------------------------- claims


def claim_tuned_orders_are_level(fast: bool = False, mutation: str | None = None) -> Checked:
    """Against us: tuned, SFT→DPO has no larger weighted loss than Mix and ALRIGHT (upper).

    ``measured`` are upper ends of 95 % intervals of the paired differences, by joint method and
    level of conflict; up to 0.02 nats counts as level.
    """
    del fast
    found = _stored()
    pairs = found["weighted_loss_sequential_minus_joint"]
    orders = mutate(mutation, ("SFT→DPO", "SFT→DPO"), {"one-step-size": (None, None)})
    high = [
        upper_ends(pairs[f"{order} - {joint}"]) if order else untuned(joint)
        for order, joint in zip(orders, ("Mix", "ALRIGHT"), strict=True)
    ]
    measured = np.concatenate(high)
    bound = np.full_like(measured, LEVEL)
    return Checked(measured, bound, "upper", {"n": float(found["seeds"])}, 0.0)


def claim_joint_ranks_more_pairs(fast: bool = False, mutation: str | None = None) -> Checked:
    """Tuned, Mix and ALRIGHT rank more held-out pairs right than SFT→DPO (lower).

    ``measured`` are lower ends of 95 % intervals of the paired differences, by joint method and
    level of conflict.
    """
    del fast
    found = _stored()
    cells = [
        found["points_joint_minus_sequential"][f"{joint} - SFT→DPO"]["pairs"]
        for joint in ("Mix", "ALRIGHT")
    ]
    honest = [np.subtract(c["mean"], c["half_width"]) for c in cells]
    measured = np.array(mutate(mutation, honest, {SWAPPED: [-upper_ends(c) for c in cells]}))
    return Checked(measured, np.zeros_like(measured), "lower", {"n": float(found["seeds"])}, 0.0)


def upper_ends(cell: dict[str, Any]) -> Array:
    """Upper ends of a stored interval."""
    return np.asarray(cell["mean"], float) + np.asarray(cell["half_width"], float)


def untuned(joint: str) -> Array:
    """Upper ends of the same difference with one step size for all, at conflict 1/2."""
    found = stored_numbers(PAPER / "results" / "lm_rates.json")
    return upper_ends(found["sequential_minus_joint"]["one step size"][f"SFT→DPO - {joint}"])


def _stored() -> dict[str, Any]:
    return stored_numbers(PAPER / "results" / "lm_headline.json")


if __name__ == "__main__":
    main(Path("out"))
