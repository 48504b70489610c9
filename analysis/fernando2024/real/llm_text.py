"""The rows of the figures on real text. The fast form uses rows of a small generated language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tradeoff.checkout import DATA
from tradeoff.data.files import read_preferences, read_sft
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.synthetic import InstructionData, Language, generate

GENERATED = "generated"
VALIDATION = 80
"""Least number of rows of each set that choose step sizes; for the generated language a tenth of
it."""
FILES = {
    "rasbt": ("sft_rasbt", "pref_rasbt"),
    "dolly": ("sft_dolly15k", "pref_hh_helpful_base"),
}


Both = tuple[Sequence[SftRow], Sequence[PreferenceRow]]


@dataclass(frozen=True)
class Rows:
    """Demonstrations and pairs for training, for the choice of step sizes, and for scores.

    No prompt of one part is in another.
    """

    training: Both
    validation: Both
    test: Both


def files(text: str) -> list[Path]:
    """The files of a text."""
    if text == GENERATED:
        return []
    return [DATA / f"{name}_{part}.jsonl.gz" for name in FILES[text] for part in ("train", "test")]


@cache
def rows(text: str) -> Rows:
    """The rows of a text. The rows of the last training prompts are used for validation."""
    if text == GENERATED:
        made = generated()
        training: Both = made.sft_train, made.preference_train
        return _split(training, (made.sft_test, made.preference_test), VALIDATION // 10)
    sft_train, sft_test, pairs_train, pairs_test = files(text)
    training = read_sft(sft_train), read_preferences(pairs_train)
    return _split(training, (read_sft(sft_test), read_preferences(pairs_test)), VALIDATION)


def _split(training: Both, test: Both, count: int) -> Rows:
    """Use the prompts of the last `count` demonstrations, and as many pairs, for validation."""
    sft, pairs = training
    last: tuple[Any, ...] = (*sft[-count:], *pairs[-count:])
    kept = {str(row.prompt) for row in last}

    def part(rows: Sequence[Any], wanted: bool) -> tuple[Any, ...]:
        return tuple(row for row in rows if (str(row.prompt) in kept) == wanted)

    return Rows((part(sft, False), part(pairs, False)), (part(sft, True), part(pairs, True)), test)


def generated() -> InstructionData:
    """The generated language of the fast form."""
    return generate(Language(sft_rows=40, preference_rows=40, test_rows=8, documents=200))
