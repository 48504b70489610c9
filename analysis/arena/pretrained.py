"""How the leaders of the convex board do on the pretrained model of the paper's dossier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.arena import stored
from analysis.fernando2024.real.smol_methods import LAM, METHODS
from analysis.fernando2024.real.smol_transfer import agreement, of_pair
from analysis.fernando2024.stored import shown
from tradeoff.scores import weighted_loss

LEADERS = ("evenly", "tracked", "evenly-budget")
"""First methods of the convex board, besides those of the paper's kind."""
BASELINES = ("alright", "sft-dpo")
ENOUGH = 6
"""Number of methods that both scales need for a correlation of ranks."""


def answers(numbers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Runs of the leaders against ALRIGHT and SFT→DPO, paired by data sets and seed.

    Parameters
    ----------
    numbers
        Of the figure ``smol_loss_space``; by default the stored ones.

    Returns
    -------
    dict
        ``pairs``, ``seeds`` and ``methods`` count all that ran. ``leaders`` has for each leader the
        ``runs``, how many are ``below`` each baseline, and the mean of the weighted loss ``less``
        that of each baseline on each pair of data sets, in ranges from base to ideal point.
        ``transfer`` has Kendall's tau with the convex board, regret on rows that no method saw, of
        the pairs that have enough methods.
    """
    pairs = (numbers or shown("smol_loss_space"))["pairs"]
    return {
        "pairs": list(pairs),
        "seeds": min((one["seeds"] for one in pairs.values()), default=0),
        "methods": [m for m in METHODS if any(m in one["methods"] for one in pairs.values())],
        "leaders": {name: found for name in LEADERS if (found := _against(name, pairs))},
        "transfer": _transfer(pairs),
    }


def _transfer(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Agreement of each pair of data sets with the convex board."""
    regret = stored.means(stored.of("board"), "law_regret").mean(axis=1)
    known = {n: b for n in METHODS for b in (n, n.replace("-", "_")) if b in regret.index}
    convex = {name: float(regret[on_board]) for name, on_board in known.items()}
    found = {pair: agreement(of_pair(one), convex) for pair, one in pairs.items()}
    return {pair: one for pair, one in found.items() if len(one["methods"]) >= ENOUGH}


def _against(name: str, pairs: Mapping[str, Any]) -> dict[str, Any]:
    """A leader against the baselines on the pairs of data sets that have it."""
    runs, below = 0, dict.fromkeys(BASELINES, 0)
    less: dict[str, dict[str, float]] = {baseline: {} for baseline in BASELINES}
    for pair, one in pairs.items():
        if name not in one["methods"]:
            continue
        losses = {m: _losses(one, m) for m in (name, *BASELINES)}
        unit = float(weighted_loss(np.subtract(one["start"], one["ideal"]), LAM))
        runs += len(losses[name])
        for baseline in BASELINES:
            differences = losses[name] - losses[baseline]
            below[baseline] += int((differences < 0).sum())
            less[baseline][pair] = float(differences.mean()) / unit
    return {"runs": runs, "below": below, "less": less} if runs else {}


def _losses(one: Mapping[str, Any], name: str) -> np.ndarray:
    """Weighted losses by seed; of runs that a GPU and a CPU did, those of the CPU, as leaders'."""
    ends = np.array(one["methods"][name]["ends"], dtype=float)
    for run in one.get("twins", {"both": []})["both"]:
        if run["name"] == name:
            ends[run["seed"]] += run["differences"]
    return np.asarray(weighted_loss(ends, LAM))
