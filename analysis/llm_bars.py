"""The paper's bars on real text: gaps, distance to the ideal point, regret and front gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analysis import llm_study, style
from analysis.llm_loss_space import LOSSES, ends, part
from analysis.methods import METHODS, cell, cost, finals
from tradeoff.scores import front_gap, ideal_distance, interval, regret, weighted_loss

LAM = 0.5
MEASURES = {
    "preference_gap": "preference gap\n(nats)",
    "sft_gap": "SFT gap\n(nats)",
    "ideal_distance": "distance to ideal\n(nats)",
    "regret": "regret at λ = ½\n(ranges)",
    "front_gap": "front gap\n(ranges)",
}
CAPTION = (
    f"{llm_study.about('full')} λ = 0.5. Gaps and distance are in nats, from the ideal point: the "
    "least held-out losses of two runs, each trained on one objective only; a gap may be negative, "
    "as other runs may generalise better. Regret is f_λ at λ = 1/2 less the lowest that "
    "any run of this study reaches, the front gap the same at the weight that suits the run best, "
    "both relative to what we found, not to a certified front. Their unit is the "
    "range of f_λ between the base model and the ideal point. Dots are single runs, bars means "
    "with 95 % t-intervals. What a step costs is in llm_resources. Command: python -m analysis "
    "llm_bars"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_study.numbers("llm_bars", fast, measure)
    with style.figure(1, len(MEASURES), height=2.9) as (fig, axes):
        for ax, (name, title) in zip(axes, MEASURES.items(), strict=True):
            for place, method in enumerate(METHODS):
                look, values = style.look(method), np.array(found["values"][method][name])
                mean, half = found["bars"][method][name].values()
                ax.bar(place, mean, color=look.color, alpha=0.45, yerr=half, capsize=2)
                ax.plot(np.full(len(values), place), values, **look.dots(markersize=3))
            ax.set_title(title, fontsize=7)
            ax.set_xticks(range(len(METHODS)), METHODS, rotation=90, fontsize=7)
        style.save(fig, out, "llm_bars")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Every measure of every seed, and its interval."""
    table = llm_study.run(scale, llm_study.comparison(scale))
    ideal, begin = np.array(llm_study.ideal(scale)), np.array(llm_study.start(scale))
    weights = np.linspace(0, 1, 101)
    reached = finals(table)[LOSSES].to_numpy()
    least = np.array([weighted_loss(reached, lam).min() for lam in weights])
    values = {}
    for method in METHODS:
        losses = ends(part(table, method, LAM))
        ranges = begin - ideal
        values[method] = {
            "preference_gap": losses[:, 1] - ideal[1],
            "sft_gap": losses[:, 0] - ideal[0],
            "ideal_distance": ideal_distance(losses, ideal),
            "regret": regret(losses, LAM, weighted_loss(reached, LAM).min(), ranges),
            "front_gap": front_gap(losses, weights, least, ranges)[0],
        }
    return {
        "training": cost(table),
        "seeds": llm_study.SCALES[scale].seeds,
        "values": values,
        "bars": {
            method: {name: cell(interval(v)) for name, v in found.items()}
            for method, found in values.items()
        },
    }
