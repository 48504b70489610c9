"""Rows of columnar files: Parquet, Arrow, and folders that ``save_to_disk`` of datasets writes.

Folders are read by their Arrow files, so nothing in them is executed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tradeoff.data._lines import Budget, Found, damage, unreadable
from tradeoff.data.record import Record
from tradeoff.errors import InputError
from tradeoff.extras import require

_AT_ONCE = 64
"""Number of rows that are converted to Python values at a time; it bounds the memory."""


def parquet(path: Path, wanted: Collection[str]) -> Found:
    """Yield the rows of a Parquet file, whose pages are checked where they have checksums."""
    require("parquet")
    from pyarrow.parquet import ParquetFile

    row = 0
    try:
        with ParquetFile(path, page_checksum_verification=True) as table:
            names = _columns(path, table.schema_arrow.names, wanted) or table.schema_arrow.names
            unread = tuple(name for name in table.schema_arrow.names if name not in names)
            budget = Budget(path)
            for batch in table.iter_batches(_AT_ONCE, columns=names):
                budget.spend(batch.nbytes)
                yield from _rows(path, row, batch, unread)
                row += len(batch)
    except damage() as error:
        yield unreadable(path, row + 1, error)


def arrow(path: Path, wanted: Collection[str]) -> Found:
    """Yield the rows of an Arrow file."""
    require("parquet")
    import pyarrow as pa

    row = 0
    try:
        with pa.memory_map(str(path)) as file:
            for batch in _batches(file):
                names = _columns(path, batch.schema.names, wanted) or batch.schema.names
                unread = tuple(name for name in batch.schema.names if name not in names)
                for start in range(0, len(batch), _AT_ONCE):
                    some = batch.select(names).slice(start, _AT_ONCE)
                    yield from _rows(path, row, some, unread)
                    row += len(some)
    except damage() as error:
        yield unreadable(path, row + 1, error)


def _batches(file: Any) -> Iterator[Any]:
    """Yield record batches of an Arrow stream or an Arrow file."""
    from pyarrow import ArrowInvalid, ipc

    try:
        stream = ipc.open_stream(file)
    except ArrowInvalid:
        file.seek(0)
        table = ipc.open_file(file)
        yield from (table.get_batch(i) for i in range(table.num_record_batches))
        return
    yield from stream


def saved_folder(path: Path, wanted: Collection[str], split: str | None) -> Found:
    """Yield the rows of a folder that ``Dataset.save_to_disk`` or ``DatasetDict`` has written."""
    if (path / "dataset_dict.json").exists():
        splits = sorted(p.parent.name for p in path.glob("*/state.json"))
        if split not in splits:
            problem = "the folder holds several splits" if split is None else "no such split"
            remedy = f"Name one after the folder: {path}@{'|'.join(splits)}."
            raise InputError(problem, file=path, value=split, remedy=remedy)
        path = path / split
    elif split is not None:
        remedy = "Leave it out: this is one data set."
        raise InputError("the folder has no splits", file=path, value=split, remedy=remedy)
    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        files = [str(file["filename"]) for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        yield unreadable(path / "state.json", 0, error)
        return
    for name in files:
        if Path(name).name != name:
            yield unreadable(
                path / "state.json", 0, ValueError(f"{name} is not a file of the folder")
            )
            return
        yield from arrow(path / name, wanted)


def _columns(path: Path, names: list[str], wanted: Collection[str]) -> list[str]:
    known = [name for name in names if name in wanted]
    if len(set(known)) < len(known):
        remedy = "Give each column a name of its own."
        doubled = next(name for name in known if known.count(name) > 1)
        raise InputError("two columns have one name", file=path, value=doubled, remedy=remedy)
    return known


def _rows(path: Path, before: int, batch: Any, unread: tuple[str, ...]) -> Found:
    for row, fields in enumerate(_converted(batch), start=before + 1):
        if isinstance(fields, Exception):
            problem = f"the cells of the row cannot be read: {fields}"
            remedy = "Store texts and lists of messages in these columns."
            yield InputError(problem, file=path, row=row, remedy=remedy)
        else:
            yield Record(str(path), row, fields, unread)


def _converted(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """Python values of the rows; dates and durations beyond Python's are errors of their row."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError, TypeError, KeyError, ImportError):
        for i in range(len(batch)):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except (ValueError, OverflowError, TypeError, KeyError, ImportError) as error:
                yield error
