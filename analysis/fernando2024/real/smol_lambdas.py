"""Where do methods end on SmolLM2 at the paper's five weights?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.dossier import style
from analysis.fernando2024.real import smol_extra, smol_shown
from analysis.fernando2024.real.smol_scores import LOSSES

CAPTION = (
    "SmolLM2-135M-Instruct, dequantised from 4 bits (scores are not comparable with published "
    "ones), at the weights λ of the paper and equal cost. Lines join the weights of a method, from "
    "small to large. Sequential runs share updates as the paper does, 5:1 to 1:5; step sizes were "
    "chosen at λ = 0.5. What varies is the seed, n = {seeds}; held out. {intervals} "
    "Command: python -m analysis smol_lambdas"
)
words = smol_shown.words


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_lambdas", fast, "lambdas")
    smol_shown.panels(
        out,
        "smol_lambdas",
        smol_shown.beyond(found, "lambdas"),
        lambda ax, pair, one: draw(ax, one),
        x="SFT loss (nats per token)",
        y="preference loss (nats)",
        legend={"fontsize": 6, "handlelength": 3},
        height=3.2,
    )
    return found


def draw(ax: Any, one: Mapping[str, Any]) -> None:
    """The ends of each method, joined in the order of the weight."""
    values, seeds = one["values"], one["seeds"]
    lams = sorted(values, key=float)
    for name in smol_extra.SWEPT:
        ends = [values[lam][name] for lam in lams if name in values[lam]]
        x, y = ([end[loss]["mean"] for end in ends] for loss in LOSSES)
        wide, high = ([smol_shown.reach(end[loss], seeds) for end in ends] for loss in LOSSES)
        look = style.look(name).line_style(label=smol_shown.label(one, name))
        ax.errorbar(x, y, xerr=wide, yerr=high, capsize=2, **look)
