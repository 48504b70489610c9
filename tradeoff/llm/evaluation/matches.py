"""Whether generated responses say what the demonstrations say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.synthetic.generate import InstructionRow, StyleRow
from tradeoff.data.synthetic.scoring import plain
from tradeoff.data.synthetic.style import content, satisfies
from tradeoff.llm.evaluation.score import Score, shares

_QUOTES = " \"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"
_STOPS = ".!?,;:"


def normalised(text: str) -> str:
    """A text without differences of case, of blanks, of quotes around it and of its final stop.

    Signs and symbols stay, as they change an answer: ``-5``, ``5%``, ``C++``, ``(0, 1]``.
    """
    blanks = " ".join(text.casefold().split())
    return blanks.lstrip(_QUOTES).rstrip(_QUOTES + _STOPS) or blanks


def exact_match(rows: Sequence[SftRow], responses: Sequence[str]) -> tuple[Score, ...]:
    """Share of responses that equal the demonstrated completion.

    Returns
    -------
    tuple of Score
        ``exact_match``, of normalised texts. For rows of the generated language also, by skill,
        ``style_match``, which is exact in every letter, and ``answer_match``, which asks for the
        right answer in whatever style.
    """
    both = list(zip(rows, responses, strict=True))
    hits = [normalised(plain(row.completion)) == normalised(found) for row, found in both]
    scores = shares("exact_match", hits, ["all"] * len(both))
    known = [(row, found) for row, found in both if isinstance(row, InstructionRow)]
    if len(known) < len(both):
        return scores
    skills = [row.skill for row, _ in known]
    style = [found.strip() == plain(row.completion) for row, found in known]
    answers = [content(found) == row.answer for row, found in known]
    styles, matches = shares("style_match", style, skills), shares("answer_match", answers, skills)
    return (*scores, *styles, *matches)


def checkable(rows: Sequence[PreferenceRow]) -> TypeGuard[Sequence[StyleRow]]:
    """Whether there are rows and all name a style of the generated language."""
    return bool(rows) and all(isinstance(row, StyleRow) for row in rows)


def preference_match(rows: Sequence[StyleRow], responses: Sequence[str]) -> tuple[Score, ...]:
    """Share of responses in the preferred style, of all and by the preference asked about."""
    both = zip(rows, responses, strict=True)
    hits = [satisfies(row.preference, found) for row, found in both]
    return shares("preference_match", hits, [row.preference for row in rows])
