"""Which kinds of change to the weighted sum help, and what does an update of each cost?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.arena.stored import beside, means
from analysis.dossier import style

CAPTION = (
    "Regret less that of Mix (left) and distance behind the front less that of Mix (right), mean "
    "over {problems} problems, for each method by the slot that it fills; left of the line is "
    "better. The colour says how many gradients an update costs; all runs cost the same in total. "
    "Values beyond {limit} are drawn there. n = {replicas} replicas; what varies is the data "
    "drawn. Command: python -m analysis kinds --paper arena."
)
LIMIT = 0.3


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    numbers = beside(out, fast)
    kinds = sorted(set(numbers["slots"]), key=numbers["slots"].index)
    rows = [kinds.index(slot) for slot in numbers["slots"]]
    apart = np.random.default_rng(0).uniform(-0.3, 0.3, len(rows))
    scores = {}
    with style.figure(1, 2, height=4.0) as (fig, axes):
        for ax, score in zip(axes, ("regret", "front_gap"), strict=True):
            found = means(numbers, score).mean(axis=1)
            scores[score] = (found - found["mix"]).to_dict()
            x = np.minimum((found - found["mix"]).to_numpy(), LIMIT)
            dots = ax.scatter(
                x, rows + apart, c=numbers["gradients_per_update"], cmap="cividis", s=14
            )
            ax.axvline(0.0, color="0.4", linewidth=0.8)
            ax.set_yticks(range(len(kinds)), kinds)
            ax.invert_yaxis()
            ax.set(xlabel=f"{score.replace('_', ' ')} less that of Mix")
        fig.colorbar(dots, ax=axes, label="gradients an update")
        style.save(fig, out, "kinds")
    return {
        "problems": len(numbers["problems"]),
        "replicas": numbers["replicas"],
        "limit": LIMIT,
        "less_mix": scores,
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    return {key: f"{numbers[key]:g}" for key in ("problems", "replicas", "limit")}
