"""Does it depend on the step size on pairs which method ends lower on SmolLM2?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.dossier import style
from analysis.fernando2024.real import smol_extra, smol_methods, smol_shown
from analysis.fernando2024.real.smol_methods import LAM
from analysis.fernando2024.real.smol_plan import BACK
from analysis.fernando2024.real.smol_scores import cell_of
from tradeoff.scores import weighted_loss

SHARES = ", ".join(f"{share:g}" for share in smol_extra.SHARES)
CAPTION = (
    "SmolLM2-135M-Instruct, dequantised from 4 bits (scores are not comparable with published "
    f"ones), with step sizes on pairs of {SHARES} times the best one on pairs alone; the "
    f"comparison has {BACK:g}. The step size on demonstrations is the same. All runs in fp32 at "
    "equal cost, λ = 0.5. What varies is the seed, n = {seeds}; held out. {intervals} "
    "Command: python -m analysis smol_steps"
)
words = smol_shown.words


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_steps", fast, "steps")
    pairs = smol_shown.beyond(found, "steps")
    smol_shown.panels(
        out,
        "smol_steps",
        pairs,
        lambda ax, pair, one: draw(ax, one),
        x="step size on pairs",
        y="weighted loss (nats)",
        legend={"fontsize": 7},
        height=2.6,
    )
    return found | {"compared": {pair: compared(one) for pair, one in pairs.items()}}


def losses(one: Mapping[str, Any], name: str) -> dict[float, np.ndarray]:
    """Weighted losses of a method, (seeds,), by step size on pairs, smallest first."""
    values = {float(step): of[name]["ends"] for step, of in one["values"].items()}
    return {step: weighted_loss(np.array(values[step]), LAM) for step in sorted(values)}


def means(one: Mapping[str, Any], name: str) -> dict[float, float]:
    """Mean weighted losses of a method, by step size on pairs, smallest first."""
    return {step: float(values.mean()) for step, values in losses(one, name).items()}


def at_best(one: Mapping[str, Any], name: str) -> tuple[float, float]:
    """The step size on pairs with which a method ends lowest, and its mean weighted loss there."""
    found = means(one, name)
    return min(found.items(), key=lambda item: item[1])


def compared(one: Mapping[str, Any]) -> dict[str, Any]:
    """How ALRIGHT ends beside SFT→DPO at each step size, and each at its own best.

    Returns
    -------
    dict
        ``steps``, and at each of them ``less``, the mean weighted loss of ALRIGHT less that of
        SFT→DPO. By method ``best``, its step size and mean weighted loss, and ``range``, of these
        means over the step sizes.
    """
    ended = {name: means(one, name) for name in smol_extra.STEPPED}
    baseline, joint = ended.values()
    return {
        "steps": list(joint),
        "less": [joint[step] - baseline[step] for step in joint],
        "best": {name: at_best(one, name) for name in ended},
        "range": {name: max(found.values()) - min(found.values()) for name, found in ended.items()},
        "seeds": one["seeds"],
    }


def draw(ax: Any, one: Mapping[str, Any]) -> None:
    """The weighted loss of each method by the step size on pairs."""
    for name in smol_extra.STEPPED:
        found = losses(one, name)
        cells = [cell_of(values) for values in found.values()]
        bars = [smol_shown.reach(cell, one["seeds"]) for cell in cells]
        look = style.look(name).line_style(label=smol_methods.label(name))
        ax.errorbar(list(found), [cell["mean"] for cell in cells], yerr=bars, capsize=2, **look)
    steps = list(losses(one, smol_extra.STEPPED[0]))
    ax.set_xscale("log")
    ax.set_xticks(steps, [f"{step:g}" for step in steps])
    ax.minorticks_off()
