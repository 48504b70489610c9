"""Mutations: deliberate mistakes, named in the ledger, that must break a claim.

A claim function takes ``mutation``. It passes it to :func:`mutate` at the place of the mistake, or
to :func:`reject_unknown` if it makes the mistake itself.
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
"""Names of mutations that many claims share; a claim may also have its own names."""


def mutate(mutation: str | None, honest: Value, mutants: Mapping[str, Value]) -> Value:
    """Choose the honest value or, under a mutation, the wrong value in its place.

    Parameters
    ----------
    mutation
        Name of the mistake, None for the claim itself.
    honest
        The right value.
    mutants
        The wrong values, by name of the mutation.

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
    """Schedules that do not minimise f_lambda, by the mutation that uses them in place of a method.

    Parameters
    ----------
    lam
        Weight of the preference objective of the method, in [0, 1].

    Notes
    -----
    The wrong probability is ``1 - lam`` and that of the coin is 1/2. At ``lam = 1/2`` both are
    right, so a claim with one of these mutations needs another weight.
    """
    return {
        WRONG_PROBABILITY: Alright(lam=1 - lam),
        SEQUENTIAL: Sequential(lam=lam, share=0.5),
        SFT_ONLY: Sequential(lam=lam, share=1.0),
        COIN: Alright(lam=0.5),
    }


def swapped(pair: tuple[Value, Value]) -> tuple[Value, Value]:
    """Exchange the two sides of a comparison."""
    return pair[1], pair[0]
