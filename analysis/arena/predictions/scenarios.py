"""What the cards predict of skills that a policy had before training."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.arena.boards.scenarios import ALONE, skill
from analysis.arena.stored import of
from analysis.dossier.evidence import MOST, NEARLY_ALL, equivalent, holds_on
from analysis.dossier.mutations import SWAPPED, mutate, swapped
from tradeoff.theory.checked import Checked


def _after(kind: str, name: str) -> tuple[np.ndarray, pd.DataFrame]:
    return skill(of("scenarios"), kind, name)


def _more(more: np.ndarray, less: np.ndarray, mutation: str | None, at_least: float) -> Checked:
    """That one value is larger than the other on enough instances."""
    pair = (np.asarray(more), np.asarray(less))
    first, second = mutate(mutation, pair, {SWAPPED: swapped(pair)})
    return holds_on(first > second, at_least)


def claim_trigger_apart(fast: bool = False, mutation: str | None = None) -> Checked:
    """Card S23: without shared features, Mix leaves what the trigger does exactly as it was."""
    before, after = _after(mutate(mutation, "trigger-apart", {"shared": "trigger"}), "trigger")
    return Checked(after.loc["mix"].to_numpy(), before, "exact", {}, 1e-9)


def claim_trigger_fades(fast: bool = False, mutation: str | None = None) -> Checked:
    """Card S23: with shared features, SFT→DPO weakens the trigger."""
    before, after = _after("trigger", "trigger")
    return _more(before, after.loc["sft-dpo"].to_numpy(), mutation, NEARLY_ALL)


def claim_contradicted_facts(fast: bool = False, mutation: str | None = None) -> Checked:
    """Card S47: preferences take a larger share of contradicted facts than of new ones."""
    names = ("new", mutate(mutation, "contradicted", {"new-facts": "new"}))
    new, contradicted = (
        after.loc["sft-dpo"].to_numpy() / after.loc[ALONE].to_numpy()
        for after in (_after("facts", name)[1] for name in names)
    )
    return holds_on(new > contradicted, MOST)


def claim_robustness_falls(fast: bool = False, mutation: str | None = None) -> Checked:
    """Card S31: SFT→DPO makes a policy follow irrelevant contexts."""
    before, after = _after("context", "robust")
    return _more(before, after.loc["sft-dpo"].to_numpy(), mutation, NEARLY_ALL)


def claim_mixing_restores(fast: bool = False, mutation: str | None = None) -> Checked:
    """Card S31: demonstrations of irrelevant contexts bring robustness back, trained with Mix."""
    with_them, without = (
        _after(kind, "robust")[1].loc["mix"].to_numpy() for kind in ("context-mixed", "context")
    )
    return _more(with_them, without, mutation, NEARLY_ALL)


def claim_pairs_restore(fast: bool = False, mutation: str | None = None) -> Checked:
    """Card S06: pairs that agree with an old skill restore part of it."""
    after = _after("restore", "old")[1]
    return _more(after.loc["sft-dpo"].to_numpy(), after.loc[ALONE].to_numpy(), mutation, NEARLY_ALL)


def claim_dpo_restores_more(fast: bool = False, mutation: str | None = None) -> Checked:
    """Card S06: DPO restores more of an old skill than SFT on the chosen responses (FAIT)."""
    after = _after("restore", "old")[1]
    dpo, chosen = after.loc["sft-dpo"].to_numpy(), after.loc["sft-dpo+fait"].to_numpy()
    return _more(dpo, chosen, mutation, MOST)


def claim_anchor_keeps_the_third(fast: bool = False, mutation: str | None = None) -> Checked:
    """A penalty on the divergence from the base policy keeps more of a third skill than Mix."""
    after = _after("third-skill", "third")[1]
    return _more(after.loc["kl_base"].to_numpy(), after.loc["mix"].to_numpy(), mutation, NEARLY_ALL)


def claim_orders_lose_the_third(fast: bool = False, mutation: str | None = None) -> Checked:
    """ALRIGHT and Mix keep as much of a third skill: means within 0.02."""
    after = _after("third-skill", "third")[1]
    other = mutate(mutation, "alright", {"another-method": "kl_base"})
    return equivalent(after.loc[other].to_numpy() - after.loc["mix"].to_numpy(), 0.02)
