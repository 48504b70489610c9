"""How the leaders of the convex board do on the pretrained model of the paper's dossier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
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
ENOUGH, MOST = 6, 9
"""Number of methods that both scales need for a correlation of ranks; most that can be exchanged in
every way."""


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
        the pairs that have enough methods; ``at_once`` has it for all pairs together, see
        :func:`at_once`.
    """
    pairs = (numbers or shown("smol_loss_space"))["pairs"]
    return {
        "pairs": list(pairs),
        "seeds": min((one["seeds"] for one in pairs.values()), default=0),
        "methods": [m for m in METHODS if any(m in one["methods"] for one in pairs.values())],
        "leaders": {name: found for name in LEADERS if (found := _against(name, pairs))},
        **_transfer(pairs),
    }


def _transfer(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Agreement of each pair of data sets, and of all at once, with the convex board."""
    regret = stored.means(stored.of("board"), "law_regret").mean(axis=1)
    known = {n: b for n in METHODS for b in (n, n.replace("-", "_")) if b in regret.index}
    convex = {name: float(regret[on_board]) for name, on_board in known.items()}
    losses = {pair: of_pair(one) for pair, one in pairs.items()}
    found = {pair: agreement(one, convex) for pair, one in losses.items()}
    return {
        "transfer": {pair: one for pair, one in found.items() if len(one["methods"]) >= ENOUGH},
        "at_once": at_once([*losses.values()], convex),
    }


def at_once(scales: Sequence[Mapping[str, float]], theirs: Mapping[str, float]) -> dict[str, Any]:
    """Mean of Kendall's tau over scales on the methods that all have, with an exact p-value.

    Scales share the order of the other one, so that their p-values are not independent. Here the
    methods are exchanged in all scales at once, in every way (one-sided, no ties).

    Returns
    -------
    dict
        ``methods``, ``tau`` and ``p``; both are None with fewer than three methods or more than
        nine.
    """
    names = [name for name in theirs if scales and all(name in one for one in scales)]
    if not 3 <= len(names) <= MOST:
        return {"methods": names, "tau": None, "p": None}
    ours = np.mean([_order([one[name] for name in names]) for one in scales], axis=0)
    order = _order([theirs[name] for name in names])
    every = np.array([*permutations(range(len(names)))])
    above = [(i, j) for j in range(len(names)) for i in range(j)]
    taus = np.mean([ours[i, j] * order[every[:, i], every[:, j]] for i, j in above], axis=0)
    # The first way exchanges nothing.
    return {"methods": names, "tau": float(taus[0]), "p": float((taus >= taus[0] - 1e-12).mean())}


def _order(values: Sequence[float]) -> np.ndarray:
    """Sign of the difference of each two values."""
    return np.sign(np.subtract.outer(values, values))


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
