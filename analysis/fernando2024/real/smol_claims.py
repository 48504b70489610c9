"""Claims about SmolLM2.

Thresholds of the first two were set before there were runs, and the runs miss them. They count
instances, pairs of data sets with a seed each. Claims on replay, soups and Constrained were chosen
after the runs, and count pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.dossier.evidence import MOST, equivalent, holds_on, holds_on_units
from analysis.dossier.mutations import mutate
from analysis.fernando2024.real.smol_methods import LAM
from analysis.fernando2024.stored import shown
from tradeoff.scores import weighted_loss
from tradeoff.theory.checked import Checked

FEW, KEPT = "rounds-4", 0.5
"""Rounds that should be enough, and the share that they should buy of what joint training buys."""
BASELINE, JOINT = "sft-dpo", "alright"
REPLAY, BEHIND = "replay-10", ("soup", "constrained")
MUCH = 1.0
"""Nats that a mutation takes off a loss, or adds to one."""
CLOSE = 0.01
"""Nats within which a run and its twin on a CPU should end."""


def claim_joint_not_shown_to_win(fast: bool = False, mutation: str | None = None) -> Checked:
    """That ALRIGHT has a smaller weighted loss than SFT→DPO on most instances is not shown (upper).

    An instance is a pair of data sets with a seed; losses are held out, at weight 1/2.
    """
    del fast
    found = instances(shown("smol_loss_space"), (BASELINE, JOINT))
    joint = mutate(mutation, found[JOINT], {"joint-gains-a-nat": found[JOINT] - MUCH})
    return _not_shown(joint < found[BASELINE])


def claim_half_of_the_gain_not_shown(fast: bool = False, mutation: str | None = None) -> Checked:
    """That four rounds buy half of what ALRIGHT gains is not shown on most instances (upper).

    Where ALRIGHT gains nothing there is nothing to buy, and four rounds must not lose.
    """
    del fast
    found = instances(shown("smol_loss_space"), (BASELINE, JOINT, FEW))
    gain = np.maximum(found[BASELINE] - found[JOINT], 0.0)
    rounds = mutate(mutation, found[FEW], {"rounds-gain-a-nat": found[FEW] - MUCH})
    bought = found[BASELINE] - rounds
    return _not_shown((bought >= KEPT * gain) & (bought != 0.0))


def claim_twins_not_shown_to_agree(fast: bool = False, mutation: str | None = None) -> Checked:
    """That a run in fp32 on a CPU ends where it ends in bf16 on a GPU is not shown (lower).

    Differences are of held-out weighted losses, of runs that were done both ways. Two one-sided
    tests would show that their mean is within the margin; an end of their interval is beyond it.
    """
    del fast
    pairs = shown("smol_loss_space")["pairs"].values()
    both = [one["differences"] for pair in pairs for one in pair["twins"]["both"]]
    losses = weighted_loss(np.array(both), LAM)
    found = equivalent(mutate(mutation, losses, {"twins-are-equal": np.zeros_like(losses)}), CLOSE)
    return Checked(float(np.max(found.measured)), CLOSE, "lower", found.constants, 0.0)


def claim_replay_helps(fast: bool = False, mutation: str | None = None) -> Checked:
    """Replay of 10 % ends below SFT→DPO on most pairs of data sets, each by most of its seeds."""
    del fast
    name = mutate(mutation, REPLAY, {"rpo": "rpo", "soup": "soup"})
    return holds_on_units(by_pair(name) < by_pair(BASELINE), MOST)


def claim_averaging_is_behind(fast: bool = False, mutation: str | None = None) -> Checked:
    """Soups and Constrained both end above ALRIGHT on most pairs, each by most of its seeds."""
    del fast
    names = mutate(mutation, BEHIND, {"replay": (*BEHIND, REPLAY)})
    behind = [by_pair(name) > by_pair(JOINT) for name in names]
    return holds_on_units(np.logical_and.reduce(behind), MOST)


def by_pair(name: str) -> np.ndarray:
    """Weighted losses of a method, (pairs, seeds)."""
    pairs = shown("smol_loss_space")["pairs"].values()
    return np.array([weighted_loss(np.array(one["methods"][name]["ends"]), LAM) for one in pairs])


def _not_shown(held: np.ndarray) -> Checked:
    """The low end of the share on which something holds is at most one half."""
    found = holds_on(held, MOST)
    return Checked(found.measured, found.bound, "upper", found.constants, 0.0)


def instances(numbers: Mapping[str, Any], methods: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Weighted losses of methods, one for each pair and seed that has all of them."""
    found: dict[str, list[float]] = {name: [] for name in methods}
    for one in numbers["pairs"].values():
        if all(name in one["methods"] for name in methods):
            for name in found:
                losses = weighted_loss(np.array(one["methods"][name]["ends"]), LAM)
                found[name] += [float(loss) for loss in losses]
    return {name: np.array(values) for name, values in found.items()}
