"""The paper's bars on real text: gaps, distance to the ideal point and the front, and resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analysis import llm_study, style
from analysis.llm_loss_space import LOSSES, ends, part
from analysis.llm_study import METHODS
from analysis.lm_study import cost
from tradeoff.scores import front_gap, ideal_distance, interval, weighted_loss

LAM = 0.5
MEASURES = {
    "preference_gap": "preference gap\n(nats)",
    "sft_gap": "SFT gap\n(nats)",
    "ideal_distance": "distance to ideal\n(nats)",
    "front_gap": "behind the best\nof all runs",
    "time": "time per token,\nto SFT→DPO",
}
CAPTION = (
    f"{llm_study.about('full')} λ = 0.5. Gaps and distance are in nats, from the ideal point; the "
    "next bar is the regret in f_λ, in units of the ranges and at the weight that suits the run "
    "best, against the lowest f_λ that any run of this study reaches, so it is relative to what we "
    "found, not to a certified front. Time is that of training on a token, divided by that "
    "of SFT→DPO with the same seed, four runs at a time on one machine: llm_resources measures it "
    "apart. Dots are single runs, bars means with 95 % t-intervals. "
    "Command: python -m analysis llm_bars"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_study.numbers("llm_bars", fast, measure)
    with style.figure(1, len(MEASURES), height=2.9) as (fig, axes):
        for ax, (name, title) in zip(axes, MEASURES.items(), strict=True):
            for place, method in enumerate(METHODS):
                look, values = style.look(method), np.array(found["values"][method][name])
                mean, half = found["bars"][method][name]
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
    reached = llm_study.finals(table)[LOSSES].to_numpy()
    least = np.array([weighted_loss(reached, lam).min() for lam in weights])
    base = speed(table, "SFT→DPO")
    values = {}
    for method in METHODS:
        losses = ends(part(table, method, LAM))
        gap, _ = front_gap(losses, weights, least, begin - ideal)
        values[method] = {
            "preference_gap": losses[:, 1] - ideal[1],
            "sft_gap": losses[:, 0] - ideal[0],
            "ideal_distance": ideal_distance(losses, ideal),
            "front_gap": gap,
            "time": speed(table, method) / base,
        }
    return {
        "training": cost(table),
        "seeds": llm_study.SCALES[scale].seeds,
        "values": values,
        "bars": {
            method: {name: llm_study.cell(interval(v)) for name, v in found.items()}
            for method, found in values.items()
        },
    }


def speed(table: Any, method: str) -> np.ndarray:
    """Seconds of training per token of every seed."""
    last = llm_study.finals(part(table, method, LAM)).sort_values("seed")
    return (last["seconds"] / last["tokens"]).to_numpy()
