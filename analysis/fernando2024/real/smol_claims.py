"""Claims about SmolLM2, whose thresholds were set before there were runs.

They need at least 20 instances, pairs of data sets with a seed each; fewer are an error. An entry
of the ledger belongs to each once so many runs are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.dossier.evidence import MOST, holds_on
from analysis.dossier.mutations import mutate
from analysis.fernando2024.real.smol_methods import LAM
from analysis.fernando2024.stored import shown
from tradeoff.scores import weighted_loss
from tradeoff.theory.checked import Checked

FEW, KEPT = "rounds-4", 0.5
"""Rounds that should be enough, and the share that they should buy of what joint training buys."""
BASELINE, JOINT = "sft-dpo", "alright"


def joint_ends_below_sequential(fast: bool = False, mutation: str | None = None) -> Checked:
    """ALRIGHT has a smaller weighted loss than SFT→DPO on most instances (finding).

    An instance is a pair of data sets with a seed; losses are held out, at weight 1/2.
    """
    del fast
    joint = mutate(mutation, JOINT, {"joint-is-sequential": BASELINE})
    found = instances(shown("smol_loss_space"), (BASELINE, joint))
    return holds_on(found[joint] < found[BASELINE], MOST)


def four_rounds_buy_half(fast: bool = False, mutation: str | None = None) -> Checked:
    """Four rounds buy at least half of what ALRIGHT gains over one round, on most instances.

    Where ALRIGHT gains nothing there is nothing to buy, and four rounds must not lose.
    """
    del fast
    rounds = mutate(mutation, FEW, {"one-round": BASELINE})
    found = instances(shown("smol_loss_space"), (BASELINE, JOINT, rounds))
    gain = np.maximum(found[BASELINE] - found[JOINT], 0.0)
    bought = found[BASELINE] - found[rounds]
    return holds_on((bought >= KEPT * gain) & (bought != 0.0), MOST)


def instances(numbers: Mapping[str, Any], methods: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Weighted losses of methods, one for each pair and seed that has all of them."""
    found: dict[str, list[float]] = {name: [] for name in methods}
    for one in numbers["pairs"].values():
        if all(name in one["methods"] for name in methods):
            for name in found:
                losses = weighted_loss(np.array(one["methods"][name]["ends"]), LAM)
                found[name] += [float(loss) for loss in losses]
    return {name: np.array(values) for name, values in found.items()}
