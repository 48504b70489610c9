"""Do scores on two losses tell how networks drift, lose rows, are calibrated and forget?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.arena.pictures.third import LABELLED
from analysis.arena.pictures.third import SCORES as CONVEX
from analysis.arena.stored import beside, means
from analysis.arena.transfer import TITLES
from analysis.dossier import style
from tradeoff.arena.ranks import kendall
from tradeoff.errors import InputError
from tradeoff.methods import find

CAPTION = (
    "Each dot is a method, mean over the problems and weights of a scale: regret on held-out rows "
    "against KL divergence from the policy before training, flips of held-out rows against SFT "
    "alone over what chance gives, calibration error, and on the language model the rise of the "
    "loss of held-out documents. Kendall's tau with the regret: {taus}. On policies rows are "
    "demonstrations, on the language model tokens. {replicas}; what varies is the data drawn and, "
    "on policies, the initial weights. Command: python -m analysis third_networks --paper arena."
)
SCALES = ("policies", "language")
SCORES = {name: CONVEX[name] for name in ("kl", "flips", "calibration")} | {
    "documents": "rise on documents (nats)"
}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    boards = {scale: beside(out, fast, scale) for scale in SCALES}
    has = {scale: measured(numbers) for scale, numbers in boards.items()}
    if not all(has.values()):
        raise InputError(
            "the stored boards are older than their third measures",
            field="boards", value=[scale for scale in SCALES if not has[scale]],
            remedy="Run tradeoff reproduce --paper arena --full.",
        )  # fmt: skip
    found: dict[str, Any] = {}
    with style.figure(len(SCALES), len(SCORES), height=4.6) as (fig, axes):
        for row, (scale, numbers) in zip(axes, boards.items(), strict=True):
            regret = means(numbers, "regret").mean(axis=1)
            taus = {}
            for ax, score in zip(row, SCORES, strict=True):
                if score not in has[scale]:
                    ax.set_axis_off()
                    continue
                values = means(numbers, score).mean(axis=1)
                taus[score] = kendall(regret, values)
                draw(ax, regret, values)
                ax.set(xlabel="regret", title=f"{TITLES[scale]}\n{SCORES[score]}")
                ax.title.set_fontsize(7)
            found[scale] = {"replicas": numbers["replicas"], "tau": taus}
        empty = [ax for ax in axes.flat if not ax.axison]
        handles = axes[0][0].get_legend_handles_labels()
        (empty or [axes[0][0]])[0].legend(*handles, fontsize=6, loc="center left")
        style.save(fig, out, "third_networks")
    return {"scales": found}


def measured(numbers: Mapping[str, Any]) -> list[str]:
    """The scores that a board has stored."""
    return [score for score in SCORES if score in numbers["means"]]


def draw(ax: Axes, regret: Any, values: Any) -> None:
    """One dot a method; those of the paper in their colours."""
    kept = np.isfinite(regret) & np.isfinite(values)
    ax.plot(regret[kept], values[kept], ".", color="0.4", markersize=4)
    for name in LABELLED:
        if name in regret:
            label = find(name).label
            ax.plot(regret[name], values[name], **style.look(label).dots(label=label))


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    scales = numbers["scales"]
    taus = (
        f"{TITLES[scale]} " + ", ".join(f"{score} {tau:.2f}" for score, tau in about["tau"].items())
        for scale, about in scales.items()
    )
    seeds = (f"n = {about['replicas']} seeds ({TITLES[s]})" for s, about in scales.items())
    return {"taus": "; ".join(taus), "replicas": ", ".join(seeds)}
