"""What does a language model lose, on real text, while its second stage goes on?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import llm_study, style
from analysis.llm_loss_space import part
from analysis.lm_study import cost
from analysis.runner import PAPER
from tradeoff.records import read_json
from tradeoff.scores import interval, paired_difference, retention
from tradeoff.theory.checked import Checked

LAM = 0.5
METHODS = ("SFT→DPO", "DPO→SFT", "ALRIGHT", "MAXRIGHT")
CAPTION = (
    f"{llm_study.about('full')} λ = 0.5, so the stages of sequential training change half-way "
    "(dotted). Lines are means, bands 95 % t-intervals. Retention is the share of the first "
    "stage's progress that is left at the end. Command: python -m analysis llm_forgetting"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_study.numbers("llm_forgetting", fast, measure)
    with style.figure(1, 2, height=3.0) as (fig, axes):
        for ax, name, title in zip(
            axes, ("sft_loss", "preference_loss"), ("The skill", "The taste"), strict=True
        ):
            draw(ax, found, name)
            ax.set(title=title, xlabel="updates", ylabel=name.replace("_", " "))
        axes[0].legend(handlelength=3.2, fontsize=8)
        style.save(fig, out, "llm_forgetting")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Losses along training, and what is left of the first stage's progress at the end."""
    table = llm_study.run(scale, llm_study.comparison(scale))
    curves: dict[str, Any] = {}
    kept: dict[str, np.ndarray] = {}
    start = dict(zip(("sft_loss", "preference_loss"), llm_study.start(scale), strict=True))
    for method in METHODS:
        runs = part(table, method, LAM)
        curves[method] = {"step": sorted(runs["step"].unique().tolist())}
        for name in start:
            values = runs.pivot(index="seed", columns="step", values=name).to_numpy()
            curves[method][name] = llm_study.cell(interval(values))
            if method in METHODS[:2] and name == FIRST[method]:
                middle = values[:, values.shape[1] // 2]
                kept[method] = retention(middle, values[:, -1], np.full(len(values), start[name]))
    return {
        "training": cost(table),
        "seeds": llm_study.SCALES[scale].seeds,
        "curves": curves,
        "retention": {method: llm_study.cell(interval(share)) for method, share in kept.items()},
        "retention_difference": llm_study.cell(paired_difference(kept["SFT→DPO"], kept["DPO→SFT"])),
    }


FIRST = {"SFT→DPO": "sft_loss", "DPO→SFT": "preference_loss"}


def draw(ax: Axes, found: dict[str, Any], name: str) -> None:
    """One loss of all methods along training."""
    for method in METHODS:
        look, curve = style.look(method), found["curves"][method]
        steps, (mean, half) = np.array(curve["step"]), np.array(curve[name])
        ax.plot(steps, mean, **look.line_style(label=method))
        ax.fill_between(steps, mean - half, mean + half, color=look.color, alpha=0.15, lw=0)
    ax.axvline(found["curves"]["SFT→DPO"]["step"][-1] / 2, **style.BOUND)


def claim_second_stage_forgets(fast: bool = False) -> Checked:
    """After SFT→DPO less than two thirds of the SFT progress is left (upper).

    ``measured`` is the upper end of the 95 % interval of the share.
    """
    found = read_json(PAPER / "results" / "llm_forgetting.json")["numbers"]
    high = np.array([sum(found["retention"]["SFT→DPO"])])
    return Checked(high, np.full(1, 2 / 3), "upper", {"n": float(found["seeds"])}, 0.0)
