"""Rows of text files: JSON, one object a line or one list, and tables with commas or tabs.

Reading is bounded: a line by `tradeoff.data.record.LONGEST`, and a compressed file by its unpacked
size.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from tradeoff.data.record import LONGEST, Record
from tradeoff.errors import InputError

_BOM = b"\xef\xbb\xbf"
_AS_UTF8 = "Save the file as UTF-8, for instance with `iconv -f latin1 -t utf-8`."
GROWTH = 200
"""Largest ratio of unpacked to compressed size; for text the ratio is about four."""
SMALL = 2**28
"""Unpacked size in bytes that any file may have."""

_OTHER = {
    b"\xff\xfe": ("UTF-16", "Save it as UTF-8, for instance with `iconv -f utf-16 -t utf-8`."),
    b"\xfe\xff": ("UTF-16", "Save it as UTF-8, for instance with `iconv -f utf-16 -t utf-8`."),
    b"\x1f\x8b": ("compressed by gzip", "Unpack it, or add .gz to its name."),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "Unpack it, or add .zst to its name."),
    b"PAR1": ("in the format Parquet", "Give it a name that ends in .parquet."),
}
"""What files without text in UTF-8 begin with, their kind, and what to do."""
_UNDER_DATA = re.compile(
    r"""\s*\{\s*(?:"\w+"\s*:\s*(?:"[^"\\]*"|[\w.+-]+)\s*,\s*)*"data"\s*:\s*\[(?=\s*\{)"""
)
"""The beginning of an object that has the rows in a list under ``"data"``."""

Found = Iterator[Record | InputError]


class Growing(OSError):
    """The error of a compressed file that is too large when unpacked."""


class Budget:
    """The count of bytes that a file has been unpacked to, with its limit."""

    def __init__(self, path: Path) -> None:
        self.most = max(SMALL, GROWTH * path.stat().st_size)
        self.bytes = 0

    def spend(self, size: int) -> None:
        """Count what was read, or raise `Growing`."""
        self.bytes += size
        if self.bytes > self.most:
            raise Growing(f"it grows to more than {GROWTH} times its size")


class _Unpacked(io.RawIOBase):
    """The bytes of a file, unpacked and counted."""

    def __init__(self, path: Path) -> None:
        self.budget = Budget(path)
        self.raw = path.open("rb")
        self.stream: Any = self.raw
        if path.suffix.lower() == ".gz":
            self.stream = gzip.GzipFile(fileobj=self.raw)
        elif path.suffix.lower() == ".zst":
            from pyarrow import CompressedInputStream

            self.stream = CompressedInputStream(self.raw, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = getattr(self.stream, "read1", self.stream.read)
        found = read(len(buffer))
        self.budget.spend(len(found))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.raw.close()
        super().close()


def unpacked(path: Path) -> io.BufferedReader:
    """Open a file for reading, with its compression removed.

    Raises
    ------
    InputError
        If it begins as files do that are not text in UTF-8.
    """
    file: io.BufferedReader = io.BufferedReader(_Unpacked(path), 2**16)
    start = file.peek(4)
    for mark, (kind, remedy) in _OTHER.items():
        if start.startswith(mark):
            file.close()
            raise InputError(f"the file is {kind}, not UTF-8", file=path, remedy=remedy)
    return file


def unreadable(path: Path, row: int, error: Exception) -> InputError:
    """The error with which the reading of a damaged file ends."""
    remedy = "Check the file or fetch it again; skip_bad=True keeps the rows before this one."
    if isinstance(error, UnicodeDecodeError):
        remedy = _AS_UTF8
    problem = f"the rest of the file cannot be read: {error}"
    return InputError(problem, file=path, row=row or None, remedy=remedy)


def damage() -> tuple[type[Exception], ...]:
    """The types of error that damaged files raise."""
    known = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)
    try:
        from pyarrow import ArrowException
    except ImportError:
        return known
    return (*known, ArrowException)


# ---------------------------------------------------------------------- JSON


def json_lines(path: Path) -> Found:
    """Yield a record or an error for each line that is not blank, up to any damage of the file."""
    row = 0
    try:
        objects = _Objects()
        with unpacked(path) as lines:
            for row in count(1):
                line = lines.readline(LONGEST + 1)
                if not line:
                    return
                if row == 1:
                    line = line.removeprefix(_BOM)
                if row == 1 and line.lstrip().startswith(b"["):
                    remedy = "Write one JSON object per line; or, if it is one list of objects, "
                    remedy += "let its name end in .json."
                    problem = "the file begins with a list"
                    yield InputError(problem, file=path, row=row, remedy=remedy)
                    continue
                if len(line) > LONGEST:
                    while line and not line.endswith(b"\n"):
                        line = lines.readline(LONGEST)
                    remedy = f"Split the row; a line may have {LONGEST:,} bytes."
                    yield InputError("the line is too long", file=path, row=row, remedy=remedy)
                elif line.strip():
                    yield _json_record(objects, line, str(path), row)
    except damage() as error:
        yield unreadable(path, row, error)


def _json_record(objects: _Objects, line: bytes, file: str, row: int) -> Record | InputError:
    where: dict[str, Any] = {"file": file, "row": row}
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = line[error.start : error.end]
        return InputError("the line is not UTF-8", value=bad, remedy=_AS_UTF8, **where)
    objects.doubled = None
    try:
        fields = objects.decoder.decode(text)
    except (ValueError, RecursionError) as error:
        problem = f"the line is not JSON: {error}"
        remedy = "Write one JSON object per line; for objects over several lines, `jq -c .` does."
        return InputError(problem, value=text, remedy=remedy, **where)
    return objects.record(fields, **where)


def json_list(path: Path) -> Found:
    """Yield the objects of a JSON list, alone or under ``"data"``, or of one object a line."""
    try:
        with unpacked(path) as file:
            start = file.read(2**16).removeprefix(_BOM).lstrip()
        if start[:1] != b"[" and not _UNDER_DATA.match(start.decode(errors="replace")):
            yield from json_lines(path)
            return
        with unpacked(path) as file:
            text = file.read().decode("utf-8-sig")
    except damage() as error:
        yield unreadable(path, 0, error)
        return
    yield from _items(path, text)


def _items(path: Path, text: str) -> Found:
    under = _UNDER_DATA.match(text)
    place = _skip(text, under.end() if under else text.index("[") + 1)
    objects = _Objects()
    for row in count(1):
        if text[place : place + 1] == "]":
            if not _ends(text[place:], under is not None):
                yield unreadable(path, row, ValueError("something follows the list"))
            return
        objects.doubled = None
        try:
            fields, place = objects.decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield unreadable(path, row, error)
            return
        yield objects.record(fields, str(path), row)
        place = _skip(text, place)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != "]":
            yield unreadable(path, row + 1, ValueError("a comma or the end of the list is missing"))
            return


def _ends(text: str, inside: bool) -> bool:
    """Whether nothing follows the end of a list, or only the rest of the object that it is in."""
    if not inside:
        return not text[1:].strip()
    try:
        json.loads('{"data": [' + text)
    except (ValueError, RecursionError):
        return False
    return True


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


class _Objects:
    """A reader of JSON that notices keys that occur twice in one object."""

    def __init__(self) -> None:
        self.doubled: str | None = None
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.doubled = Counter(name for name, _ in pairs).most_common(1)[0][0]
        return found

    def record(self, fields: Any, file: str, row: int) -> Record | InputError:
        """Make a record of one JSON object, whose keys must all be different."""
        remedy = "Write one JSON object per row, with each key once."
        if not isinstance(fields, dict):
            problem = "the row is not a JSON object"
            return InputError(problem, file=file, row=row, value=fields, remedy=remedy)
        if self.doubled is not None:
            problem = "a key occurs twice in one object"
            return InputError(problem, file=file, row=row, value=self.doubled, remedy=remedy)
        return Record(file, row, fields)


# ---------------------------------------------------------------------- tables as text


def separated(path: Path, delimiter: str) -> Found:
    """Yield the rows of a table below its header; empty cells are absent.

    The number of a row is the line of the file at which it begins.
    """
    row = 0
    before = csv.field_size_limit(LONGEST)
    try:
        with io.TextIOWrapper(unpacked(path), "utf-8-sig", newline="") as text:
            lines = csv.reader(text, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(lines, [])]
            if len(header) == 1 and (other := re.search("[;\t,|]", header[0])):
                remedy = "Let the name of a table with commas end in .csv, with tabs in .tsv."
                problem = f"cells are separated by {other[0]!r}, not by {delimiter!r}"
                raise InputError(problem, file=path, value=header[0], remedy=remedy)
            if doubled := {name for name in header if header.count(name) > 1}:
                remedy = "Give each column a name of its own."
                problem = "two columns have one name"
                yield InputError(problem, file=path, value=min(doubled), remedy=remedy)
                return
            row = lines.line_num + 1
            for cells in lines:
                if cells:
                    yield _cells(path, row, header, cells)
                row = lines.line_num + 1
    except damage() as error:
        yield unreadable(path, row, error)
    finally:
        csv.field_size_limit(before)


def _cells(path: Path, row: int, header: list[str], cells: list[str]) -> Record | InputError:
    if len(cells) > len(header):
        remedy = "Put cells with the delimiter in them into quotes."
        problem = f"the row has {len(cells)} cells, the header {len(header)}"
        return InputError(problem, file=path, row=row, value=cells[-1], remedy=remedy)
    filled = {name: cell or None for name, cell in zip(header, cells, strict=False)}
    return Record(str(path), row, filled)
