"""One kind of error for bad input: it names the place, the value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ABSENT: Any = object()


class RowWarning(UserWarning):
    """Rows can be used, but hardly as they are meant: what is trained is not what is asked."""


class InputError(ValueError):
    """Input that cannot be used, with the place where it stands and what would be right.

    Parameters
    ----------
    problem
        What is wrong, as a clause: ``"chosen and rejected are the same response"``.
    remedy
        What the user can do about it.
    file, row, field, value
        Where it stands; each is left out of the message when not given. Rows count from 1.
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
        place += [f"field {field!r}"] if field is not None else []
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
        """The same error where its place is known better, as by the file that a setting is from."""
        return InputError(
            self.problem,
            remedy=self.remedy,
            file=file or self.file,
            row=row or self.row,
            field=field or self.field,
            value=self._value,
        )

    def __reduce__(self) -> Any:
        """Let worker processes hand the error back; the value travels as its representation."""
        settings = {**self._settings, "remedy": self.remedy}
        return _restore, (str(self), self.problem, settings)


def _restore(message: str, problem: str, settings: dict[str, Any]) -> InputError:
    error = InputError(problem, **settings)
    error.args = (message,)
    return error


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    except ValueError:  # Python refuses to write out whole numbers of more than 4,300 digits.
        return f"a {type(value).__name__} that is too long to be shown"


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
