"""The error for bad input, which names place, value and remedy, and the warning about rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ABSENT: Any = object()


class RowWarning(UserWarning):
    """Rows that can be used, but probably do not train what the user intends."""


class InputError(ValueError):
    """Input that cannot be used, with its place, its value and a remedy.

    Parameters
    ----------
    problem
        What is wrong, as a clause: ``"chosen and rejected are the same response"``.
    remedy
        What the user can do about it.
    file, row, field, value
        Place and value of the input; those not given are left out of the message. Rows count from
        1. A field that begins with a dash is an option of the command line.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str,
        file: str | Path | None = None,
        row: int | None = None,
        field: str | None = None,
        value: Any = _ABSENT,
    ) -> None:
        self.problem, self.remedy = problem, remedy
        self.file, self.row, self.field = file, row, field
        place = [str(file)] if file is not None else []
        place += [f"row {row}"] if row is not None else []
        place += [_named(field)] if field is not None else []
        found = "" if value is _ABSENT else f" (found {_shorten(_shown(value))})"
        prefix = f"{', '.join(place)}: " if place else ""
        super().__init__(f"{prefix}{problem}{found}. {remedy}")
        self.value = None if value is _ABSENT else value
        self._value = value
        self._settings = {"file": file, "row": row, "field": field}
        if value is not _ABSENT:
            self._settings["value"] = _shown(value)

    def at(
        self,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        field: str | None = None,
    ) -> InputError:
        """The same error with a better place, such as the file of a setting."""
        return InputError(
            self.problem,
            remedy=self.remedy,
            file=file or self.file,
            row=row or self.row,
            field=field or self.field,
            value=self._value,
        )

    def __reduce__(self) -> Any:
        """Pickle the error for worker processes; the value is replaced by its ``repr``."""
        settings = {**self._settings, "remedy": self.remedy}
        return _restore, (str(self), self.problem, settings)


def _restore(message: str, problem: str, settings: dict[str, Any]) -> InputError:
    error = InputError(problem, **settings)
    error.args = (message,)
    return error


def _named(field: str) -> str:
    """A field, or an option of the command line, as a message names it."""
    return field if field.startswith("-") else f"field {field!r}"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    except ValueError:  # Python does not convert integers of more than 4,300 digits to text.
        return f"a {type(value).__name__} that is too long to be shown"


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
