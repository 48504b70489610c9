"""What trade-offs does one method reach, as its weight goes from SFT to preferences?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.arena.stored import LIMIT, PROBLEMS, beside, family
from analysis.dossier import style
from tradeoff.methods import find

CAPTION = (
    "Ends of the runs at the weights λ = {lams} (one marker each, mean over {replicas} replicas) "
    "beside the certified front, on four of {problems} problems. In units of the front's ranges: "
    "(0, 0) is the ideal point. What varies is the data drawn. Command: python -m analysis "
    "families --paper arena."
)
METHODS = ("sft-dpo", "mix", "alright", "maxright", "mgda", "dft", "soup")


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    numbers = beside(out, fast)
    with style.figure(2, 2, height=6.4) as (fig, axes):
        for ax, problem in zip(np.ravel(axes), PROBLEMS, strict=True):
            if problem in numbers["problems"]:
                draw(ax, numbers, problem)
        np.ravel(axes)[0].legend(fontsize=7)
        style.save(fig, out, "families")
    return {
        "lams": numbers["lams"],
        "replicas": numbers["replicas"],
        "problems": len(numbers["problems"]),
        "drawn": list(METHODS),
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    return {
        "lams": ", ".join(f"{lam:g}" for lam in numbers["lams"]),
        "replicas": str(numbers["replicas"]),
        "problems": str(numbers["problems"]),
    }


def draw(ax: Axes, numbers: Mapping[str, Any], problem: str) -> None:
    """The family of each method on one problem."""
    front, ends = family(numbers, problem)
    ax.plot(*front.T, **style.FRONT)
    for place, name in enumerate(METHODS):
        if name not in numbers["methods"]:
            continue
        path = ends[numbers["methods"].index(name)]
        look = style.look(find(name).label)
        color = look.color if look is not style.look("") else f"C{place}"
        ax.plot(*path.T, **look.line_style(label=find(name).label) | {"color": color})
    ax.set(
        title=problem,
        xlabel="SFT loss",
        ylabel="preference loss",
        xlim=(-0.1, LIMIT),
        ylim=(-0.1, LIMIT),
    )
