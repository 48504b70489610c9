"""SFT and preference rows from files and the Hugging Face hub, checked one by one.

A row that cannot be used is an `InputError` naming file, row, field, value and remedy; it stops
the reading, or is collected with ``skip_bad=True``. Nothing is ever unpickled or executed.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from tradeoff.data.rows import (
    COLUMNS,
    PreferenceRow,
    Record,
    SftRow,
    as_text,
    preference_row,
    sft_row,
)
from tradeoff.display import Shown
from tradeoff.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, repr=False)
class Rows(Shown, Sequence[R], Generic[R]):
    """The usable rows of one source; a sequence of them.

    Attributes
    ----------
    rows
        In the order of the source.
    source
        Where they were read.
    dropped
        The errors of the rows that were left out.
    """

    rows: tuple[R, ...]
    source: str
    dropped: tuple[InputError, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[R, ...]: ...
    def __getitem__(self, index: int | slice) -> R | tuple[R, ...]:
        return self.rows[index]

    def table(self) -> pd.DataFrame:
        """One row each, conversations as text (`as_text`), further fields as they are."""
        import pandas as pd  # rows are read where no table is wanted, too

        return pd.DataFrame([_fields(row) for row in self.rows])

    def __repr__(self) -> str:
        kind = type(self.rows[0]).__name__ if self.rows else "row"
        return f"<{len(self)} x {kind} from {self.source!r}, {len(self.dropped)} dropped>"


def _fields(row: object) -> dict[str, object]:
    return {k: as_text(v) if isinstance(v, tuple) else v for k, v in vars(row).items()}


def read_sft(
    source: str | PathLike[str],
    *,
    skip_bad: bool = False,
    limit: int | None = None,
    split: str | None = None,
) -> Rows[SftRow]:
    """Read demonstrations in any of the layouts of `tradeoff.data.rows`.

    Parameters
    ----------
    source
        A ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file in UTF-8, or a hub name ``owner/name``.
    skip_bad
        Collect the errors of bad rows in `Rows.dropped` and go on; else the first one stops.
    limit
        Stop after this many usable rows.
    split
        The split of a hub data set, ``"train"`` when not given; an error for a file.

    Returns
    -------
    Rows[SftRow]
        At least one row.

    Raises
    ------
    InputError
        For a bad row or damaged file unless `skip_bad`; always for a source without usable rows.
    """
    options: dict[str, Any] = {"skip_bad": skip_bad, "limit": limit, "split": split}
    return read_rows(source, sft_row, COLUMNS, **options)


def read_preferences(
    source: str | PathLike[str],
    *,
    skip_bad: bool = False,
    limit: int | None = None,
    split: str | None = None,
) -> Rows[PreferenceRow]:
    """Read preference pairs in any of the layouts of `tradeoff.data.rows`.

    Parameters
    ----------
    source, skip_bad, limit, split
        As for `read_sft`.

    Returns
    -------
    Rows[PreferenceRow]
        At least one row.

    Raises
    ------
    InputError
        As for `read_sft`.
    """
    options: dict[str, Any] = {"skip_bad": skip_bad, "limit": limit, "split": split}
    return read_rows(source, preference_row, COLUMNS, **options)


def read_rows(
    source: str | PathLike[str],
    check: Callable[[Record], R],
    columns: Collection[str],
    *,
    skip_bad: bool = False,
    limit: int | None = None,
    split: str | None = None,
) -> Rows[R]:
    """Read rows of any kind; all else is as for `read_sft`.

    Parameters
    ----------
    check
        Makes a row of a record, or raises an `InputError` at it.
    columns
        Those that `check` looks at; of a table, others are not read.
    """
    if limit is not None and limit < 1:
        raise InputError("limit is not positive", value=limit, remedy="Give None for all rows.")
    rows: list[R] = []
    dropped: list[InputError] = []
    for record in _records(source, columns, split):
        try:
            if isinstance(record, InputError):
                raise record
            rows.append(check(record))
        except InputError as error:
            if not skip_bad:
                raise
            dropped.append(error)
        if len(rows) == limit:
            break
    if not rows:
        first = f"; the first error is: {dropped[0]}" if dropped else ""
        remedy = "Give a source with at least one good row."
        raise InputError(f"no usable row{first}", file=str(source), remedy=remedy)
    return Rows(tuple(rows), str(source), tuple(dropped))


def _records(
    source: str | PathLike[str], columns: Collection[str], split: str | None
) -> Iterator[Record | InputError]:
    path, name = Path(source), str(source)
    known = name.lower().endswith(_SUFFIXES)
    if _HUB_NAME.fullmatch(name) and not known and not path.exists():
        return _hub_records(name, split or "train")
    if split is not None:
        remedy = "Leave split out, or give a hub name such as owner/name."
        raise InputError("a file has no splits", file=path, value=split, remedy=remedy)
    if not path.is_file():
        problem = "this is a directory" if path.is_dir() else "there is no such file"
        raise InputError(problem, file=path, remedy=f"Give a file: {', '.join(_SUFFIXES)}.")
    if not known:
        remedy = f"Convert it to one of {', '.join(_SUFFIXES)}."
        raise InputError("files of this kind cannot be read", file=path, remedy=remedy)
    table = name.lower().endswith(".parquet")
    return _parquet_records(path, columns) if table else _json_records(path)


def _json_records(path: Path) -> Iterator[Record | InputError]:
    """Yield a record or an error for each line that is not blank; damage of the file ends it."""
    row = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as lines:
            for row in count(1):
                line = lines.readline()
                if not line:
                    return
                if line.strip():
                    yield _json_record(line, str(path), row)
    except (OSError, EOFError, zlib.error) as error:
        yield _unreadable(path, row, error)


def _json_record(line: bytes, file: str, row: int) -> Record | InputError:
    remedy = "Write one JSON object per line."
    try:
        fields = json.loads(line.decode("utf-8-sig" if row == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        remedy = "Save the file as UTF-8, for instance with `iconv -f latin1 -t utf-8`."
        bad = line[error.start : error.end]
        return InputError("the line is not UTF-8", file=file, row=row, value=bad, remedy=remedy)
    except (ValueError, RecursionError) as error:
        problem = f"the line is not JSON: {error}"
        return InputError(problem, file=file, row=row, value=line.decode(), remedy=remedy)
    if not isinstance(fields, dict):
        problem = "the line is not a JSON object"
        return InputError(problem, file=file, row=row, value=fields, remedy=remedy)
    return Record(file, row, fields)


def _parquet_records(path: Path, wanted: Collection[str]) -> Iterator[Record | InputError]:
    from pyarrow import ArrowException, parquet

    row = 0
    try:
        with parquet.ParquetFile(path) as table:
            columns = [name for name in table.schema_arrow.names if name in wanted]
            for batch in table.iter_batches(1024, columns=columns or None):
                for fields in batch.to_pylist():
                    row += 1
                    yield Record(str(path), row, fields)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        yield _unreadable(path, row + 1, error)


def _unreadable(path: Path, row: int, error: Exception) -> InputError:
    remedy = "Check the file or fetch it again; skip_bad=True keeps the rows before this one."
    problem = f"the file cannot be read on: {error}"
    return InputError(problem, file=path, row=row or None, remedy=remedy)


def _hub_records(name: str, split: str) -> Iterator[Record | InputError]:
    try:
        import datasets
    except ImportError as error:
        problem = "there is no such file, and a hub name needs the package datasets"
        remedy = "Check the path, or install it: pip install datasets."
        raise InputError(problem, file=name, remedy=remedy) from error
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # it lets pass the errors of several network libraries
        problem = f"split {split!r} of this hub data set cannot be loaded: {error}"
        remedy = "Check the name, the split and the network."
        raise InputError(problem, file=name, remedy=remedy) from error
    for row, fields in enumerate(rows, start=1):
        yield Record(name, row, fields)
