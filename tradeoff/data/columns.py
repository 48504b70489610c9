"""Column names that a user gives for both data sets at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from tradeoff.data.layouts import PREFERENCE_COLUMNS, SFT_COLUMNS
from tradeoff.errors import InputError

_COLUMNS = {"sft": SFT_COLUMNS, "preference": PREFERENCE_COLUMNS}
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


def columns_of(columns: Mapping[str, str], name: Literal["sft", "preference"]) -> dict[str, str]:
    """Select the column names of one set.

    ``"sft.prompt"`` is for one set, ``"prompt"`` for each set that has such a column.

    Raises
    ------
    InputError
        If neither set has a column of such a name.
    """
    found = {}
    for key, column in columns.items():
        scope, dot, rest = key.rpartition(".")
        places = [scope] if dot else [kind for kind, known in _COLUMNS.items() if key in known]
        if not places or any(rest not in _COLUMNS.get(place, ()) for place in places):
            problem = "no layout has this column"
            raise InputError(problem, field="columns", value=key, remedy=_REMEDY)
        if name in places:
            found[rest] = column
    return found
