"""Rows set aside for testing, by their prompts and over both sets together.

Where both sets have the same prompts, a split of each alone tests on prompts that the other set
trains on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tradeoff.data.rows import PreferenceRow, SftRow, Text
from tradeoff.errors import InputError

R = TypeVar("R", SftRow, PreferenceRow)


@dataclass(frozen=True)
class Split(Generic[R]):
    """Rows of one set.

    Attributes
    ----------
    train, test
        Rows to train and to test on.
    removed
        How many rows of neither: the other set is tested on their prompts.
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
    """Set a share of the prompts aside: no prompt that is tested on is trained on, in either set.

    Parameters
    ----------
    sft, preference
        Rows of each set, and its rows to test on where they are given; then its rows are only
        split as far as the other set needs it.
    share
        Of the prompts of each set that is split, at least one and not all. A set of one prompt,
        such as plain documents, gives its last rows.
    seed
        Of the choice, in which a prompt has the same place in any set.

    Raises
    ------
    InputError
        If a set has too few rows.
    """
    given: list[tuple[str, Any, Any]] = [("sft", *sft), ("preference", *preference)]
    prompts: dict[str, list[str]] = {}
    for name, rows, test in given:
        if not len(rows):
            raise InputError("there are no rows", field=name, remedy="Give at least two rows.")
        found = list(dict.fromkeys(prompt_key(row) for row in rows))
        if test is None and len(rows) == 1:
            raise InputError(
                f"of one row, a share of {share:g} cannot be held out",
                field=name,
                value=rows[0],
                remedy=f"Give more rows, or rows to test on: {name}_test, --{name}-test.",
            )
        prompts[name] = sorted(found, key=lambda prompt: _place(prompt, seed))
    split = {name: test is None and not _have_one_prompt(rows) for name, rows, test in given}
    split = {name: parts and len(prompts[name]) > 1 for name, parts in split.items()}
    out = _chosen(prompts, split, share)
    sft_split, preference_split = (
        _divided(rows, test, out, share, split[name]) for name, rows, test in given
    )
    return sft_split, preference_split


def prompt_key(row: SftRow | PreferenceRow) -> str:
    """What a prompt says up to its blanks, by which rows belong together; of a document, its text.

    Text and messages that say the same are one prompt: often one set has it as text and the other
    as messages.
    """
    text = _said(row.prompt)
    if isinstance(row, SftRow) and not text:
        text = _said(row.completion)
    return " ".join(text.split())


def _said(text: Text) -> str:
    return text if isinstance(text, str) else "\n".join(turn.content for turn in text)


def _have_one_prompt(rows: Sequence[SftRow] | Sequence[PreferenceRow]) -> bool:
    first = rows[0].prompt
    return all(row.prompt == first for row in rows)


def _place(prompt: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\n{prompt}".encode(errors="replace"), digest_size=8).digest()


def _chosen(prompts: dict[str, list[str]], split: dict[str, bool], share: float) -> set[str]:
    """Prompts to test on: of those that both sets have, and then of the others, the first ones."""
    known = {name: set(found) for name, found in prompts.items()}
    both = [prompt for prompt in prompts["sft"] if prompt in known["preference"]]
    alone = {name: [p for p in found if p not in set(both)] for name, found in prompts.items()}
    wanted = {name: _share(share, len(prompts[name])) for name, parts in split.items() if parts}
    if not wanted:
        return set()
    most = min(len(found) - 1 for found in prompts.values())
    shared = round(share * len(both)) if len(wanted) == 2 else 0
    shared = max(shared, *(count - len(alone[name]) for name, count in wanted.items()), 0)
    shared = min(shared, *wanted.values(), max(most, 0))
    out = set(both[:shared])
    for name, count in wanted.items():
        out |= set(alone[name][: count - shared])
    return out


def _share(share: float, size: int) -> int:
    """How many of `size`, at least 2, are held out: one at least, and not all."""
    return min(max(1, round(share * size)), size - 1)


def _divided(
    rows: Sequence[Any], test: Sequence[Any] | None, out: set[str], share: float, split: bool
) -> Split[Any]:
    if test is None and not split:  # one prompt, as plain documents have: by their order
        border = len(rows) - _share(share, len(rows))
        return Split(rows[:border], rows[border:])
    kept = [row for row in rows if prompt_key(row) not in out]
    aside = [row for row in rows if prompt_key(row) in out]
    if test is None:
        return Split(kept, aside)
    return Split(kept if aside else rows, test, len(aside))
