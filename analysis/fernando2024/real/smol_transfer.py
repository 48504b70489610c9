"""Do ranks of methods carry over from the convex and small scales to SmolLM2?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from analysis.dossier import style
from analysis.fernando2024.real import smol_methods, smol_shown
from analysis.fernando2024.stored import shown

CAPTION = (
    "Ranks of methods by weighted loss at λ = 0.5, 1 the best: in the convex laboratory, a tiny "
    "language model, a small Llama on real text, and on SmolLM2-135M-Instruct (dequantised from 4 "
    "bits). τ is Kendall's correlation with each pair on SmolLM2 over the methods that both have. "
    "What varies is the seed, n = {seeds} on SmolLM2, so few methods and seeds prove little. "
    "{intervals} Command: python -m analysis smol_transfer"
)
words = smol_shown.words
MIDDLE = 1
"""Place of the weight 1/2 in results of three weights."""


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_transfer", fast)
    scales = small_scales()
    ours = {pair: of_pair(one) for pair, one in found["pairs"].items()}
    transfer = {
        pair: {scale: agreement(values, one) for scale, one in scales.items()}
        for pair, values in ours.items()
    }
    smol_shown.panels(
        out,
        "smol_transfer",
        ours,
        lambda ax, pair, values: draw(ax, scales | {"SmolLM2": values}, transfer[pair]),
        x="",
        y="rank, 1 is best",
        legend={"fontsize": 7, "handlelength": 3},
        height=3.2,
        sharey=True,
    )
    return found | {"scales": scales, "transfer": transfer}


def small_scales() -> dict[str, dict[str, float]]:
    """What methods are ranked by at the smaller scales, from stored runs; less is better."""
    tiny = shown("lm_loss_space")["methods"]
    real = shown("llm_bars")["values"]
    return {
        "convex": {name: float(value) for name, value in shown("scores")["regret"].items()},
        "tiny language model": {
            name: float(one["weighted_loss"]["mean"][MIDDLE]) for name, one in tiny.items()
        },
        "small Llama": {name: float(np.mean(one["regret"])) for name, one in real.items()},
    }


def of_pair(one: Mapping[str, Any]) -> dict[str, float]:
    """Weighted losses of a pair of data sets."""
    return {name: float(m["weighted_loss"]["mean"]) for name, m in one["methods"].items()}


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """Kendall's tau over common methods, with the exact one-sided p-value of all orders.

    Returns
    -------
    dict
        ``methods``, ``tau`` and ``p``; both are None with fewer than three methods.
    """
    names = [name for name in ours if name in theirs]
    if len(names) < 3:
        return {"methods": names, "tau": None, "p": None}
    first, second = ([values[name] for name in names] for values in (ours, theirs))
    tau = float(kendalltau(first, second).statistic)
    if len(names) > 8:
        return {"methods": names, "tau": tau, "p": float(kendalltau(first, second).pvalue) / 2}
    every = [kendalltau(first, order).statistic for order in permutations(second)]
    return {"methods": names, "tau": tau, "p": float(np.mean(np.array(every) >= tau - 1e-12))}


def draw(ax: Any, scales: Mapping[str, Mapping[str, float]], found: Mapping[str, Any]) -> None:
    """Ranks over the scales, a line for each method that all have."""
    common = [n for n in scales["SmolLM2"] if all(n in values for values in scales.values())]
    for name in common:
        ranks = [1 + sum(v[m] < v[name] for m in common) for v in scales.values()]
        look = style.look(name).line_style(label=smol_methods.label(name))
        ax.plot(range(len(ranks)), ranks, **look)
    titles = [*scales]
    for i, (scale, one) in enumerate(found.items()):
        titles[i] = f"{scale}, τ = {one['tau']:.2f}" if one["tau"] is not None else scale
    ax.set_xticks(range(len(titles)), titles, fontsize=6, rotation=30, ha="right")
    ax.set_yticks(range(1, len(common) + 1))
    ax.set_ylim(len(common) + 0.5, 0.5)
