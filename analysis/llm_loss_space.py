"""Where does each schedule lead a language model in the plane of its two losses, on real text?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import llm_study, style
from analysis.methods import JOINT, METHODS, ORDERS, cell, cost, finals, upper
from analysis.runner import PAPER
from tradeoff.records import read_json
from tradeoff.scores import interval, paired_difference, weighted_loss
from tradeoff.theory.checked import Checked

LOSSES = ["sft_loss", "preference_loss"]
CAPTION = (
    f"{llm_study.about('full')} One panel per lambda. Lines are means over seeds along training, "
    "dots the ends of single runs; the star is the ideal point, each loss as low as it gets in a "
    "run that spends all gradients on it. Command: python -m analysis llm_loss_space"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_study.numbers("llm_loss_space", fast, measure)
    lams = found["lambdas"]
    with style.figure(1, len(lams), height=2.9, squeeze=False, sharey=True) as (fig, axes):
        for i, (ax, lam) in enumerate(zip(axes[0], lams, strict=True)):
            draw(ax, found, i)
            ax.set(title=f"λ = {lam:g}", xlabel="SFT loss (nats per token)")
        axes[0][0].set_ylabel("preference loss (nats)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
        style.save(fig, out, "llm_loss_space")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Mean trajectories and single ends, by method and in order of lambda."""
    table = llm_study.run(scale, llm_study.comparison(scale))
    lams = llm_study.SCALES[scale].lams
    return {
        "training": cost(table),
        "lambdas": lams,
        "seeds": llm_study.SCALES[scale].seeds,
        "start": llm_study.start(scale),
        "ideal": llm_study.ideal(scale),
        "paths": {m: [path(part(table, m, lam)) for lam in lams] for m in METHODS},
        "ends": {m: [ends(part(table, m, lam)).tolist() for lam in lams] for m in METHODS},
        "paired_joint_minus_sequential": paired(table, lams),
    }


def part(table: pd.DataFrame, method: str, lam: float) -> pd.DataFrame:
    """Rows of one method at one weight."""
    return table[(table["method"] == method) & (table["lam"] == lam)]


def path(runs: pd.DataFrame) -> list[list[float]]:
    """Mean losses at each evaluation."""
    return runs.groupby("step")[LOSSES].mean().to_numpy().tolist()


def ends(runs: pd.DataFrame) -> np.ndarray:
    """(seeds, 2) final losses, in order of the seed."""
    return finals(runs).sort_values("seed")[LOSSES].to_numpy()


def paired(table: pd.DataFrame, lams: tuple[float, ...]) -> dict[str, Any]:
    """Weighted loss of joint minus sequential training, paired by seed; negative: joint wins."""

    def losses(method: str, lam: float) -> np.ndarray:
        return weighted_loss(ends(part(table, method, lam)), lam)

    differences = {
        f"{joint} - {order}": [
            cell(paired_difference(losses(joint, lam), losses(order, lam))) for lam in lams
        ]
        for joint in JOINT
        for order in ORDERS
    }
    means = {m: [cell(interval(losses(m, lam))) for lam in lams] for m in METHODS}
    return differences | means


def draw(ax: Axes, found: dict[str, Any], i: int) -> None:
    """One panel: all methods at one weight."""
    for method in METHODS:
        look = style.look(method)
        line = np.array(found["paths"][method][i])
        ax.plot(*line.T, **look.line_style(markersize=0, label=method))
        ax.plot(*line[-1], **look.dots())
        ax.plot(*np.array(found["ends"][method][i]).T, **look.dots(markersize=2.5, alpha=0.5))
    ax.plot(*found["ideal"], **style.IDEAL, label="ideal point")
    ax.annotate("base", found["start"], fontsize=8, xytext=(-3, 3), textcoords="offset points")


def claim_joint_beats_sft_first(fast: bool = False) -> Checked:
    """All joint methods end with a smaller weighted loss than SFT→DPO at every lambda (upper).

    ``measured`` are the upper ends of the 95 % intervals of the paired differences.
    """
    found = read_json(PAPER / "results" / "llm_loss_space.json")["numbers"]
    pairs = found["paired_joint_minus_sequential"]
    high = np.array([[upper(c) for c in pairs[f"{joint} - SFT→DPO"]] for joint in JOINT])
    return Checked(high, np.zeros_like(high), "upper", {"n": float(found["seeds"])}, 0.0)


def claim_preference_first_is_level(fast: bool = False) -> Checked:
    """Against us: up to lambda = 1/2 ALRIGHT is not seen to beat DPO→SFT (lower).

    ``measured`` are the upper ends of the 95 % intervals of the paired differences.
    """
    found = read_json(PAPER / "results" / "llm_loss_space.json")["numbers"]
    pairs = found["paired_joint_minus_sequential"]["ALRIGHT - DPO→SFT"]
    high = np.array(
        [upper(c) for c, lam in zip(pairs, found["lambdas"], strict=True) if lam <= 0.5]
    )
    return Checked(high, np.zeros_like(high), "lower", {"n": float(found["seeds"])}, 0.0)
