"""Exact scores of generated responses, per skill and per preference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tradeoff.data.rows import Text
from tradeoff.data.synthetic.generate import InstructionRow, StyleRow
from tradeoff.data.synthetic.style import content, satisfies
from tradeoff.errors import InputError


def exact_match(rows: Sequence[InstructionRow], outputs: Sequence[str]) -> dict[str, float]:
    """Share of outputs that equal the demonstrated completion, answer and style.

    Parameters
    ----------
    rows
        Held-out demonstrations.
    outputs
        The generated response to each.

    Returns
    -------
    dict of str to float
        Scores by skill; blanks around a response do not count.
    """
    hits = [output.strip() == plain(row.completion) for row, output in _paired(rows, outputs)]
    return _means([row.skill for row in rows], hits)


def answer_match(rows: Sequence[InstructionRow], outputs: Sequence[str]) -> dict[str, float]:
    """Share of outputs that give the right answer in any style, by skill."""
    hits = [content(output) == row.answer for row, output in _paired(rows, outputs)]
    return _means([row.skill for row in rows], hits)


def preference_match(rows: Sequence[StyleRow], outputs: Sequence[str]) -> dict[str, float]:
    """Share of outputs in the preferred style, by the preference that the row is about."""
    hits = [satisfies(row.preference, output) for row, output in _paired(rows, outputs)]
    return _means([row.preference for row in rows], hits)


def plain(text: Text) -> str:
    """A field as plain text; a conversation gives the text of its last turn."""
    return text if isinstance(text, str) else text[-1].content


def _paired(rows: Sequence, outputs: Sequence[str]) -> list[tuple]:
    if len(rows) != len(outputs):
        raise InputError(
            f"there are {len(rows)} rows",
            field="outputs",
            value=len(outputs),
            remedy="Give one output for each row.",
        )
    return list(zip(rows, outputs, strict=True))


def _means(labels: Sequence[str], hits: Sequence[bool]) -> dict[str, float]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for label, hit in zip(labels, hits, strict=True):
        groups[label].append(hit)
    return {label: sum(group) / len(group) for label, group in groups.items()}
