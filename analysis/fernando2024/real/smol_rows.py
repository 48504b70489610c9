"""Pairs of data sets for the study on SmolLM2: demonstrations and preferences with short rows.

Of each file of real text, the first rows that are short enough are used, so that a CPU can read
them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from analysis.fernando2024.real import llm_text
from analysis.fernando2024.real.llm_text import Rows
from tradeoff.checkout import DATA
from tradeoff.data.files import read_preferences, read_sft
from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text
from tradeoff.errors import InputError

MOST, SHORT, FEWEST = 2000, 500, 200
"""Rows read of each file; largest number of characters of a prompt with its longest response;
number of rows that are used, the shortest ones, if fewer are that short."""
VALIDATION = 40
"""Number of rows of each set that choose step sizes."""
PAIRS: dict[str, tuple[str, str]] = {
    "same prompts": ("sft_rasbt", "pref_rasbt"),
    "helpful": ("sft_dolly15k", "pref_hh_helpful_base"),
    "harmless": ("sft_dolly15k", "pref_hh_harmless_base"),
    "online": ("sft_dolly15k", "pref_hh_helpful_online"),
    "compliance": ("sft_dolly15k", "pref_xstest"),
    "made skill": ("", "pref_rasbt"),
    "padding": ("", "pref_rasbt"),
}
"""Files of each pair of data sets. Without a file, demonstrations are generated: a skill that the
base model lacks, or, as its control, the same prompts with an empty answer."""
GENERATED = "generated"
"""Name in place of a pair: the small generated language of the fast form."""
MADE = 240
_TURN = re.compile(r"\n\n(Human|Assistant):")


def files(pair: str | None = None) -> list[Path]:
    """The files of a pair, or of all pairs."""
    pairs = list(PAIRS) if pair is None else [pair]
    stems = dict.fromkeys(stem for p in pairs for stem in PAIRS.get(p, ()) if stem)
    return [DATA / f"{stem}_{part}.jsonl.gz" for stem in stems for part in ("train", "test")]


@cache
def rows(pair: str) -> Rows:
    """Rows of a pair: for training, for the choice of step sizes, and for scores.

    Raises
    ------
    InputError
        If there is no such pair, or a file is missing.
    """
    if pair == GENERATED:
        return llm_text.rows(llm_text.GENERATED)
    if pair not in PAIRS:
        raise InputError(
            "no such pair", field="pair", value=pair, remedy=f"Use one of: {', '.join(PAIRS)}."
        )
    demonstrations, preferences = PAIRS[pair]
    if demonstrations:
        sft = [_kept(read_sft(_file(demonstrations, part))) for part in ("train", "test")]
    else:
        words = _words()
        made = skill(words) if pair == "made skill" else padding(words)
        sft = [made[: -MADE // 4], made[-MADE // 4 :]]
    pairs = [_kept(read_preferences(_file(preferences, part))) for part in ("train", "test")]
    return llm_text._split((sft[0], pairs[0]), (sft[1], pairs[1]), VALIDATION)


def _file(stem: str, part: str) -> Path:
    path = DATA / f"{stem}_{part}.jsonl.gz"
    if not path.exists():
        remedy = f"Put it into {DATA}, or name its folder in TRADEOFF_DATA."
        raise InputError("the file is missing", file=path, remedy=remedy)
    return path


def _kept(given: Sequence[Any]) -> list[Any]:
    """The first rows that are short, with transcripts as conversations."""
    first = list(given)[:MOST]
    short = [row for row in first if _length(row) <= SHORT]
    if len(short) < FEWEST:
        limit = sorted(_length(row) for row in first)[:FEWEST][-1]
        short = [row for row in first if _length(row) <= limit]
    return [as_conversation(row) for row in short]


def _length(row: SftRow | PreferenceRow) -> int:
    ends = (row.completion,) if isinstance(row, SftRow) else (row.chosen, row.rejected)
    return _characters(row.prompt) + max(map(_characters, ends))


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(len(turn.content) for turn in text)


def as_conversation(row: Any) -> Any:
    """Convert a row whose prompt is a transcript of turns to a conversation; keep any other row."""
    if not isinstance(row, PreferenceRow) or not str(row.prompt).startswith("\n\nHuman:"):
        return row
    pieces = _TURN.split(str(row.prompt))[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        Message(roles[speaker], text.strip())
        for speaker, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]

    def answer(text: Any) -> tuple[Message, ...]:
        return (Message("assistant", str(text).strip()),)

    # The prompt ends where the response begins.
    return PreferenceRow(tuple(turns[:-1]), answer(row.chosen), answer(row.rejected))


def length(pair: str) -> float:
    """Mean number of characters in a demonstration and a pair, for estimates of cost."""
    sft, pairs = rows(pair).training
    return float(np.mean([_length(r) for r in sft])) + 2 * float(
        np.mean([_length(r) for r in pairs])
    )


# ---------------------------------------------------------------------- made demonstrations


def _words() -> list[str]:
    """Words made of English syllables, so that no list of words is needed."""
    starts = ("ba", "ca", "de", "fi", "ga", "ha", "la", "mi", "no", "pe", "ra", "sa", "to", "ve")
    ends = ("ker", "ling", "ton", "ble", "der", "mer", "nel", "per", "ster", "ver", "low", "my")
    middles = ("", "n", "r", "t")
    found = [f"{a}{m}{b}" for a in starts for b in ends for m in middles]
    random.Random(0).shuffle(found)
    return found[:MADE]


def skill(words: Sequence[str]) -> list[SftRow]:
    """Rows that translate a word by an arbitrary rule, which the base model cannot know."""
    return [
        SftRow(f"What is '{word}' in Vori? Answer with one word.", f"vo-{word}-ri")
        for word in words
    ]


def padding(words: Sequence[str]) -> list[SftRow]:
    """Rows with the same prompts and one answer for all: training without the skill."""
    return [SftRow(row.prompt, "I have no word for it") for row in skill(words)]
