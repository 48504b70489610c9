"""Where does each method end in the plane of SmolLM2's two losses, and how much does it forget?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from analysis.dossier import style
from analysis.fernando2024.real import smol_methods, smol_shown
from analysis.fernando2024.real.smol_scores import BASELINE
from tradeoff.scores import weighted_loss

CAPTION = (
    f"{smol_shown.ABOUT} Left: mean paths and single ends; star: mean of runs on one objective. "
    "Right: SFT loss during training. One row per pair of data sets. "
    "Command: python -m analysis smol_loss_space"
)
words = smol_shown.words
JOINT = "alright"
DRAWN = ("sft-dpo", "dpo-sft", "alright", "mix", "rounds-4")


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_loss_space", fast)
    pairs = found["pairs"]
    height = 0.4 + 2.6 * max(1, len(pairs))
    with style.figure(max(1, len(pairs)), 2, height=height, squeeze=False) as (fig, axes):
        if not pairs:
            smol_shown.empty(axes[0])
        for row, (pair, one) in zip(axes, pairs.items(), strict=False):
            draw_plane(row[0], one)
            draw_forgetting(row[1], one)
            row[0].set(title=pair, xlabel="SFT loss (nats per token)", ylabel="preference loss")
            row[1].set(xlabel="evaluation", ylabel="SFT loss")
        if pairs:
            axes[0][0].legend(fontsize=6, handlelength=3)
        style.save(fig, out, "smol_loss_space")
    both = twins(pairs)
    return found | {
        "wins": {pair: wins(one) for pair, one in pairs.items()},
        "compared": {other: compared(pairs, other) for other in (BASELINE, JOINT)},
        "runs": sum(map(runs, pairs.values())) - both["runs"],  # Of the device that is named.
        "twins": both,
        "edges": edges(pairs, max(found["setting"]["grid"])),
    }


def weighted(one: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weighted losses of every method of a pair, by seed."""
    return {
        name: weighted_loss(np.array(method["ends"]), smol_methods.LAM)
        for name, method in one["methods"].items()
    }


def wins(one: Mapping[str, Any]) -> dict[str, int]:
    """Number of seeds on which each method ends below SFT→DPO in the weighted loss."""
    losses = weighted(one)
    base = losses[BASELINE]
    return {name: int((found < base).sum()) for name, found in losses.items() if name != BASELINE}


def compared(pairs: Mapping[str, Any], other: str) -> dict[str, dict[str, float]]:
    """Every method with runs on all pairs, compared with another one in the weighted loss.

    Returns
    -------
    dict
        By method: ``runs`` and ``below``, the number that end below the other method's on the same
        seed; ``pairs_below``, the number of pairs whose median over seeds does; ``p``, the
        probability of at least so many pairs if either side is as likely (one-sided); and
        ``middle``, the median difference of all runs.
    """
    sides = [weighted(one) for one in pairs.values()]
    everywhere = [n for n in smol_methods.METHODS if sides and all(n in side for side in sides)]
    found = {}
    for name in everywhere if other in everywhere else ():
        apart = [side[name] - side[other] for side in sides]
        if name != other:
            count = sum(float(np.median(each)) < 0 for each in apart)
            found[name] = {
                "runs": sum(map(len, apart)),
                "below": int(sum((each < 0).sum() for each in apart)),
                "pairs_below": count,
                "p": float(binom.sf(count - 1, len(apart), 0.5)),
                "middle": float(np.median(np.concatenate(apart))),
            }
    return found


def runs(one: Mapping[str, Any]) -> int:
    """Number of runs of a pair: every method on every seed, and each objective alone."""
    alone = sum(len(ends) for ends in one["single"].values())
    return len(one["methods"]) * int(one["seeds"]) + alone


def twins(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Methods that ran on a CPU, and how far runs that were done both ways end from each other.

    Returns
    -------
    dict
        ``methods`` and ``runs`` that only a CPU did. ``both`` is the number of runs done both ways,
        ``middle`` and ``largest`` are the median and the largest difference of weighted losses, and
        ``worst`` has the pair and method of the largest, with both SFT losses of its seeds.
    """
    there = {pair: one["twins"] for pair, one in pairs.items() if "twins" in one}
    both = [(pair, run) for pair, one in there.items() for run in one["both"]]
    losses = [
        abs(float(weighted_loss(np.array(r["differences"]), smol_methods.LAM))) for _, r in both
    ]
    worst = None
    if both:
        pair, run = both[int(np.argmax(losses))]
        alike = [r for p, r in both if (p, r["name"]) == (pair, run["name"])]
        ends = pairs[pair]["methods"][run["name"]]["ends"]
        own = [float(ends[r["seed"]][0]) for r in alike]
        worst = {
            "pair": pair,
            "method": smol_methods.label(run["name"]),
            "seeds": [r["seed"] for r in alike],
            "own": own,
            "twins": [loss + r["differences"][0] for loss, r in zip(own, alike, strict=True)],
        }
    ran = {name for one in there.values() for name in one["runs"]}
    return {
        "methods": [smol_methods.label(name) for name in smol_methods.METHODS if name in ran],
        "runs": sum(sum(one["runs"].values()) for one in there.values()),
        "both": len(both),
        "middle": float(np.median(losses)) if both else None,
        "largest": max(losses, default=None),
        "worst": worst,
    }


def edges(pairs: Mapping[str, Any], largest: float) -> list[dict[str, Any]]:
    """What a step size beyond the grid's largest led to, beside the best of the grid.

    Returns
    -------
    list of dict
        ``pair``, ``name`` of the objective, and ``best`` and ``beyond``: step size and validation
        loss, None of a run that diverged.
    """
    found = []
    for pair, one in pairs.items():
        for name, tried in one.get("steps", {}).items():
            inside = [step for step in tried if step[0] <= largest and step[1] is not None]
            for step in tried:
                if step[0] > largest and inside:
                    best: Sequence[float] = min(inside, key=itemgetter(1))
                    found.append({"pair": pair, "name": name, "best": best, "beyond": step})
    return found


def shown(one: Mapping[str, Any]) -> list[str]:
    """Methods that are drawn, of those in the results."""
    return [name for name in one["methods"] if name in DRAWN]


def draw_plane(ax: Any, one: Mapping[str, Any]) -> None:
    """Draw mean paths and ends."""
    for name in shown(one):
        look, method = style.look(name), one["methods"][name]
        path = np.array(method["path"])
        ax.plot(*path.T, **look.line_style(markersize=0, label=smol_methods.label(name)))
        ax.plot(*path[-1], **look.dots())
        ax.plot(*np.array(method["ends"]).T, **look.dots(markersize=2.5, alpha=0.5))
    ax.plot(*one["ideal"], **style.IDEAL, label="ideal point")
    ax.annotate("base", one["start"], fontsize=8, xytext=(-3, 3), textcoords="offset points")


def draw_forgetting(ax: Any, one: Mapping[str, Any]) -> None:
    """Draw the SFT loss at each evaluation."""
    for name in shown(one):
        losses = np.array(one["methods"][name]["path"])[:, 0]
        ax.plot(np.arange(len(losses)), losses, **style.look(name).line_style())
