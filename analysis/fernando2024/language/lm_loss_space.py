"""Where do the methods end when a language model is trained at equal cost?

Held-out losses of every run, and scores of its responses, over levels of conflict and weights. The
runs at weight 1/2 are those of :mod:`analysis.fernando2024.language.lm_headline`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate
from analysis.fernando2024.language import lm_study, lm_tuning
from analysis.fernando2024.language.lm_models import SCALES
from analysis.fernando2024.language.lm_study import Array, values
from analysis.fernando2024.methods import JOINT, METHODS, cell, cost, label
from analysis.fernando2024.stored import shown
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

HALF = 0.5
Scores = dict[str, dict[str, tuple[float, float]]]
SETTINGS = tuple(sorted(lm_tuning.SETTINGS, key=lambda pair: (pair[1] != HALF, *pair)))
"""Levels of conflict with weights lambda: first weight 1/2 by conflict, then the other weights."""
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
    "Where do the methods end at equal cost? Tiny language model, by conflict and λ (columns), "
    "tuned step sizes. Markers are held-out means with 95 % t-intervals in both directions. Above: "
    "both losses in nats (SFT: per token); line: weighted loss equal to that of SFT→DPO. Below: "
    "exact match of the skill, and responses in the preferred style; no policy can pass the dashed "
    "line. What varies is the seed, n = {seeds}. Command: python -m analysis lm_loss_space"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {"seeds": str(numbers["seeds"])}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    settings = ((HALF, HALF),) if scale == "fast" else SETTINGS
    table = lm_study.compared(scale, settings)
    table["setting"] = [
        settings.index(pair) for pair in zip(table["conflict"], table["lam"], strict=True)
    ]
    by_weight = table[table["conflict"] == HALF]
    half = at(table, HALF, HALF)
    numbers = {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "spent": lm_study.cost_spent(table),
        "gradients": SCALES[scale].gradients,
        "conflict": HALF,
        "lambdas": sorted(lam for level, lam in settings if level == HALF),
        "methods": summaries(by_weight),
        "paired_joint_minus_sequential": paired(by_weight),
        "settings": settings,
        "by_setting": summaries(table, "setting"),
        "paired_by_setting": paired(table, "setting"),
        "samples_at_half": {
            key: json.loads(one(half, key).query("seed == 0")["samples"].iloc[0]) for key in METHODS
        },
    }
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Draw losses and scores of responses for each level of conflict and weight."""
    settings = numbers["settings"]
    with style.figure(2, len(settings), height=4.9, squeeze=False) as (fig, axes):
        fig.set_layout_engine("constrained", wspace=0.05, hspace=0.06)
        for place, (level, lam) in enumerate(settings):
            draw_setting(
                axes[0, place], axes[1, place], here(numbers["by_setting"], place), level, lam
            )
        axes[0, 0].set_ylabel("preference loss (nats)")
        axes[1, 0].set_ylabel("exact match of skills")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        handles.append(Line2D([], [], **style.BOUND))
        labels.append("above: loss of SFT→DPO; below: most possible")
        fig.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        style.save(fig, out, "lm_loss_space")


def here(summary: Mapping[str, Any], place: int) -> Scores:
    """Mean and half-width of every measure of each method in one setting."""
    return {
        key: {
            name: (found["mean"][place], found["half_width"][place])
            for name, found in scores.items()
        }
        for key, scores in summary.items()
    }


def at(table: pd.DataFrame, level: float, lam: float) -> pd.DataFrame:
    """Rows of one level of conflict and one weight."""
    return table[(table["conflict"] == level) & (table["lam"] == lam)]


def one(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Rows of one method."""
    return table[table["method"] == key]


def summaries(table: pd.DataFrame, by: str = "lam") -> dict[str, Any]:
    """Mean and half width of every measure's 95 % interval, by method, in order of ``by``."""
    return {
        key: {name: cell(interval(values(one(table, key), name, by))) for name in MEASURES}
        for key in METHODS
    }


def paired(table: pd.DataFrame, by: str = "lam") -> dict[str, Any]:
    """Joint minus sequential on common draws. Of a loss, negative: the joint method wins."""
    return {
        f"{joint} - {order}": {
            name: cell(
                paired_difference(
                    values(one(table, joint), name, by), values(one(table, order), name, by)
                )
            )
            for name in MEASURES
        }
        for joint in JOINT
        for order in METHODS[:2]
    }


def draw_plane(ax: Axes, scores: Scores, x: str, y: str) -> None:
    """Draw means with intervals in both directions."""
    for key in METHODS:
        (across, wide), (along, high) = scores[key][x], scores[key][y]
        dots = style.look(key).dots(elinewidth=0.9, label=label(key), zorder=4)
        ax.errorbar(across, along, xerr=wide, yerr=high, **dots)


def draw_setting(losses: Axes, behaviour: Axes, scores: Scores, level: float, lam: float) -> None:
    """Draw both planes at one level of conflict and one weight."""
    draw_plane(losses, scores, "sft_loss", "preference_loss")
    draw_level(losses, scores, lam)
    losses.set(title=f"conflict {level:g}\nλ = {lam:g}", xlabel="SFT loss")
    draw_plane(behaviour, scores, "preference_match", "exact_match")
    draw_ceiling(behaviour, level)


def draw_level(ax: Axes, scores: Scores, lam: float) -> None:
    """Draw pairs of losses with the weighted loss of SFT→DPO. Points below the line are better."""
    sft, preference = (scores["sft-dpo"][name][0] for name in ("sft_loss", "preference_loss"))
    low, high = ax.get_xlim()
    x = np.array([low, high])
    bottom, top = ax.get_ylim()
    ax.plot(x, preference - (1 - lam) / lam * (x - sft), **style.BOUND)
    ax.set(xlim=(low, high), ylim=(bottom, top))


def draw_ceiling(ax: Axes, level: float) -> None:
    """Draw the limit on style and skill: some demonstrations contradict the preferred style."""
    ax.plot([1 - level, 1], [1, 1 - level], **style.BOUND)
    ax.set(xlabel="preferred style")


# ---------------------------------------------------------------------- claims


BOTH = ("mix", "alright")
LEVEL = 0.02
"""Largest difference in weighted loss, in nats, that counts as none. It was set before the runs."""


def claim_tuned_orders_are_level(fast: bool = False, mutation: str | None = None) -> Checked:
    """Against us: tuned, SFT→DPO has no larger loss than Mix and ALRIGHT, λ at most 1/2 (upper).

    ``measured`` holds upper ends of 95 % intervals of the paired differences, by joint method and
    setting. A difference up to 0.02 nats counts as none.
    """
    del fast

    def high(greatest: float) -> Array:
        at = [lam <= greatest for _, lam in settings()]
        return -np.concatenate([ends(joint, "weighted_loss")[0][at] for joint in BOTH])

    wrong = np.concatenate([untuned(joint) for joint in BOTH])
    measured = mutate(mutation, high(HALF), {"one-step-size": wrong, "every-lambda": high(1.0)})
    return Checked(measured, np.full_like(measured, LEVEL), "upper", {"n": _seeds()}, 0.0)


def claim_mix_depends_on_lambda(fast: bool = False, mutation: str | None = None) -> Checked:
    """Tuned, at conflict 1/2, Mix ends above SFT→DPO at λ = 1/4 and below it at 3/4 (lower).

    ``measured`` holds the lower ends of the 95 % intervals of the paired differences.
    """
    del fast
    low, high = ends("mix", "weighted_loss")
    small, large = (settings().index((HALF, lam)) for lam in (0.25, 0.75))
    honest = np.array([low[small], -high[large]])
    measured = mutate(mutation, honest, {SWAPPED: np.array([-high[small], low[large]])})
    return Checked(measured, np.zeros(2), "lower", {"n": _seeds()}, 0.0)


def claim_joint_ranks_more_pairs(fast: bool = False, mutation: str | None = None) -> Checked:
    """Tuned, at λ = 1/2, Mix and ALRIGHT rank more held-out pairs correctly than SFT→DPO (lower).

    ``measured`` holds lower ends of 95 % intervals of the paired differences, by joint method and
    level of conflict.
    """
    del fast
    found = [ends(joint, "preference_accuracy") for joint in BOTH]
    low, high = (np.stack(side) for side in zip(*found, strict=True))
    at = [lam == HALF for _, lam in settings()]
    wrong = {SWAPPED: -high[:, at], "every-lambda": low}
    measured = mutate(mutation, low[:, at], wrong).ravel()
    return Checked(measured, np.zeros_like(measured), "lower", {"n": _seeds()}, 0.0)


def settings() -> list[tuple[float, float]]:
    """Stored levels of conflict with weights lambda, in the order of :func:`ends`."""
    return [(float(level), float(lam)) for level, lam in shown("lm_loss_space")["settings"]]


def ends(joint: str, name: str) -> tuple[Array, Array]:
    """(settings,) lower and upper ends of the stored 95 % intervals of joint less SFT→DPO."""
    kept = shown("lm_loss_space")["paired_by_setting"][f"{joint} - sft-dpo"][name]
    mean, half = (np.asarray(kept[part], dtype=float) for part in ("mean", "half_width"))
    return mean - half, mean + half


def untuned(joint: str) -> Array:
    """Upper ends of SFT→DPO less joint with one step size for all, at conflict and weight 1/2."""
    kept = shown("lm_rates")["sequential_minus_joint"]["one step size"][f"sft-dpo - {joint}"]
    return np.asarray(kept["mean"], dtype=float) + np.asarray(kept["half_width"], dtype=float)


def _seeds() -> float:
    return float(shown("lm_loss_space")["seeds"])


if __name__ == "__main__":
    main(Path("out"))
