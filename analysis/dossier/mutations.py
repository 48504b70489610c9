"""Deliberate mistakes that a claim must notice: each is named in the ledger and breaks its claim.

A claim function takes ``mutation`` and passes it on to :func:`mutate` where the mistake enters,
or to :func:`reject_unknown` where it acts itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from tradeoff.errors import InputError
from tradeoff.schedules import Alright, Schedule, Sequential

Value = TypeVar("Value")

WRONG_PROBABILITY = "wrong-probability"
WRONG_OBJECTIVE = "wrong-objective"
SEQUENTIAL = "sft-then-dpo"
SFT_ONLY = "sft-only"
COIN = "coin"
UNTRAINED = "untrained"
SWAPPED = "swapped-roles"
"""Names that many claims share; a claim may have names of its own."""


def mutate(mutation: str | None, honest: Value, mutants: Mapping[str, Value]) -> Value:
    """The honest value or, under a mutation, the wrong one that takes its place.

    Parameters
    ----------
    mutation
        Name of the mistake, None for the claim itself.
    honest
        What the claim is about.
    mutants
        The wrong value by name of the mistake.

    Raises
    ------
    InputError
        If ``mutants`` has no such name.
    """
    reject_unknown(mutation, mutants)
    return honest if mutation is None else mutants[mutation]


def reject_unknown(mutation: str | None, known: Collection[str]) -> None:
    """Raise an InputError if the mutation is not one of those that the claim knows."""
    if mutation is not None and mutation not in known:
        raise InputError(
            "the claim has no such mutation",
            field="mutation",
            value=mutation,
            remedy=f"It has: {', '.join(known) or 'none'}.",
        )


def wrong_methods(lam: float) -> dict[str, Schedule]:
    """Schedules that do not minimise f_lambda, by the mistake that puts them in a method's place.

    Parameters
    ----------
    lam
        Weight of the preference objective that the method was asked for, in [0, 1].

    Notes
    -----
    The wrong probability is ``1 - lam`` and the coin's is 1/2, so that at ``lam = 1/2`` both are
    right: a claim that names one of them needs another weight.
    """
    return {
        WRONG_PROBABILITY: Alright(lam=1 - lam),
        SEQUENTIAL: Sequential(lam=lam, share=0.5),
        SFT_ONLY: Sequential(lam=lam, share=1.0),
        COIN: Alright(lam=0.5),
    }


def swapped(pair: tuple[Value, Value]) -> tuple[Value, Value]:
    """The two sides of a comparison with their roles exchanged."""
    return pair[1], pair[0]
