"""What is predicted of other scales than the convex board, and of ranks between scales."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.arena import transfer
from analysis.arena.stored import of_slot, wins
from analysis.dossier.mutations import COIN, SWAPPED, mutate
from tradeoff.theory.checked import Checked


def claim_text(fast: bool = False, mutation: str | None = None) -> Checked:
    return _at_least("rows", "text", 0.5, mutation)


def claim_held_out_text(fast: bool = False, mutation: str | None = None) -> Checked:
    return _at_least("law", "text held out", 0.3, mutation)


def claim_policies(fast: bool = False, mutation: str | None = None) -> Checked:
    return _at_least("law", "policies", 0.3, mutation)


def claim_language(fast: bool = False, mutation: str | None = None) -> Checked:
    return _at_least("law", "language", 0.2, mutation)


def claim_distance(fast: bool = False, mutation: str | None = None) -> Checked:
    """Ranks of the law agree with those of policies more than with those of the language model."""
    found = _tables()
    near, far = (_of(found, "law", name, None) for name in ("policies", "language"))
    pair = mutate(mutation, (near, far), {SWAPPED: (far, near)})
    return Checked(pair[0] - pair[1], 0.0, "lower", {"near": near, "far": far}, 0.0)


def claim_losses_do_not_invert(fast: bool = False, mutation: str | None = None) -> Checked:
    """Preference losses alone have related orders on the law and on policies."""
    found = _tables()
    names = of_slot(transfer.boards()["board"], "preference")
    common = [name for name in names if name in found["policies"].index]
    pair = {name: found[name].loc[common] for name in ("law", "policies")}
    pair["policies"] *= mutate(mutation, 1, {"reversed": -1})
    return Checked(_of(pair, "law", "policies", None), 0.0, "lower", {}, 0.0)


def claim_balancing_on_policies(fast: bool = False, mutation: str | None = None) -> Checked:
    """No gradient rule has significantly less regret than Mix on most levels of conflict."""
    numbers = transfer.boards()["policies"]
    side = mutate(mutation, "better", {SWAPPED: "worse"})
    found = wins(numbers, "mix").loc[of_slot(numbers, "gradient"), side]
    half = len(numbers["problems"]) // 2
    return Checked(float(found.max()), float(half), "upper", {"methods": len(found)}, 0.0)


def _tables() -> dict[str, pd.DataFrame]:
    return transfer.regrets(transfer.boards())


def _at_least(first: str, second: str, bound: float, mutation: str | None) -> Checked:
    tau = _of(_tables(), first, second, mutation)
    return Checked(tau, bound, "lower", {}, 0.0)


def _of(tables: dict[str, pd.DataFrame], first: str, second: str, mutation: str | None) -> float:
    """Tau between two scales; under the mutation, between one of them and a random order."""
    own = tables[first]
    rows = np.random.default_rng(0).permutation(len(own))
    guess = pd.DataFrame(own.to_numpy()[rows], index=own.index, columns=own.columns)
    return transfer.between(mutate(mutation, own, {COIN: guess}), tables[second]).tau
