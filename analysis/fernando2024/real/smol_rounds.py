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
    pairs = found["pairs"]
    with style.figure(1, max(1, len(pairs)), height=3.0, squeeze=False, sharey=True) as (fig, axes):
        if not pairs:
            smol_shown.empty(axes[0])
        for ax, (pair, one) in zip(axes[0], pairs.items(), strict=False):
            draw(ax, one)
            ax.set(title=pair, xlabel="rounds K")
        if pairs:
            axes[0][0].set_ylabel("weighted loss − SFT→DPO (ranges)")
            axes[0][0].legend(fontsize=7)
        style.save(fig, out, "smol_rounds")
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
