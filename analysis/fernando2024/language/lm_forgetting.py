"""What prevents forgetting: the step size, the KL anchor, or replay?

SFT→DPO with one step size for both stages forgets. Each remedy is added to that run alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate
from analysis.fernando2024.language import lm_study
from analysis.fernando2024.language.lm_models import SCALES
from analysis.fernando2024.language.lm_study import Array, values
from analysis.fernando2024.methods import cell, cost, label, lower, upper
from analysis.fernando2024.stored import shown
from tradeoff.plots import label_lines
from tradeoff.schedules import Sequential
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

REPLAYS = (0.0, 0.25, 0.5)
BETAS = (0.1, 2.0)
REFERENCES = ("base", "sft")
# The markers are not those of the methods, which the other panel shows.
NEUTRAL = (
    style.Look("0.5", "x", "-"),
    style.Look("0.3", ">", "-."),
    style.Look("0.1", "*", (0, (1, 1))),
)
REMEDY = style.Look("0.35", "d", "-")
TUNED = "tuned step sizes"
JOINT = "alright"
"""The joint method that is shown with the remedies."""
CAPTION = (
    "What prevents forgetting? Tiny language model, λ = 1/2, conflict 1/2, equal cost. Left: exact "
    "match during SFT→DPO with one step size, with SFT rows replayed in the second stage, or with "
    "tuned step sizes; the vertical line marks the second stage. Right: final exact match (filled) "
    "and correct answers in any style (open). What varies is the seed, n = {seeds}; 95 % "
    "t-intervals. Command: python -m analysis lm_forgetting"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {"seeds": str(numbers["seeds"])}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    along, anchored = remedies(scale), anchors(scale)
    grid = lm_study.compared(scale, [(0.5, 0.5)])
    ends = lm_study.finals(along)
    numbers = {
        "seeds": int(ends["seed"].nunique()),
        "training": cost(along, anchored, grid),
        "gradients": SCALES[scale].gradients,
        "common_rate": SCALES[scale].rate,
        "replay": {str(replay): remedy(along, ends, str(replay)) for replay in REPLAYS},
        "tuned": remedy(along, ends, TUNED),
        "share_along": curve(along, "0.0")[0],
        "anchor": {
            f"beta {beta}, reference {reference}": anchor(one(anchored, beta, reference))
            for beta in BETAS
            for reference in REFERENCES
        },
        "joint": scores(grid[grid["method"] == JOINT]),
    }
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Draw exact match along the run, and final scores by remedy."""
    with style.figure(1, 2, height=3.6) as (fig, (left, right)):
        fig.set_layout_engine("constrained", wspace=0.06)
        draw_curves(left, numbers)
        draw_remedies(right, numbers)
        style.save(fig, out, "lm_forgetting")


def scores(rows: pd.DataFrame) -> dict[str, Any]:
    """Intervals over seeds of the scores of one table."""
    names = ("sft_loss", "exact_match", "answer_match", "preference_match", "preference_accuracy")
    return {name: cell(interval(rows.sort_values("seed")[name])) for name in names}


def anchor(rows: pd.DataFrame) -> dict[str, Any]:
    """Scores with one anchor, and the change of exact match in the second stage."""
    change = rows.sort_values("seed")["change"]
    return {**scores(rows), "exact_match_change": cell(interval(change))}


def one(table: pd.DataFrame, beta: float, reference: str) -> pd.DataFrame:
    """Rows of one anchor."""
    return table[(table["beta"] == beta) & (table["reference"] == reference)]


def remedy(along: pd.DataFrame, ends: pd.DataFrame, name: str) -> dict[str, Any]:
    """Scores with one remedy, during the run and at its end."""
    return {
        **scores(ends[ends["remedy"] == name]),
        "exact_match_along": cell(interval(curve(along, name)[1])),
        "share_along": curve(along, name)[0].tolist(),
        "exact_match_change": cell(interval(change(along[along["remedy"] == name]))),
        "exact_match_less_none": cell(
            paired_difference(exact(ends, name), exact(ends, str(REPLAYS[0])))
        ),
    }


def exact(ends: pd.DataFrame, name: str) -> Array:
    """(seed,) final exact match with one remedy."""
    rows = ends[ends["remedy"] == name].sort_values("seed")
    return rows["exact_match"].to_numpy(dtype=float)


def change(table: pd.DataFrame) -> Array:
    """(runs,) exact match after the second stage less exact match after the first, same prompts.

    The first half of the evaluations belongs to the first stage.
    """
    marks = table.groupby("run")["exact_match"]
    middle = (len(table) // table["run"].nunique() - 1) // 2
    return marks.nth(-1).to_numpy(dtype=float) - marks.nth(middle).to_numpy(dtype=float)


def curve(along: pd.DataFrame, name: str) -> tuple[Array, Array]:
    """Shares of the run (time,) and exact matches (seed, time) at these shares."""
    rows = along[along["remedy"] == name]
    exact = values(rows.assign(mark=rows.groupby("run").cumcount()), "exact_match", "mark")
    steps = np.sort(rows["step"].unique()).astype(float)
    return steps / steps[-1], exact


def remedies(scale: str) -> pd.DataFrame:
    """Runs of SFT→DPO with one step size, with replay, and with tuned steps, with evaluations."""
    common = [SCALES[scale].rate] * 2
    runs, names = [], []
    for seed in lm_study.seeds(scale):
        for replay in REPLAYS:
            rule = Sequential(replay=replay)
            runs.append(lm_study.configuration(scale, rule, seed, rates=common, **detail(scale)))
            names.append(str(replay))
        runs.append(lm_study.configuration(scale, Sequential(), seed, **detail(scale)))
        names.append(TUNED)
    table = lm_study.run(scale, runs)
    return table.assign(remedy=[names[k] for k in table["run"]])


def anchors(scale: str) -> pd.DataFrame:
    """Final scores of SFT→DPO with one step size and an even split, by beta and reference.

    ``change`` is the change of exact match in the second stage, see :func:`change`.
    """
    common = [SCALES[scale].rate] * 2
    runs = [
        lm_study.configuration(
            scale, Sequential(), seed, beta=beta, reference=reference, rates=common, **detail(scale)
        )
        for beta in BETAS
        for reference in REFERENCES
        for seed in lm_study.seeds(scale)
    ]
    table = lm_study.run(scale, runs)
    return lm_study.finals(table).assign(change=change(table))


def detail(scale: str) -> dict[str, Any]:
    """Settings for more evaluations, half of them in each stage, all with generated responses."""
    return {"marks": 6, "generated": 60} if scale == "full" else {"marks": 2, "generated": 8}


def draw_curves(ax: Axes, numbers: Mapping[str, Any]) -> None:
    """Draw exact match along the run, by remedy."""
    texts = ("no replay", "replay 25 %", "replay 50 %", "tuned steps")
    ends: dict[str, tuple[float, str]] = {}
    names = (*map(str, REPLAYS), TUNED)
    for name, look, text in zip(names, (*NEUTRAL, REMEDY), texts, strict=True):
        kept = numbers["tuned"] if name == TUNED else numbers["replay"][name]
        found = kept["exact_match_along"]
        shares = kept.get("share_along") or numbers["share_along"]
        mean, half = (np.asarray(found[key]) for key in ("mean", "half_width"))
        ax.plot(shares, mean, **look.line_style())
        ax.fill_between(shares, mean - half, mean + half, color=look.color, alpha=0.15, linewidth=0)
        ends[text] = (float(mean[-1]), look.color)
    ax.axvline(0.5, **style.BOUND)
    ax.annotate("second stage", (0.52, 0.015), fontsize=8, color="0.35")
    ax.set(
        title="Exact match along the run",
        xlabel="share of the run",
        ylabel="exact match",
        ylim=(0, 0.65),
        xlim=(-0.03, 1.36),
        xticks=np.linspace(0, 1, 6),
    )
    label_lines(ax, 1.0, ends)


def draw_remedies(ax: Axes, numbers: Mapping[str, Any]) -> None:
    """Draw final exact match (filled) and correct answers in any style (open), by remedy."""
    anchored, replays = numbers["anchor"], numbers["replay"]
    rows = {
        f"β = {b}, {r} ref.": anchored[f"beta {b}, reference {r.lower()}"]
        for r in ("base", "SFT")
        for b in BETAS
    }
    rows |= {f"replay {100 * r:.0f} %": replays[str(r)] for r in REPLAYS[1:]}
    rows[TUNED] = numbers["tuned"]
    if joint := numbers.get("joint"):  # Results stored by older versions lack this value.
        rows[f"{label(JOINT)}, tuned"] = joint
    for place, found in enumerate(rows.values()):
        look = style.look(JOINT) if found is joint else REMEDY
        for name, fill in (("exact_match", look.color), ("answer_match", "white")):
            ax.errorbar(
                found[name]["mean"],
                place,
                xerr=found[name]["half_width"],
                **look.dots(markerfacecolor=fill, capsize=2, linewidth=1),
            )
    ax.set(
        title="At the end, by remedy",
        xlabel="share kept right",
        yticks=range(len(rows)),
        yticklabels=list(rows),
        xlim=(0, 1),
    )
    ax.invert_yaxis()
    for name, fill in (("exact match", "0.35"), ("right in any style", "white")):
        ax.plot([], [], "d", color="0.35", markerfacecolor=fill, label=name)
    ax.legend(loc="upper right", fontsize=8, handletextpad=0.2)


# ---------------------------------------------------------------------- claims


def claim_replay_keeps_the_skill(fast: bool = False, mutation: str | None = None) -> Checked:
    """With half of the second stage's updates on SFT rows, more exact match is kept (lower).

    ``measured`` is the lower end of the 95 % interval with replay. ``bound`` is the upper end
    without.
    """
    del fast
    found = _stored()
    kept, none = (found["replay"][key]["exact_match"] for key in ("0.5", "0.0"))
    more, less = mutate(mutation, (kept, none), {SWAPPED: (none, kept)})
    return Checked(lower(more), upper(less), "lower", {"n": float(found["seeds"])}, 0.0)


def claim_anchor_does_not_prevent(fast: bool = False, mutation: str | None = None) -> Checked:
    """At every beta and with both references exact match falls in the second stage (upper).

    ``measured`` holds upper ends of 95 % intervals of the change, on the same prompts and runs.
    """
    del fast
    found = _stored()
    changes = [kept["exact_match_change"] for kept in found["anchor"].values()]
    honest, wrong = [upper(change) for change in changes], [-lower(change) for change in changes]
    high = np.array(mutate(mutation, honest, {"ends-exchanged": wrong}))
    return Checked(high, np.zeros_like(high), "upper", {"n": float(found["seeds"])}, 0.0)


def _stored() -> dict[str, Any]:
    return shown("lm_forgetting")


if __name__ == "__main__":
    main(Path("out"))
