"""Matches of generated responses with demonstrations and with preferred styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.synthetic.generate import InstructionRow, StyleRow
from tradeoff.data.synthetic.right_answers import plain
from tradeoff.data.synthetic.style import content, satisfies
from tradeoff.llm._encoding import row_error
from tradeoff.llm.evaluation.answers import Extract, extracted, normalised
from tradeoff.llm.evaluation.score import Score, shares


def exact_match(
    rows: Sequence[SftRow], responses: Sequence[str], extract: Extract = Extract.whole
) -> tuple[Score, ...]:
    """Share of responses that equal the demonstrated completion.

    Parameters
    ----------
    rows, responses
        Held-out demonstrations, and the generated response to each.
    extract
        The part of both that is compared. A response without such a part does not match.

    Returns
    -------
    tuple of Score
        ``exact_match`` of `normalised` texts. Rows of the generated language also have, by skill,
        ``style_match``, which is exact in every letter, and ``answer_match``, the right answer in
        any style.

    Raises
    ------
    InputError
        If a demonstration does not have such a part.
    """
    both = list(zip(rows, responses, strict=True))
    wanted = demonstrated(rows, extract)
    given = [extracted(found, extract) for found in responses]
    hits = [
        answer is not None and normalised(answer) == right
        for right, answer in zip(wanted, given, strict=True)
    ]
    scores = shares("exact_match", hits, ["all"] * len(both))
    known = [(row, found) for row, found in both if isinstance(row, InstructionRow)]
    if len(known) < len(both):
        return scores
    skills = [row.skill for row, _ in known]
    style = [found.strip() == plain(row.completion) for row, found in known]
    answers = [content(found) == row.answer for row, found in known]
    styles, matches = shares("style_match", style, skills), shares("answer_match", answers, skills)
    return (*scores, *styles, *matches)


def demonstrated(rows: Sequence[SftRow], extract: Extract) -> list[str]:
    """The normalised answer of each demonstration; an `InputError` for a row without an answer."""
    found = []
    for place, row in enumerate(rows):
        answer = extracted(plain(row.completion), extract)
        if answer is None:
            problem = f"the demonstration has no answer of the kind {extract.value!r}"
            remedy = "Choose another extraction, or leave the row out."
            raise row_error(rows, place, problem, remedy, field="completion", value=row.completion)
        found.append(normalised(answer))
    return found


def checkable(rows: Sequence[PreferenceRow]) -> TypeGuard[Sequence[StyleRow]]:
    """Whether there are rows, and each has a style of the generated language."""
    return bool(rows) and all(isinstance(row, StyleRow) for row in rows)


def preference_match(rows: Sequence[StyleRow], responses: Sequence[str]) -> tuple[Score, ...]:
    """Share of responses in the preferred style, over all and by preference."""
    both = zip(rows, responses, strict=True)
    hits = [satisfies(row.preference, found) for row, found in both]
    return shares("preference_match", hits, [row.preference for row in rows])
