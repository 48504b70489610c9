"""Column names that a user gives for all data sets at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tradeoff.data.choices import CHOICE_COLUMNS
from tradeoff.data.layouts import PREFERENCE_COLUMNS, SFT_COLUMNS
from tradeoff.errors import InputError

Set = Literal["sft", "preference", "choices"]
TRAINED: tuple[Set, ...] = ("sft", "preference")
"""The sets of a training; an evaluation has questions with choices, too."""
_COLUMNS = {"sft": SFT_COLUMNS, "preference": PREFERENCE_COLUMNS, "choices": CHOICE_COLUMNS}
_REMEDY = "Write NAME=COLUMN, such as completion=answer, or sft.prompt=question for one set."


def parsed(assignments: Iterable[str]) -> dict[str, str]:
    """Parse texts such as ``"completion=answer"`` into a mapping.

    Raises
    ------
    InputError
        If a text is not such an assignment.
    """
    found = {}
    for text in assignments:
        name, equals, column = (part.strip() for part in text.partition("="))
        if not (name and equals and column):
            problem = "this does not assign a column"
            raise InputError(problem, field="columns", value=text, remedy=_REMEDY)
        found[name] = column
    return found


def columns_of(
    columns: Mapping[str, str], name: Set, sets: Sequence[Set] = TRAINED
) -> dict[str, str]:
    """Select the column names of one set.

    ``"sft.prompt"`` is for one set, ``"prompt"`` for each set that has such a column.

    Raises
    ------
    InputError
        If none of the `sets` has a column of such a name.
    """
    found = {}
    for key, column in columns.items():
        scope, dot, rest = key.rpartition(".")
        known: dict[str, frozenset[str]] = {kind: _COLUMNS[kind] for kind in sets}
        places = [scope] if dot else [kind for kind in sets if key in known[kind]]
        if not places or any(rest not in known.get(place, ()) for place in places):
            problem = "no layout has this column"
            raise InputError(problem, field="columns", value=key, remedy=_REMEDY)
        if name in places:
            found[rest] = column
    return found
