"""Is a skill erased by the preference stage, or only suppressed?

Left: three ways to ask for the same skill, after each stage. Right: the SFT loss while the
demonstrations are met again, against the same number of updates from the base model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis import lm_study, style
from analysis.lm_study import Array, values
from analysis.methods import cell, cost
from analysis.runner import PAPER
from tradeoff.records import read_json
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

PROBES = ("exact", "answer", "statement")
CAPTION = (
    "The tiny language model (conflict 0.5) trained on 60 SFT updates, then on 12 or 60 DPO "
    "updates with the SFT model as reference, then on 60 SFT updates with new draws (left: after "
    "60). Left: share of held-out questions answered exactly as demonstrated; rightly in any "
    "style; rightly when the question is rewritten as the beginning of the sentence that states "
    "its answer, as the corpus had it. Right: held-out SFT loss during SFT; 'never taught' had "
    "the 60 DPO updates without any SFT before. Updates to regain the loss count as 60 where 60 do "
    "not suffice; the numbers hold how many runs those are. What varies is the order of the rows, "
    "n = 10 seeds; SFT after DPO draws alike whatever came before, but not as SFT of the base "
    "model does. Bars and bands are 95 % t-intervals. The base model is one, so its probes have "
    "none. Command: python -m analysis lm_suppressed"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = stages(scale)
    short, long = sorted(table["forget"].unique())
    with style.figure(1, 2, height=3.5) as (fig, (left, right)):
        draw_probes(left, table, short, long)
        draw_relearning(right, table, short, long)
        style.save(fig, out, "lm_suppressed")
    return {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "sft_updates": int(table["updates"].iloc[0]),
        "dpo_updates": [int(short), int(long)],
        "probes": {
            name: {probe: cell(interval(row)) for probe, row in found.items()}
            for name, found in probed(table, short, long).items()
        },
        "kept_share_after_short": kept_shares(table, short),
        "kept_share_after_long": kept_shares(table, long),
        "updates_to_regain": {
            name: cell(interval(regain(table, *place)))
            for name, place in places(short, long).items()
        },
        "not_regained": {
            name: int(missed(table, *place).sum()) for name, place in places(short, long).items()
        },
        "head_start": {
            f"after {forget} DPO updates": cell(
                paired_difference(
                    at_end(table, forget, "control", "sft_loss"),
                    at_end(table, forget, "relearn", "sft_loss"),
                )
            )
            for forget in (short, long)
        },
        "saved_updates": {
            f"after {forget} DPO updates, against {other}": cell(
                paired_difference(regain(table, forget, other), regain(table, forget, "relearn"))
            )
            # Of the longer stage too few come back for a comparison with those never taught.
            for forget, other in ((short, "learn"), (short, "control"), (long, "learn"))
        },
    }


def stages(scale: str) -> pd.DataFrame:
    """Every stage of every run, after a short and a long preference stage."""
    updates = lm_study.SCALES[scale].gradients // 2
    runs = [
        {
            "scale": scale,
            "conflict": 0.5,
            "seed": seed,
            "updates": updates,
            "forget": forget,
            "marks": 12 if scale == "full" else 2,
        }
        for forget in (updates // 5, updates)
        for seed in lm_study.seeds(scale)
    ]
    return lm_study.relearning(scale, runs)


def at_end(table: pd.DataFrame, forget: int, stage: str, column: str) -> Array:
    """(seed,) one measure at the end of a stage."""
    rows = table[(table["forget"] == forget) & (table["stage"] == stage)]
    return rows.groupby("seed").tail(1).sort_values("seed")[column].to_numpy(dtype=float)


def probed(table: pd.DataFrame, short: int, long: int) -> dict[str, dict[str, Array]]:
    """Values of all probes by seed after each stage."""
    places = {
        "base": (long, "base"),
        "SFT": (long, "learn"),
        f"{short} DPO": (short, "forget"),
        f"{long} DPO": (long, "forget"),
        "SFT again": (long, "relearn"),
    }
    return {
        name: {probe: at_end(table, *place, probe) for probe in (*PROBES, "style")}
        for name, place in places.items()
    }


def kept_shares(table: pd.DataFrame, forget: int) -> dict[str, Any]:
    """Score after the preference stage over the score before it, by probe."""
    found = {}
    for probe in PROBES:
        before = np.maximum(at_end(table, forget, "learn", probe), 1e-9)
        found[probe] = cell(interval(at_end(table, forget, "forget", probe) / before))
    return found


def curve(table: pd.DataFrame, forget: int, stage: str) -> tuple[Array, Array]:
    """Updates (time,) and SFT losses (seed, time) along a stage."""
    rows = table[(table["forget"] == forget) & (table["stage"] == stage)]
    return np.sort(rows["step"].unique()).astype(float), values(rows, "sft_loss", "step")


def regain(table: pd.DataFrame, forget: int, stage: str) -> Array:
    """(seed,) updates until the SFT loss is within a tenth of where the first SFT stage ended.

    Linear between evaluations; a run that does not get there counts with all its updates.
    """
    steps, losses = curve(table, forget, stage)
    found = []
    for loss, goal in zip(losses, goals(table, forget), strict=True):
        below = np.flatnonzero(loss <= goal)
        k = int(below[0]) if below.size else len(steps) - 1
        if k == 0 or not below.size:
            found.append(steps[k])
            continue
        part = (loss[k - 1] - goal) / (loss[k - 1] - loss[k])
        found.append(steps[k - 1] + part * (steps[k] - steps[k - 1]))
    return np.array(found)


def goals(table: pd.DataFrame, forget: int) -> Array:
    """(seed,) SFT losses that count as regained."""
    return 1.1 * at_end(table, forget, "learn", "sft_loss")


def missed(table: pd.DataFrame, forget: int, stage: str) -> NDArray[np.bool_]:
    """(seed,) whether the SFT loss is never regained."""
    return curve(table, forget, stage)[1].min(axis=1) > goals(table, forget)


def places(short: int, long: int) -> dict[str, tuple[int, str]]:
    """Where SFT begins, by what came before: length of the preference stage, and the stage."""
    return {
        "from the base model": (long, "learn"),
        f"after {short} DPO updates": (short, "relearn"),
        f"after {long} DPO updates": (long, "relearn"),
        f"never taught, after {short} DPO updates": (short, "control"),
        f"never taught, after {long} DPO updates": (long, "control"),
    }


def claim_short_stage_hides(fast: bool = False) -> Checked:
    """After the short preference stage SFT is regained sooner than from a base model (lower).

    ``measured`` is the lower end of the 95 % interval of the updates saved, against a base model
    and against one with the same preference stage that was never taught.
    """
    found = read_json(PAPER / "results" / "lm_suppressed.json")["numbers"]
    short = found["dpo_updates"][0]
    cells = [
        found["saved_updates"][f"after {short} DPO updates, against {other}"]
        for other in ("learn", "control")
    ]
    low = [cell["mean"] - cell["half_width"] for cell in cells]
    return Checked(np.array(low), np.zeros(2), "lower", {"n": float(found["seeds"])}, 0.0)


def claim_long_stage_destroys(fast: bool = False) -> Checked:
    """After the long stage no rewrite finds the skill and relearning saves nothing (upper).

    ``measured`` are upper ends of 95 % intervals: right answers as statements, against half of
    what the base model had before any training, and the updates saved against a base model.
    """
    found = read_json(PAPER / "results" / "lm_suppressed.json")["numbers"]
    long = found["dpo_updates"][1]
    probe = {name: found["probes"][name]["statement"] for name in ("base", f"{long} DPO")}
    saved = found["saved_updates"][f"after {long} DPO updates, against learn"]
    high = [cell["mean"] + cell["half_width"] for cell in (probe[f"{long} DPO"], saved)]
    bound = [probe["base"]["mean"] / 2, 0.0]
    return Checked(np.array(high), np.array(bound), "upper", {"n": float(found["seeds"])}, 0.0)


LINES = {
    "statement": ("as a statement", "#009E73", "^", "-."),
    "answer": ("any style", "#0072B2", "s", (0, (4, 1.5))),
    "exact": ("exact", "#D55E00", "o", "-"),
}


def draw_probes(ax: Axes, table: pd.DataFrame, short: int, long: int) -> None:
    """The three probes after each stage."""
    found = probed(table, short, long)
    for probe, (text, color, marker, line) in LINES.items():
        ends = [interval(row[probe]) for row in found.values()]
        mean = np.array([float(end.mean) for end in ends])
        half = np.array([float(end.high - end.mean) for end in ends])
        ax.errorbar(
            range(len(mean)), mean, yerr=half, color=color, marker=marker, linestyle=line, capsize=2
        )
        style.label_line(ax, len(mean) - 1, mean[-1], text, color=color)
    ax.set(
        title="12 DPO updates hide a skill, 60 destroy it",
        ylabel="share answered rightly",
        xticks=range(len(found)),
        xticklabels=[name.replace(" ", "\n") for name in found],
        ylim=(-0.03, 1.03),
        xlim=(-0.3, len(found) + 0.35),
    )


def draw_relearning(ax: Axes, table: pd.DataFrame, short: int, long: int) -> None:
    """SFT loss while demonstrations are met, for the first time or again."""
    looks = (
        ("base model", (long, "learn"), "0.35", "o", ":", 0.0),
        (f"after {short} DPO updates", (short, "relearn"), "#0072B2", "s", (0, (4, 1.5)), 0.0),
        (f"after {long} DPO updates", (long, "relearn"), "#D55E00", "^", "-", 0.0),
        ("never taught", (long, "control"), "#000000", "D", "-.", 0.1),
    )
    for text, place, color, marker, line, shift in looks:
        steps, losses = curve(table, *place)
        found = interval(losses)
        ax.plot(steps, found.mean, color=color, marker=marker, markersize=3.5, linestyle=line)
        low = np.maximum(found.low, 1e-3)
        ax.fill_between(steps, low, found.high, color=color, alpha=0.15, linewidth=0)
        style.label_line(ax, steps[-1], found.mean[-1] * 10**shift, text, color=color)
    ax.set(
        title="What was hidden comes back fast",
        yscale="log",
        xlabel="SFT updates",
        ylabel="SFT loss (nats per token)",
        xlim=(-2, 1.65 * steps[-1]),
        xticks=steps[:: max(1, len(steps) // 3)],
    )


if __name__ == "__main__":
    main(Path("out"))
