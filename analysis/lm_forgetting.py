"""What prevents forgetting: the split of the budget, the KL anchor, or replay?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import lm_loss_space, lm_study, style
from analysis.lm_study import Array, values
from analysis.methods import JOINT, METHODS, cell, cost, upper
from analysis.runner import PAPER
from tradeoff.records import read_json
from tradeoff.schedules import Sequential
from tradeoff.scores import interval, paired_difference, weighted_loss
from tradeoff.theory.checked import Checked

REPLAYS = (0.0, 0.1, 0.25, 0.5)
BETAS = (0.1, 0.5, 2.0)
REFERENCES = ("base", "sft")
# Neither the colours nor the markers of the methods, which the panel beside shows.
NEUTRAL = (
    style.Look("0.5", "x", "-"),
    style.Look("0.4", "<", (0, (4, 1.5))),
    style.Look("0.25", ">", "-."),
    style.Look("0.1", "*", (0, (1, 1))),
)
REMEDY = style.Look("0.35", "d", "-")
CAPTION = (
    "The tiny language model (conflict 0.5), 120 gradients for every method. Left: exact match "
    "of the first 60 prompts along SFT→DPO with an even split, where a share of the second "
    "stage's updates replays SFT rows; vertical line: the preference stage begins. Middle: "
    "(SFT + preference loss)/2 at the end, over the share of the budget that the preference stage "
    "gets, both orders; level lines: joint methods at lambda = 1/2. Right: exact match (filled) "
    "and right answers in any style (open) of all held-out prompts at the end of SFT→DPO with an "
    "even split, for three beta with the base model or the SFT optimum as reference and for shares "
    "of replay at beta = 0.1; and of ALRIGHT. What varies is the seed, shared by all, n = 10; 95 % "
    "t-intervals. Command: python -m analysis lm_forgetting"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    along, anchored, grid = replays(scale), anchors(scale), lm_loss_space.ends(scale)
    ends = lm_study.finals(along)
    shape = {"width_ratios": [1, 1, 1.15]}
    with style.figure(1, 3, height=3.5, gridspec_kw=shape) as (fig, (left, middle, right)):
        draw_curves(left, along)
        draw_splits(middle, grid)
        draw_remedies(right, ends, anchored, grid)
        style.save(fig, out, "lm_forgetting")
    return {
        "seeds": int(ends["seed"].nunique()),
        "training": cost(along, anchored, grid),
        "gradients": lm_study.SCALES[scale].gradients,
        "replay": {
            str(replay): {
                **scores(ends[ends["replay"] == replay]),
                "exact_match_along": cell(interval(curve(along, replay)[1])),
            }
            for replay in REPLAYS
        },
        "steps_along": curve(along, 0.0)[0],
        "anchor": {
            f"beta {beta}, reference {reference}": anchor(one(anchored, beta, reference))
            for beta in BETAS
            for reference in REFERENCES
        },
        "splits": {label: splits(grid, label) for label in METHODS[:2]},
        "joint_at_half": {
            label: cell(interval(half_loss(grid, label)[:, middle_of(grid)])) for label in JOINT
        },
        "best_split_minus_joint": best_split_minus_joint(grid),
    }


def middle_of(grid: pd.DataFrame) -> int:
    """Place of lambda = 1/2 among the weights of the grid."""
    return int(np.flatnonzero(np.sort(grid["lam"].unique()) == 0.5)[0])


def scores(rows: pd.DataFrame) -> dict[str, Any]:
    """Intervals over seeds of one cell."""
    names = ("sft_loss", "exact_match", "answer_match", "preference_match", "preference_accuracy")
    return {name: cell(interval(rows.sort_values("seed")[name])) for name in names}


def anchor(rows: pd.DataFrame) -> dict[str, Any]:
    """Scores with one anchor, and how much exact match changes in the second stage."""
    change = rows.sort_values("seed")["change"]
    return {**scores(rows), "exact_match_change": cell(interval(change))}


def one(table: pd.DataFrame, beta: float, reference: str) -> pd.DataFrame:
    """Rows of one anchor."""
    return table[(table["beta"] == beta) & (table["reference"] == reference)]


def curve(along: pd.DataFrame, replay: float) -> tuple[Array, Array]:
    """Updates (time,) and exact matches (seed, time) along a run."""
    rows = along[along["replay"] == replay]
    return np.sort(rows["step"].unique()).astype(float), values(rows, "exact_match", "step")


def half_loss(grid: pd.DataFrame, label: str) -> Array:
    """(seed, lambda) equal-weight loss at the end, whatever weight was asked for."""
    rows = grid[grid["method"] == label]
    return weighted_loss(
        np.stack([values(rows, name, "lam") for name in ("sft_loss", "preference_loss")], -1), 0.5
    )


def splits(grid: pd.DataFrame, label: str) -> dict[str, Any]:
    """Scores at the end of every split of one order, by the share of the preference stage."""
    rows = grid[grid["method"] == label]
    names = ("exact_match", "preference_match")
    return {
        "share_of_preference": np.sort(rows["lam"].unique()),
        "half_loss": cell(interval(half_loss(grid, label))),
        **{name: cell(interval(values(rows, name, "lam"))) for name in names},
    }


def best_split_minus_joint(grid: pd.DataFrame) -> dict[str, Any]:
    """Best split of each order, chosen with hindsight, less each joint method at lambda 1/2."""
    found = {}
    for order in METHODS[:2]:
        losses = half_loss(grid, order)
        best = int(losses.mean(0).argmin())
        for joint in JOINT:
            other = half_loss(grid, joint)[:, middle_of(grid)]
            share = float(np.sort(grid["lam"].unique())[best])
            difference = cell(paired_difference(losses[:, best], other))
            found[f"{order} - {joint}"] = {"share_of_preference": share, **difference}
    return found


def replays(scale: str) -> pd.DataFrame:
    """SFT→DPO with a share of SFT rows in the second stage, with scores along the way."""
    runs = [
        lm_study.configuration(scale, Sequential(replay=replay), seed, **detail(scale))
        for replay in REPLAYS
        for seed in lm_study.seeds(scale)
    ]
    return lm_study.run(scale, runs).rename(columns={"schedule.replay": "replay"})


def anchors(scale: str) -> pd.DataFrame:
    """Final scores of SFT→DPO by beta and reference; an even split.

    ``change`` is the exact match of the second stage's end less that of the first one's, on the
    prompts that are asked at both.
    """
    asked = {"marks": 2, "generated": detail(scale)["generated"]}
    runs = [
        lm_study.configuration(scale, Sequential(), seed, beta=beta, reference=reference, **asked)
        for beta in BETAS
        for reference in REFERENCES
        for seed in lm_study.seeds(scale)
    ]
    table = lm_study.run(scale, runs)
    asked_at = table.groupby("run")["exact_match"]
    change = asked_at.nth(2).to_numpy() - asked_at.nth(1).to_numpy()
    return lm_study.finals(table).assign(change=change)


def detail(scale: str) -> dict[str, int]:
    """More evaluations, each with generated responses."""
    return {"marks": 10, "generated": 60} if scale == "full" else {"marks": 2, "generated": 8}


def draw_curves(ax: Axes, along: pd.DataFrame) -> None:
    """Exact match along the run, by share of replay."""
    for replay, look in zip(REPLAYS, NEUTRAL, strict=True):
        steps, exact = curve(along, replay)
        found = interval(exact)
        ax.plot(steps, found.mean, **look.line_style())
        ax.fill_between(steps, found.low, found.high, color=look.color, alpha=0.15, linewidth=0)
        text = f"{replay:.0%} replay".replace("0% replay", "no replay") if not replay else ""
        style.label_line(ax, steps[-1], found.mean[-1], text or f"{replay:.0%}", color=look.color)
    ax.axvline(steps[-1] / 2, **style.BOUND)
    ax.set(
        title="Replay stops forgetting",
        xlabel="gradients",
        ylabel="exact match",
        ylim=(-0.02, 0.7),
    )


def draw_splits(ax: Axes, grid: pd.DataFrame) -> None:
    """Equal-weight loss over the split, both orders, with the joint methods as level lines."""
    shares = np.sort(grid["lam"].unique())
    for label in METHODS[:2]:
        found, look = interval(half_loss(grid, label)), style.look(label)
        ax.errorbar(
            shares, found.mean, yerr=found.high - found.mean, **look.line_style(elinewidth=0.8)
        )
        style.label_line(ax, shares[-1], found.mean[-1], label, color=look.color)
    for label in JOINT:
        level, look = float(half_loss(grid, label)[:, middle_of(grid)].mean()), style.look(label)
        ax.axhline(level, color=look.color, linestyle=look.line, linewidth=1)
        side = "bottom" if label == "MAXRIGHT" else "top"
        ax.annotate(label, (1.44, level), fontsize=8, color=look.color, va=side, ha="right")
    ax.set(
        title="A long DPO stage costs",
        yscale="log",
        xlabel="share of the preference stage",
        ylabel="(SFT + preference loss) / 2",
        xlim=(0.05, 1.45),
        xticks=shares[[0, len(shares) // 2, -1]],
        yticks=(0.5, 1, 2, 4),
        yticklabels=("0.5", "1", "2", "4"),
    )
    ax.minorticks_off()


def draw_remedies(ax: Axes, ends: pd.DataFrame, anchored: pd.DataFrame, grid: pd.DataFrame) -> None:
    """What every remedy keeps: exact match (filled) and right answers in any style (open)."""
    rows = {
        f"β = {b}, {r} ref.": one(anchored, b, r.lower()) for r in ("base", "SFT") for b in BETAS
    }
    rows |= {f"replay {r:.0%}": ends[ends["replay"] == r] for r in REPLAYS[1:]}
    joint = grid[(grid["lam"] == 0.5) & (grid["method"] == "ALRIGHT")]
    rows["ALRIGHT, λ = ½"] = joint[joint["seed"].isin(ends["seed"].unique())]
    for place, (label, found) in enumerate(rows.items()):
        look = style.look("ALRIGHT") if label.startswith("ALRIGHT") else REMEDY
        for name, fill in (("exact_match", look.color), ("answer_match", "white")):
            end = interval(found[name])
            ax.errorbar(
                end.mean,
                place,
                xerr=end.high - end.mean,
                **look.dots(markerfacecolor=fill, capsize=2, linewidth=1),
            )
    ax.set(
        title="KL anchors do not",
        xlabel="share kept right",
        yticks=range(len(rows)),
        yticklabels=list(rows),
        xlim=(0, 1),
    )
    ax.invert_yaxis()
    half = rows[f"replay {REPLAYS[-1]:.0%}"]
    for name, text in (("exact_match", "exact"), ("answer_match", "any style")):
        ax.annotate(text, (float(half[name].mean()), 7.7), fontsize=7.5, ha="center")


def claim_replay_keeps_the_skill(fast: bool = False) -> Checked:
    """With half of the second stage's updates on SFT rows, more exact match is kept (lower).

    ``measured`` is the lower end of its 95 % interval, ``bound`` the upper end without replay.
    """
    found = read_json(PAPER / "results" / "lm_forgetting.json")["numbers"]
    low, high = (_end(found["replay"][k], s) for k, s in (("0.5", -1), ("0.0", 1)))
    return Checked(low, high, "lower", {"n": float(found["seeds"])}, 0.0)


def claim_anchor_does_not_prevent(fast: bool = False) -> Checked:
    """At every beta and with both references exact match falls in the second stage (upper).

    ``measured`` are upper ends of 95 % intervals of the change, on the same prompts and runs.
    """
    found = read_json(PAPER / "results" / "lm_forgetting.json")["numbers"]
    high = np.array([upper(kept["exact_match_change"]) for kept in found["anchor"].values()])
    return Checked(high, np.zeros_like(high), "upper", {"n": float(found["seeds"])}, 0.0)


def claim_best_reverse_split_rivals_joint(fast: bool = False) -> Checked:
    """Against us: the best split of DPO→SFT, chosen with hindsight, beats two of them (upper).

    ``measured`` are upper ends of 95 % intervals of its equal-weight loss less that of ALRIGHT
    and MAXRIGHT at lambda = 1/2, paired by seed.
    """
    found = read_json(PAPER / "results" / "lm_forgetting.json")["numbers"]
    cells = [found["best_split_minus_joint"][f"DPO→SFT - {m}"] for m in ("ALRIGHT", "MAXRIGHT")]
    high = np.array([cell["mean"] + cell["half_width"] for cell in cells])
    return Checked(high, np.zeros(2), "upper", {"n": float(found["seeds"])}, 0.0)


def _end(cells: dict[str, Any], sign: int) -> float:
    """Upper (1) or lower (-1) end of the stored interval of exact match."""
    stored = cells["exact_match"]
    return float(stored["mean"] + sign * stored["half_width"])


if __name__ == "__main__":
    main(Path("out"))
