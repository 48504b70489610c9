"""How do methods compare on SmolLM2? Rounds, log-probabilities, and pairs that flip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.dossier import style
from analysis.fernando2024.real import smol_shown

CAPTION = (
    f"{smol_shown.ABOUT} Left: weighted loss less that of SFT→DPO, paired by seed, in ranges from "
    "base to ideal point. Middle: change of log-probabilities (filled: chosen; open: rejected). "
    "Right: pairs whose order changed (right: gained; left: lost). "
    "Command: python -m analysis smol_methods_compared"
)
words = smol_shown.words
TITLES = ("weighted loss − SFT→DPO (ranges)", "change (nats)", "pairs flipped (%)")


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_methods_compared", fast)
    pairs = found["pairs"]
    rows = max([4, *(len(one["methods"]) for one in pairs.values())])
    height = (0.7 + 0.2 * rows) * max(1, len(pairs))
    with style.figure(max(1, len(pairs)), 3, height=height, squeeze=False, sharey="row") as made:
        fig, axes = made
        if not pairs:
            smol_shown.empty(axes[0])
        for row, (pair, one) in zip(axes, pairs.items(), strict=False):
            draw(row, one)
            row[0].set_title(pair)
            for ax, title in zip(row, TITLES, strict=True):
                ax.set_xlabel(title, fontsize=8)
        style.save(fig, out, "smol_methods_compared")
    return found


def draw(axes: Any, one: Mapping[str, Any]) -> None:
    """Draw three quantities of one pair of data sets, with one row per method."""
    names = list(one["methods"])
    for row, name in enumerate(names):
        method, look = one["methods"][name], style.look(name)
        bar(axes[0], method["less_baseline_in_ranges"], row, look.dots())
        bar(axes[1], method["chosen"], row, look.dots())
        bar(axes[1], method["rejected"], row, look.dots(fillstyle="none"))
        bar(axes[2], method["flips"]["gained"], row, look.dots())
        bar(axes[2], method["flips"]["lost"], row, look.dots(), sign=-1.0)
    for ax in axes:
        ax.axvline(0, **style.BOUND)
    axes[0].set_yticks(range(len(names)), [smol_shown.label(one, n) for n in names], fontsize=7)
    axes[0].set_ylim(len(names) - 0.5, -0.5)


def bar(
    ax: Any, cell: Mapping[str, Any], row: int, look: dict[str, Any], sign: float = 1.0
) -> None:
    """Draw a mean with its interval, or without one if there is a single seed."""
    half = cell["half_width"]
    ax.errorbar(sign * cell["mean"], row, xerr=None if half is None else half, capsize=2, **look)
