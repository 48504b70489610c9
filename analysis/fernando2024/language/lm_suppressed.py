"""Is a skill erased by the preference stage, or only suppressed?

Left: three ways to ask for the same skill, after each stage. Right: the SFT loss while SFT
is repeated, against the same number of updates from the base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate, reject_unknown
from analysis.fernando2024.language import lm_models, lm_study
from analysis.fernando2024.language.lm_models import SCALES
from analysis.fernando2024.language.lm_relearning import relearning
from analysis.fernando2024.language.lm_study import Array, values
from analysis.fernando2024.methods import cell, cost, lower, upper
from analysis.fernando2024.stored import shown
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

PROBES = ("exact", "answer", "statement")
CAPTION = (
    "Is a skill erased by the preference stage, or suppressed? Tiny language model, conflict 1/2: "
    "{sft} SFT updates, {short} or {long} DPO updates, SFT again. Left: held-out questions "
    "answered exactly, in any style, or as the end of a statement. Right: held-out SFT loss during "
    "the last SFT; 'never taught' had the same DPO updates without SFT before (hollow: {short}). "
    "What varies is the seed, n = {seeds}; 95 % t-intervals. Command: python -m analysis "
    "lm_suppressed"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "sft": str(numbers["sft_updates"]),
        "short": str(min(numbers["dpo_updates"])),
        "long": str(max(numbers["dpo_updates"])),
        "seeds": str(numbers["seeds"]),
    }


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
        "rates": table["rates"].iloc[0] if "rates" in table else None,
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
            # A run that does not regain the loss counts with all its updates, see "not_regained".
            for forget in (short, long)
            for other in ("learn", "control")
        },
    }


def stages(scale: str) -> pd.DataFrame:
    """Every stage of every run, after a short and a long preference stage."""
    updates = SCALES[scale].gradients // 2
    rates = [lm_study.sft_rate(scale, 0.5), SCALES[scale].rate]
    runs = [
        {
            "scale": scale,
            "conflict": 0.5,
            "seed": seed,
            "updates": updates,
            "forget": forget,
            "rates": rates,
            "marks": 6 if scale == "full" else 2,
        }
        for forget in (updates // 5, updates)
        for seed in lm_study.seeds(scale)
    ]
    lm_models.prepare(scale, [0.5], [])
    return relearning(scale, runs)


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
    """Updates (time,) and SFT losses (seed, time) during a stage."""
    rows = table[(table["forget"] == forget) & (table["stage"] == stage)]
    return np.sort(rows["step"].unique()).astype(float), values(rows, "sft_loss", "step")


def regain(table: pd.DataFrame, forget: int, stage: str) -> Array:
    """(seed,) updates until the SFT loss is within a tenth of its value after the first SFT stage.

    The loss is interpolated between evaluations. A run that does not regain it counts with all its
    updates.
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
    """(seed,) largest SFT losses that count as regained."""
    return 1.1 * at_end(table, forget, "learn", "sft_loss")


def missed(table: pd.DataFrame, forget: int, stage: str) -> NDArray[np.bool_]:
    """(seed,) whether the SFT loss is never regained."""
    return curve(table, forget, stage)[1].min(axis=1) > goals(table, forget)


def places(short: int, long: int) -> dict[str, tuple[int, str]]:
    """Starting points of SFT by name: length of the preference stage, and the stage of SFT."""
    return {
        "from the base model": (long, "learn"),
        f"after {short} DPO updates": (short, "relearn"),
        f"after {long} DPO updates": (long, "relearn"),
        f"never taught, after {short} DPO updates": (short, "control"),
        f"never taught, after {long} DPO updates": (long, "control"),
    }


LINES = {
    "statement": ("as a statement", "#009E73", "^", "-."),
    "answer": ("any style", "#0072B2", "s", (0, (4, 1.5))),
    "exact": ("exact", "#D55E00", "o", "-"),
}


def draw_probes(ax: Axes, table: pd.DataFrame, short: int, long: int) -> None:
    """Draw the three probes after each stage."""
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
        title="Three ways to ask for the skill",
        ylabel="share answered rightly",
        xticks=range(len(found)),
        xticklabels=[name.replace(" ", "\n") for name in found],
        ylim=(-0.03, 1.03),
        xlim=(-0.3, len(found) + 0.35),
    )


def draw_relearning(ax: Axes, table: pd.DataFrame, short: int, long: int) -> None:
    """Draw the SFT loss while SFT is trained for the first time or again."""
    looks = (
        ("base model", (long, "learn"), "0.35", "o", ":", 0.0),
        (f"after {short} DPO updates", (short, "relearn"), "#0072B2", "s", (0, (4, 1.5)), 0.0),
        (f"after {long} DPO updates", (long, "relearn"), "#D55E00", "^", "-", 0.0),
        ("never taught", (long, "control"), "#000000", "D", "-.", 0.1),
        ("", (short, "control"), "#000000", "D", "-.", 0.0),
    )
    for text, place, color, marker, line, shift in looks:
        steps, losses = curve(table, *place)
        found = interval(losses)
        fill = color if text else "white"
        ax.plot(
            steps, found.mean, color=color, marker=marker, markersize=3.5, linestyle=line,
            markerfacecolor=fill,
        )  # fmt: skip
        low = np.maximum(found.low, 1e-3)
        ax.fill_between(steps, low, found.high, color=color, alpha=0.15, linewidth=0)
        style.label_line(ax, steps[-1], found.mean[-1] * 10**shift, text, color=color)
    ax.set(
        title="SFT, for the first time or again",
        yscale="log",
        xlabel="SFT updates",
        ylabel="SFT loss (nats per token)",
        xlim=(-2, 1.65 * steps[-1]),
        xticks=steps[:: max(1, len(steps) // 3)],
    )


# ---------------------------------------------------------------------- claims


def claim_short_stage_hides(fast: bool = False, mutation: str | None = None) -> Checked:
    """After the short preference stage SFT is regained sooner than from a base model (lower).

    ``measured`` holds lower ends of 95 % intervals of the updates saved. The comparisons are a base
    model, and one with the same preference stage without SFT before.
    """
    del fast
    found = _stored()
    short = found["dpo_updates"][0]
    cells = [
        found["saved_updates"][f"after {short} DPO updates, against {other}"]
        for other in ("learn", "control")
    ]
    honest, wrong = [lower(cell) for cell in cells], [-upper(cell) for cell in cells]
    low = np.array(mutate(mutation, honest, {SWAPPED: wrong}))
    return Checked(low, np.zeros(2), "lower", {"n": float(found["seeds"])}, 0.0)


def claim_long_stage_leaves_a_head_start(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """After the long stage no rewrite shows the skill, but relearning is still faster (upper).

    ``measured`` holds upper ends of 95 % intervals of two values. First, correct answers as
    statements, with half of the base model's as bound. Second, the SFT loss after relearning less
    that of a model with the same preference stage without SFT before.
    """
    reject_unknown(mutation, (SWAPPED, "short-stage"))
    del fast
    found = _stored()
    short, long = found["dpo_updates"]
    after = short if mutation == "short-stage" else long
    probe = found["probes"][f"{after} DPO"]["statement"]
    start = found["head_start"][f"after {long} DPO updates"]
    trace = upper(start) if mutation == SWAPPED else -lower(start)
    bound = [found["probes"]["base"]["statement"]["mean"] / 2, 0.0]
    n = float(found["seeds"])
    return Checked(np.array([upper(probe), trace]), np.array(bound), "upper", {"n": n}, 0.0)


def _stored() -> dict[str, Any]:
    return shown("lm_suppressed")


if __name__ == "__main__":
    main(Path("out"))
