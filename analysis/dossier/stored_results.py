"""Reading of stored results, with file and field in the error for anything missing or unfit.

A result may be damaged, edited by hand, or made by another version of its figure. The common fields
of all results are checked on reading. The numbers are mappings whose error for a missing key names
that key. If a value has a wrong kind, :func:`fitting` says which value was read last.
"""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import UndefinedError

from tradeoff.errors import InputError
from tradeoff.records import load_json
from tradeoff.settings import Within, build, check

DEEPEST = 40
"""Largest depth of lists and mappings in a result."""
_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UndefinedError)
_last: ContextVar[tuple[Path, str, Any] | None] = ContextVar("last", default=None)


@dataclass(frozen=True)
class Training:
    """Cost of the runs of a study."""

    runs: Annotated[int, Within(0, 10**9)]
    cpu_seconds: Annotated[float, Within(0, 1e12)]

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Provenance:
    """Provenance of the numbers of a result."""

    command: str
    form: Literal["fast", "full"]
    seconds: Annotated[float, Within(0, 1e9)]
    python: str
    packages: dict[str, str]
    sources: str
    training: Training | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check(self)


class Fields(dict[str, Any]):
    """A mapping that knows its place in a file, and names a missing key."""

    def __init__(self, values: Mapping[str, Any], path: Path, place: str) -> None:
        super().__init__(values)
        self._path, self._place = path, place

    def _at(self, name: Any) -> str:
        return f"{self._place}.{name}" if self._place else str(name)

    def _seen(self, name: Any, value: Any) -> Any:
        _last.set((self._path, self._at(name), value))
        return value

    def __missing__(self, name: Any) -> Any:
        there = ", ".join(list(self)[:6]) or "nothing"
        problem = f"it is missing; there is {there}"
        raise InputError(problem, file=self._path, field=self._at(name), remedy=_remedy(self._path))

    def __getitem__(self, name: Any) -> Any:
        return self._seen(name, super().__getitem__(name))

    def get(self, name: Any, default: Any = None) -> Any:
        """Get the value of a name that may be missing."""
        return self._seen(name, super().get(name, default))

    def items(self) -> Any:
        """Names and values; each is recorded when it is read."""
        return _Items(self)

    def values(self) -> Any:
        """Values; each is recorded when it is read."""
        return _Values(self)


class _Items(ItemsView[str, Any]):
    _mapping: Mapping[str, Any]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for name in self._mapping:
            yield name, self._mapping[name]


class _Values(ValuesView[Any]):
    _mapping: Mapping[str, Any]

    def __iter__(self) -> Iterator[Any]:
        for name in self._mapping:
            yield self._mapping[name]


def read(path: Path) -> Fields:
    """Read the result of a figure: ``figure``, ``numbers`` and ``provenance``.

    Raises
    ------
    InputError
        If the file cannot be read, is not a result, or is the result of another figure.
    """
    found = fields_of(path)
    with fitting("a result"):
        if found["figure"] != path.stem:
            raise _wrong("it is the result of another figure", path, "figure", found["figure"])
        if not isinstance(found["numbers"], Fields) or not found["numbers"]:
            raise _wrong("not a table of numbers", path, "numbers", found["numbers"])
        try:
            build(Provenance, found["provenance"], file=str(path), place="provenance")
        except InputError as error:
            raise _wrong(error.problem, path, error.field or "", error.value) from error
    return found


def numbers(path: Path) -> Fields:
    """Read the numbers of a stored result; errors as for :func:`read`."""
    found = read(path)["numbers"]
    assert isinstance(found, Fields)
    return found


def fields_of(path: Path) -> Fields:
    """Read the mapping of a JSON file.

    Raises
    ------
    InputError
        If the file cannot be read, does not hold a mapping, or has a number that is not finite.
    """
    found = as_fields(load_json(path, remedy=_remedy(path)), path)
    if not isinstance(found, Fields):
        raise _wrong("not a mapping", path, None, found)
    return found


def as_fields(value: Any, path: Path, place: str = "", depth: int = 0) -> Any:
    """Convert every mapping in a value to :class:`Fields`."""
    if depth > DEEPEST:
        raise _wrong("nested too deeply", path, place, None)
    if isinstance(value, dict):
        inner = f"{place}." if place else ""
        made = {k: as_fields(v, path, f"{inner}{k}", depth + 1) for k, v in value.items()}
        return Fields(made, path, place)
    if isinstance(value, list):
        return [as_fields(v, path, f"{place}.{i}", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong("not a finite number", path, place, value)
    return value


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Context manager in which ``what`` is made of stored values: an error names the unfit value.

    Raises
    ------
    InputError
        In place of an error after the reading of a stored value, which becomes the cause.
    """
    token = _last.set(None)
    try:
        yield
    except InputError:
        raise
    except _UNFIT as error:
        if (last := _last.get()) is None:
            raise
        path, field, value = last
        raise _wrong(f"it does not fit {what}: {_said(error)}", path, field, value) from error
    finally:
        _last.reset(token)


def _said(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _wrong(problem: str, path: Path, field: str | None, value: Any) -> InputError:
    return InputError(problem, file=path, field=field, value=value, remedy=_remedy(path))


def _remedy(path: Path) -> str:
    if path.suffix == ".toml":
        return "Correct it, or take the file of the repository."
    again = "claims" if path.stem == "claims" else f"figures {path.stem} --force"
    return f"Take the file of the repository, or make it anew: tradeoff {again}."
