"""How much does a language model forget, on real text, during its second stage?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import mutations, style
from analysis.fernando2024.methods import METHODS, cell, cost, label
from analysis.fernando2024.real import llm_shown, llm_study
from analysis.fernando2024.real.llm_loss_space import part
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_study import LAM
from analysis.fernando2024.stored import shown
from tradeoff.scores import interval, paired_difference, retention
from tradeoff.theory.checked import Checked

LABELS = {
    "sft_loss": "SFT loss (nats per token)",
    "preference_loss": "preference loss (nats per pair)",
}
CAPTION = (
    f"{llm_shown.about()} λ = {LAM:g}. Stages change after half of the updates, which is "
    "before half of the cost for SFT→DPO and after it for DPO→SFT (dotted). Lines are means, bands "
    "95 % t-intervals. "
    "Command: python -m analysis llm_forgetting"
)
words = llm_shown.words
FIRST = {"sft-dpo": "sft_loss", "dpo-sft": "preference_loss"}
TWO_THIRDS = 2 / 3
"""Threshold of the first edition, whose claim, with one step size for all, was the opposite."""


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_shown.numbers("llm_forgetting", fast, measure)
    with style.figure(1, 2, height=3.0) as (fig, axes):
        for ax, name, title in zip(axes, LABELS, ("The skill", "The taste"), strict=True):
            draw(ax, found, name)
            ax.set(title=title, xlabel="cost (SFT updates)", ylabel=LABELS[name])
        axes[0].legend(handlelength=3.2, fontsize=8)
        style.save(fig, out, "llm_forgetting")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Losses along training, and the remaining share of the first stage's progress at the end."""
    size = SCALES[scale]
    table = llm_study.run(scale, llm_study.comparison(scale))
    table["cost"] = table["spent"] * size.budget
    curves: dict[str, Any] = {}
    kept: dict[str, np.ndarray] = {}
    start = dict(zip(LABELS, llm_study.start(scale), strict=True))
    for method in METHODS:
        runs = part(table, method, LAM)
        curves[method] = {"cost": runs.groupby("mark")["cost"].mean().tolist()}
        for name in start:
            values = runs.pivot(index="seed", columns="mark", values=name).to_numpy()
            curves[method][name] = cell(interval(values))
            if name == FIRST.get(method):
                middle = values[:, values.shape[1] // 2]
                kept[method] = retention(middle, values[:, -1], np.full(len(values), start[name]))
    return {
        "training": cost(table),
        "seeds": size.seeds,
        "curves": curves,
        "retention": {method: cell(interval(share)) for method, share in kept.items()},
        "retention_difference": cell(paired_difference(kept["sft-dpo"], kept["dpo-sft"])),
    }


def draw(ax: Axes, found: dict[str, Any], name: str) -> None:
    """Draw one loss of all methods along training."""
    for method in METHODS:
        look, curve = style.look(method), found["curves"][method]
        costs, (mean, half) = np.array(curve["cost"]), np.array([*curve[name].values()])
        ax.plot(costs, mean, **look.line_style(label=label(method)))
        ax.fill_between(costs, mean - half, mean + half, color=look.color, alpha=0.15, lw=0)
        if method in FIRST:
            ax.axvline(costs[len(costs) // 2], **(style.BOUND | {"color": look.color}))


def claim_tuned_second_stage_keeps(fast: bool = False, mutation: str | None = None) -> Checked:
    """With a step size for each stage, SFT→DPO keeps over two thirds of SFT's progress (lower).

    ``measured`` is the lower end of the 95 % interval of the share.
    """
    found = shown("llm_forgetting")
    kept = found["retention"]["sft-dpo"]
    share = mutations.mutate(mutation, kept["mean"], {mutations.SWAPPED: 1 - kept["mean"]})
    low = np.array([share - kept["half_width"]])
    return Checked(low, np.full(1, TWO_THIRDS), "lower", {"n": float(found["seeds"])}, 0.0)
