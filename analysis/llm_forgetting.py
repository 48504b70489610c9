"""What does a language model lose, on real text, while its second stage goes on?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import llm_study, style
from analysis.llm_loss_space import part
from analysis.methods import METHODS, cell, cost, upper
from analysis.runner import PAPER
from tradeoff.records import read_json
from tradeoff.scores import interval, paired_difference, retention
from tradeoff.theory.checked import Checked

LAM = 0.5
LABELS = {
    "sft_loss": "SFT loss (nats per token)",
    "preference_loss": "preference loss (nats per pair)",
}
CAPTION = (
    f"{llm_study.about('full')} λ = 0.5, so the stages of sequential training change half-way "
    "(dotted). Lines are means, bands 95 % t-intervals. The share of the first stage's progress "
    "that is left at the end is in the results as retention. "
    "Command: python -m analysis llm_forgetting"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_study.numbers("llm_forgetting", fast, measure)
    with style.figure(1, 2, height=3.0) as (fig, axes):
        for ax, name, title in zip(axes, LABELS, ("The skill", "The taste"), strict=True):
            draw(ax, found, name)
            ax.set(title=title, xlabel="gradients", ylabel=LABELS[name])
        axes[0].legend(handlelength=3.2, fontsize=8)
        style.save(fig, out, "llm_forgetting")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Losses along training, and what is left of the first stage's progress at the end."""
    table = llm_study.run(scale, llm_study.comparison(scale))
    curves: dict[str, Any] = {}
    kept: dict[str, np.ndarray] = {}
    start = dict(zip(LABELS, llm_study.start(scale), strict=True))
    for method in METHODS:
        runs = part(table, method, LAM)
        runs = runs.assign(gradients=runs["sft_updates"] + runs["preference_updates"])
        curves[method] = {"gradients": sorted(runs["gradients"].unique().tolist())}
        for name in start:
            values = runs.pivot(index="seed", columns="gradients", values=name).to_numpy()
            curves[method][name] = cell(interval(values))
            if method in METHODS[:2] and name == FIRST[method]:
                middle = values[:, values.shape[1] // 2]
                kept[method] = retention(middle, values[:, -1], np.full(len(values), start[name]))
    return {
        "training": cost(table),
        "seeds": llm_study.SCALES[scale].seeds,
        "curves": curves,
        "retention": {method: cell(interval(share)) for method, share in kept.items()},
        "retention_difference": cell(paired_difference(kept["SFT→DPO"], kept["DPO→SFT"])),
    }


FIRST = {"SFT→DPO": "sft_loss", "DPO→SFT": "preference_loss"}


def draw(ax: Axes, found: dict[str, Any], name: str) -> None:
    """One loss of all methods along training."""
    for method in METHODS:
        look, curve = style.look(method), found["curves"][method]
        steps, (mean, half) = np.array(curve["gradients"]), np.array([*curve[name].values()])
        ax.plot(steps, mean, **look.line_style(label=method))
        ax.fill_between(steps, mean - half, mean + half, color=look.color, alpha=0.15, lw=0)
    ax.axvline(found["curves"]["SFT→DPO"]["gradients"][-1] / 2, **style.BOUND)


def claim_second_stage_forgets(fast: bool = False) -> Checked:
    """After SFT→DPO less than two thirds of the SFT progress is left (upper).

    ``measured`` is the upper end of the 95 % interval of the share.
    """
    found = read_json(PAPER / "results" / "llm_forgetting.json")["numbers"]
    high = np.array([upper(found["retention"]["SFT→DPO"])])
    return Checked(high, np.full(1, 2 / 3), "upper", {"n": float(found["seeds"])}, 0.0)
