"""Multiple-choice rows: MMLU, ARC, TruthfulQA and XSTest.

A row is ``{"question", "choices", "answer"}``. The answer is the index of the right choice, from 0.
A row may also name the ``"subject"`` of its question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from tradeoff.data._turns import read_text
from tradeoff.data.files import Rows, read_rows
from tradeoff.data.record import Record

CHOICE_COLUMNS = frozenset({"question", "choices", "answer", "subject"})
"""Columns of a multiple-choice row."""


@dataclass(frozen=True)
class ChoiceRow:
    """A question, its choices, the index of the right choice from 0, and its subject or ``""``."""

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str = ""


def read_choices(
    source: str | PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
) -> Rows[ChoiceRow]:
    """Read multiple-choice rows; parameters, result and errors are as for `read_sft`.

    Questions test a model, so the split of a name on the hub has to be named.
    """
    options: dict[str, Any] = {"skip_bad": skip_bad, "limit": limit, "rename": columns}
    return read_rows(source, choice_row, CHOICE_COLUMNS, default_split=None, **options)


def choice_row(record: Record) -> ChoiceRow:
    """Check a multiple-choice row."""
    question = _string(record, "question")
    choices = record.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        remedy = "Give a list of at least two strings."
        raise record.error("there are no choices", remedy, field="choices", value=choices)
    for choice in choices:
        if isinstance(choice, str) and not choice.strip():
            remedy = (
                "Remove it and correct the answer, or leave such rows out: --skip-bad, or "
                "skip_bad=True."
            )
            raise record.error("a choice is blank", remedy, field="choices", value=choices)
        _string(replace(record, fields={"choices": choice}), "choices")
    answer = record.get("answer")
    if type(answer) is not int or not 0 <= answer < len(choices):
        remedy = f"Count the right choice from 0: a whole number up to {len(choices) - 1}."
        problem = "the answer is not the index of a choice"
        raise record.error(problem, remedy, field="answer", value=answer)
    subject = "" if record.get("subject") in (None, "") else _string(record, "subject")
    return ChoiceRow(question, tuple(choices), answer, subject)


def _string(record: Record, name: str) -> str:
    """Read a column of plain text, which must not be a conversation."""
    value = read_text(record, name)
    if not isinstance(value, str):
        remedy = "Give a string."
        raise record.error("the field is not text", remedy, field=name, value=value)
    return value
