"""How many rounds does SmolLM2 need? K rounds of SFT and DPO, compared with joint training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.dossier import style
from analysis.fernando2024.real import smol_methods, smol_shown

CAPTION = (
    f"{smol_shown.ABOUT} Weighted loss less that of SFT→DPO, paired by seed, in ranges from base "
    "to ideal point; one round is SFT→DPO. Lines: joint methods. Command: python -m analysis "
    "smol_rounds"
)
words = smol_shown.words
JOINT = ("alright", "mix")


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_rounds", fast)
    smol_shown.panels(
        out,
        "smol_rounds",
        found["pairs"],
        lambda ax, pair, one: draw(ax, one),
        x="rounds K",
        y="weighted loss − SFT→DPO (ranges)",
        legend={"fontsize": 7},
        height=3.0,
        sharey=True,
    )
    return found


def alternation(one: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Weighted loss less that of SFT→DPO, by number of rounds."""
    found = {1: one["methods"]["sft-dpo"]["less_baseline_in_ranges"]}
    for name, method in one["methods"].items():
        if name.startswith("rounds-"):
            found[int(name.removeprefix("rounds-"))] = method["less_baseline_in_ranges"]
    return dict(sorted(found.items()))


def draw(ax: Any, one: Mapping[str, Any]) -> None:
    """Draw the curve of one pair of data sets."""
    curve, look = alternation(one), style.look("rounds")
    means = [cell["mean"] for cell in curve.values()]
    halves = [cell["half_width"] or 0.0 for cell in curve.values()]
    ax.errorbar(list(curve), means, halves, capsize=2, **look.line_style())
    for name in JOINT:
        if name in one["methods"]:
            cell = one["methods"][name]["less_baseline_in_ranges"]
            own = style.look(name)
            ax.axhline(cell["mean"], color=own.color, ls=own.line, label=smol_methods.label(name))
    ax.axhline(0, **style.BOUND)
    ax.set_xscale("log", base=2)
    ticks = np.array(list(curve))
    ax.set_xticks(ticks, [str(k) for k in ticks])
