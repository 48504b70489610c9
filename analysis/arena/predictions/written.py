"""What the cards predict of methods that write responses, look rows up, or add to the policy."""

from __future__ import annotations

from analysis.arena.predictions.compare import level, more
from analysis.dossier.mutations import mutate
from tradeoff.theory.checked import Checked

JUDGED = ("online_dpo", "bolt")


def claim_judged(fast: bool = False, mutation: str | None = None) -> Checked:
    return more(JUDGED, "mix", mutation=mutation)


def claim_xpo(fast: bool = False, mutation: str | None = None) -> Checked:
    return level(mutate(mutation, "xpo", {"another-rule": "maxright"}), "online_dpo", 0.02)


def claim_likeness(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("semantic_reward", "mix", mutation=mutation, score="front_gap")


def claim_small_model(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("levi", "mix", mutation=mutation, score="front_gap")


def claim_expanded(fast: bool = False, mutation: str | None = None) -> Checked:
    return more("search_instruct", "mix", mutation=mutation)
