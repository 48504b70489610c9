"""Rows on disk: sequences for sets that are larger than memory.

The file has no name, so it is gone when the process ends, even if the process is killed. A row is
read on access.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Int

from tradeoff.data.rows import Message, Origin, PreferenceRow, SftRow, Text
from tradeoff.errors import InputError

R = TypeVar("R")
_KINDS: dict[str, type[Any]] = {"sft": SftRow, "preference": PreferenceRow}
_AT_ONCE = 1000


class _OnDisk(Sequence[R], Generic[R]):
    """A sequence whose rows are read on access; slices are tuples."""

    folder: Path

    def _at(self, place: int) -> R:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[R, ...]: ...
    def __getitem__(self, index: int | slice) -> R | tuple[R, ...]:
        if isinstance(index, slice):
            return tuple(self._at(place) for place in range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._at(place)


class Spool(_OnDisk[R]):
    """Rows written one after the other to a file without a name.

    Parameters
    ----------
    folder
        Folder of the file; it is made if absent.

    Raises
    ------
    InputError
        If the folder cannot be written to, or is full.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        self._ends = array("q", [0])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        weakref.finalize(self, self._file.close)

    @classmethod
    def of(cls, rows: Iterable[R], folder: str | PathLike[str]) -> Spool[R]:
        """Write all rows to disk, in one pass."""
        found = cls(folder)
        for row in rows:
            found.append(row)
        return found

    def append(self, row: R) -> None:
        """Append a row."""
        content = encoded(row)
        try:
            self._file.write(content)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._ends.append(self._ends[-1] + len(content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _at(self, place: int) -> R:
        self._file.flush()
        self._file.flush()
        start, end = self._ends[place], self._ends[place + 1]
        found: R = decoded(os.pread(self._file.fileno(), end - start, start))
        return found


class View(_OnDisk[R]):
    """Some of the rows of a sequence on disk.

    Parameters
    ----------
    rows
        The sequence.
    places
        (n,) indices of the rows in it.
    """

    def __init__(self, rows: _OnDisk[R], places: Int[np.ndarray, " n"]) -> None:
        self.rows, self.places, self.folder = rows, places, rows.folder

    def __len__(self) -> int:
        return len(self.places)

    def _at(self, place: int) -> R:
        return self.rows[int(self.places[place])]


def on_disk(rows: Any) -> _OnDisk[Any] | None:
    """The sequence on disk that holds these rows; None if they are in memory."""
    inner = getattr(rows, "rows", rows)
    found = rows if isinstance(rows, _OnDisk) else inner
    return found if isinstance(found, _OnDisk) else None


def held_like(rows: Sequence[Any], made: Iterable[R]) -> Sequence[R]:
    """Store new rows as the given rows are stored: on disk, or as a tuple."""
    known = on_disk(rows)
    return tuple(made) if known is None else Spool.of(made, known.folder)


def chosen(rows: Sequence[R], keep: Bool[np.ndarray, " n"]) -> Sequence[R]:
    """Select the rows at which `keep` is true; they stay on disk or in memory."""
    known = on_disk(rows)
    if known is None:
        return [row for row, wanted in zip(rows, keep.tolist(), strict=True) if wanted]
    return View(known, np.flatnonzero(keep))


def in_parts(rows: Sequence[R]) -> Iterator[Sequence[R]]:
    """Yield the rows in order, in parts of bounded size."""
    for first in range(0, len(rows), _AT_ONCE):
        yield rows[first : first + _AT_ONCE]


def encoded(row: Any) -> bytes:
    """Encode a row and its origin as a line of JSON, which :func:`decoded` reads back."""
    kind = next((name for name, known in _KINDS.items() if type(row) is known), None)
    if kind is None:
        problem = "rows of this kind cannot be kept on disk"
        raise InputError(
            problem,
            field="row_cache",
            value=type(row).__name__,
            remedy="Read rows from a source, or leave row_cache out.",
        )
    sides = [row.completion] if kind == "sft" else [row.chosen, row.rejected]
    texts = [_plain(text) for text in (row.prompt, *sides)]
    more = {"margin": row.margin} if kind == "preference" else {}
    fields = [kind, texts, row.extras, row.origin, more]
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def decoded(line: bytes) -> Any:
    """Decode a line that :func:`encoded` made."""
    kind, texts, extras, origin, more = json.loads(line.decode("utf-8", "surrogatepass"))
    place = None if origin is None else Origin(*origin)
    return _KINDS[kind](*map(_text, texts), extras=extras, origin=place, **more)


def _plain(text: Text) -> Any:
    if isinstance(text, str):
        return text
    return [[turn.role, turn.content, turn.extras] for turn in text]


def _text(found: Any) -> Text:
    return found if isinstance(found, str) else tuple(Message(*turn) for turn in found)


def _unwritable(folder: Path, error: OSError) -> InputError:
    problem = f"rows cannot be kept on disk: {error.strerror or error}"
    return InputError(problem, file=folder, remedy="Give another row_cache, or make space there.")
