"""Do scores on the rows tell how a policy generalises, drifts, forgets and is calibrated?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from analysis.arena.stored import beside, means
from analysis.dossier import style
from tradeoff.arena.ranks import kendall
from tradeoff.methods import find

CAPTION = (
    "Each dot is a method, mean over {problems} problems and weights: regret on the rows against "
    "regret on the law that they were drawn from (Kendall's tau {law_regret}), KL divergence from "
    "the reference ({kl}), flips of demonstrations against the SFT specialist over what chance "
    "gives ({flips}) and calibration error ({calibration}). n = {replicas} replicas; what varies "
    "is the data drawn. Command: python -m analysis third --paper arena."
)
SCORES = {
    "law_regret": "regret on the law",
    "kl": "KL from the reference (nats)",
    "flips": "flips over chance",
    "calibration": "calibration error",
}

TICKS = (0.02, 0.05, 0.1, 0.2)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    numbers = beside(out, fast)
    regret = means(numbers, "regret").mean(axis=1)
    found = {score: means(numbers, score).mean(axis=1) for score in SCORES}
    with style.figure(2, 2, height=5.2) as (fig, axes):
        for ax, (score, title) in zip(np.ravel(axes), SCORES.items(), strict=True):
            ax.plot(regret, found[score], ".", color="0.4", markersize=4)
            for name, label in ((each, find(each).label) for each in LABELLED):
                if name in regret:
                    ax.plot(regret[name], found[score][name], **style.look(label).dots(label=label))
            ax.set(xlabel="regret on the rows", ylabel=title, xscale="log")
            ax.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            ax.xaxis.set_minor_formatter(NullFormatter())
        np.ravel(axes)[0].legend(fontsize=7)
        style.save(fig, out, "third")
    return {
        "problems": len(numbers["problems"]),
        "replicas": numbers["replicas"],
        "tau": {score: kendall(regret, values) for score, values in found.items()},
    }


LABELLED = ("sft-dpo", "dpo-sft", "mix", "alright", "maxright")
"""Methods that are drawn in their colours."""


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    taus = {score: f"{tau:.2f}" for score, tau in numbers["tau"].items()}
    return {"problems": str(numbers["problems"]), "replicas": str(numbers["replicas"]), **taus}
