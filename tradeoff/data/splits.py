"""Held-out rows, chosen by prompt over both sets together.

If both sets share prompts and each were split alone, held-out prompts of one set would be training
prompts of the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, UInt64

from tradeoff.data.rows import PreferenceRow, SftRow, Text
from tradeoff.data.spool import chosen
from tradeoff.errors import InputError

R = TypeVar("R", SftRow, PreferenceRow)
Places = UInt64[np.ndarray, " _"]


@dataclass(frozen=True)
class Split(Generic[R]):
    """Rows of one set.

    Attributes
    ----------
    train, test
        Rows to train and to test on.
    removed
        Number of rows in neither, because the other set holds their prompts out.
    """

    train: Sequence[R]
    test: Sequence[R]
    removed: int = 0


def hold_out(
    sft: tuple[Sequence[SftRow], Sequence[SftRow] | None],
    preference: tuple[Sequence[PreferenceRow], Sequence[PreferenceRow] | None],
    share: float,
    seed: int = 0,
) -> tuple[Split[SftRow], Split[PreferenceRow]]:
    """Hold out a share of the prompts; no held-out prompt is trained on, in either set.

    Parameters
    ----------
    sft, preference
        Rows of each set, and its held-out rows or None. A set with held-out rows is split only
        where the other set needs it.
    share
        Share of the prompts that each set holds out, at least one prompt and not all. A set with a
        single prompt, such as plain documents, holds out its last rows.
    seed
        Seed of the choice; a prompt has the same rank in every set.

    Raises
    ------
    InputError
        If a set has too few rows.
    """
    given: list[tuple[str, Any, Any]] = [("sft", *sft), ("preference", *preference)]
    places: dict[str, Places] = {}
    for name, rows, test in given:
        if not len(rows):
            raise InputError("there are no rows", field=name, remedy="Give at least two rows.")
        if test is None and len(rows) == 1:
            raise InputError(
                f"a share of {share:g} of a single row cannot be held out",
                field=name,
                value=rows[0],
                remedy=f"Give more rows, or rows to test on: {name}_test, --{name}-test.",
            )
        found = (_place(prompt_key(row), seed) for row in rows)
        places[name] = np.fromiter(found, np.uint64, len(rows))
    prompts = {name: np.unique(found) for name, found in places.items()}
    split = {name: test is None and not _have_one_prompt(rows) for name, rows, test in given}
    split = {name: parts and len(prompts[name]) > 1 for name, parts in split.items()}
    out = _chosen(prompts, split, share)
    sft_split, preference_split = (
        _divided(rows, test, np.isin(places[name], out), share, split[name])
        for name, rows, test in given
    )
    return sft_split, preference_split


def prompt_key(row: SftRow | PreferenceRow) -> str:
    """Key of the rows with one prompt: its words; for a document, the words of its text.

    Text and messages with the same words are one prompt: often one set has it as text and the other
    as messages.
    """
    text = _said(row.prompt)
    if isinstance(row, SftRow) and not text:
        text = _said(row.completion)
    return " ".join(text.split())


def prompts_trained_on(
    tests: Sequence[Sequence[SftRow | PreferenceRow]],
    *train: Sequence[SftRow] | Sequence[PreferenceRow],
) -> list[int]:
    """Number of rows of each held-out set whose prompt is also the prompt of a training row."""
    keys = [[prompt_key(row) for row in test] for test in tests]
    wanted = {key for some in keys for key in some}
    trained = {key for rows in train for row in rows if (key := prompt_key(row)) in wanted}
    return [sum(key in trained for key in some) for some in keys]


def _said(text: Text) -> str:
    return text if isinstance(text, str) else "\n".join(turn.content for turn in text)


def _have_one_prompt(rows: Sequence[SftRow] | Sequence[PreferenceRow]) -> bool:
    first = rows[0].prompt
    return all(row.prompt == first for row in rows)


def _place(prompt: str, seed: int) -> int:
    """Hash of a prompt, which identifies it; prompts are held out in the order of their hashes."""
    content = f"{seed}\n{prompt}".encode(errors="replace")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _chosen(prompts: dict[str, Places], split: dict[str, bool], share: float) -> Places:
    """Choose prompts to hold out: the first that both sets have, then the first of the others."""
    both = np.intersect1d(prompts["sft"], prompts["preference"], assume_unique=True)
    alone = {name: np.setdiff1d(found, both) for name, found in prompts.items()}
    wanted = {name: _share(share, len(prompts[name])) for name, parts in split.items() if parts}
    if not wanted:
        return both[:0]
    most = min(len(found) - 1 for found in prompts.values())
    shared = round(share * len(both)) if len(wanted) == 2 else 0
    shared = max(shared, *(count - len(alone[name]) for name, count in wanted.items()), 0)
    shared = min(shared, *wanted.values(), max(most, 0))
    rest = [alone[name][: count - shared] for name, count in wanted.items()]
    return np.concatenate([both[:shared], *rest])


def _share(share: float, size: int) -> int:
    """Number to hold out of `size`, which is at least 2: at least one, and not all."""
    return min(max(1, round(share * size)), size - 1)


def _divided(
    rows: Sequence[Any],
    test: Sequence[Any] | None,
    aside: Bool[np.ndarray, " n"],
    share: float,
    split: bool,
) -> Split[Any]:
    if test is None and not split:  # a single prompt, as in plain documents: split by order
        aside = np.arange(len(rows)) >= len(rows) - _share(share, len(rows))
        return Split(chosen(rows, ~aside), chosen(rows, aside))
    kept = chosen(rows, ~aside)
    if test is None:
        return Split(kept, chosen(rows, aside))
    return Split(kept if aside.any() else rows, test, int(aside.sum()))
