"""How fast does SmolLM2 relearn its demonstrations after each method?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.dossier import style
from analysis.fernando2024.real import smol_shown

CAPTION = (
    "SmolLM2-135M-Instruct, dequantised from 4 bits (scores are not comparable with published "
    "ones): SFT loss while the end of each method is trained on demonstrations again. The dashed "
    "line is the mean of runs on SFT alone. What varies is the seed, n = {seeds}; held out. "
    "{intervals} Command: python -m analysis smol_relearning"
)
words = smol_shown.words


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_relearning", fast, "relearning")

    def panel(ax: Any, pair: str, one: Mapping[str, Any]) -> None:
        draw(ax, one)
        ax.axhline(found["pairs"][pair]["ideal"][0], **style.BOUND)

    smol_shown.panels(
        out,
        "smol_relearning",
        smol_shown.beyond(found, "relearning"),
        panel,
        x="updates of SFT after the run",
        y="SFT loss (nats per token)",
        legend={"fontsize": 7, "handlelength": 3},
        height=3.0,
    )
    return found


def draw(ax: Any, one: Mapping[str, Any]) -> None:
    """A curve for each method."""
    for name, curve in one["methods"].items():
        means = [cell["mean"] for cell in curve["sft_loss"]]
        halves = [smol_shown.reach(cell, one["seeds"]) for cell in curve["sft_loss"]]
        look = style.look(name).line_style(label=smol_shown.label(one, name))
        ax.errorbar(curve["updates"], means, halves, capsize=2, **look)
