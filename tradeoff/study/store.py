"""Stored runs: one Parquet file per run, complete or absent, and the table of all runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tradeoff import _seals
from tradeoff.errors import InputError
from tradeoff.records import read_json, replacing, write_json
from tradeoff.study._calls import storable
from tradeoff.study.addresses import Configuration, canonical

KEY, SEAL = b"tradeoff.configuration", _seals.MARK.removesuffix(b"=")
"""Entries of a file's metadata: the configuration of the run, and the seal of the whole file.
Parquet itself has checksums of pages, but not of the metadata that locates them. Files of earlier
versions have no seal.
"""
RESERVED = ("run", "error")
"""Columns that the table adds: the position of a run, and the message of its failure."""


class Damaged(Exception):
    """A stored file that differs from what was written."""


def run_file(folder: Path, address: str) -> Path:
    """Path of the stored result of a run."""
    return folder / "runs" / f"{address}.parquet"


def error_file(folder: Path, address: str) -> Path:
    """Path of the record of a failed run."""
    return folder / "runs" / f"{address}.error.json"


def write_run(path: Path, result: pd.DataFrame, configuration: Configuration) -> pa.Table:
    """Store one result with its configuration, and return the table read back from the file.

    Raises
    ------
    InputError
        If Parquet cannot represent the result, a column of it contradicts the configuration, or the
        file cannot be written.
    """
    try:
        if any(name is not None for name in result.index.names):
            result = result.reset_index()
        _check_columns(result, configuration)
        table = pa.Table.from_pandas(result, preserve_index=False)
    except InputError:
        raise
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise InputError(
            f"a result does not fit into Parquet: {error}",
            value=configuration,
            remedy="Give each column one name and one type: numbers, text, times, lists of them.",
        ) from error
    text = canonical(configuration)
    about = {**(table.schema.metadata or {}), KEY: text.encode(), SEAL: _seals.MARK + _seals.BLANK}
    with replacing(path) as partial:
        content = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(about), content, write_page_checksum=True)
        partial.write_bytes(_seals.sealed(content.getvalue().to_pybytes()))
    return read_run(path, text)


def read_run(path: Path, text: str) -> pa.Table:
    """Read a stored result; its configuration must have the canonical ``text``."""
    try:
        content = path.read_bytes()
        if SEAL in content and not _seals.intact(content):
            raise ValueError("it has changed since it was written")
        # One thread: files are small, and a damaged file always fails at the same place.
        table = pq.read_table(
            pa.BufferReader(content), use_threads=False, page_checksum_verification=True
        )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise Damaged(f"{path}: {error}") from error
    if (table.schema.metadata or {}).get(KEY) != text.encode():
        raise Damaged(f"{path}: it does not hold the configuration of its address")
    return table.replace_schema_metadata(None)


def write_error(path: Path, configuration: Configuration, error: str, trace: str) -> None:
    """Store the message and the traceback of a failed run."""
    content = {"error": error, "configuration": canonical(configuration), "traceback": trace}
    write_json(path, content)


def read_error(path: Path) -> str | None:
    """Message of a failed run, or None where no failure is recorded.

    Raises
    ------
    InputError
        If the record is damaged.
    """
    try:
        return storable(str(read_json(path)["error"])) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the record of a failed run cannot be read: {error}",
            file=path,
            remedy="Remove it, or run the study again, which repeats this run.",
        ) from error


def free_name(path: Path) -> Path:
    """The path itself if it does not exist yet, else the path with a number appended."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


# ---------------------------------------------------------------------- the combined table


def combine(
    configurations: Sequence[Configuration],
    results: Mapping[int, pa.Table],
    errors: Mapping[int, str],
) -> pa.Table:
    """Join results in the order of the configurations, whose fields are the leading columns.

    Parameters
    ----------
    configurations
        Configurations of all runs.
    results
        Result of each run that is done, by position of its configuration.
    errors
        Message of each failed run, by position; each becomes one row, empty but for the message.
    """
    fields = [scalars(c) for c in configurations]
    tables = [
        results[i] if i in results else pa.table({"error": [errors[i]]})
        for i in range(len(configurations))
    ]
    run = pa.array(np.repeat(np.arange(len(tables)), [len(t) for t in tables]))
    try:
        joined = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    except pa.ArrowException as error:
        raise InputError(
            f"the results do not fit into one table: {error}",
            remedy="Give a column the same type in every run, then run again.",
        ) from error
    names = dict.fromkeys(name for row in fields for name in row)
    columns = {"run": run}
    columns |= {name: _column([row.get(name) for row in fields]).take(run) for name in names}
    for name in joined.column_names:
        # If only some configurations have a field, the results of the others may have it too.
        both = [columns[name], joined[name]] if name in columns else [joined[name]]
        columns[name] = pc.coalesce(*both) if len(both) > 1 else joined[name]
    return pa.table(columns)


def scalars(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Scalar fields of a configuration; those of a nested dict are named ``outer.inner``."""
    found: dict[str, Any] = {}
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": v for inner, v in scalars(value).items()}
        elif not isinstance(value, list):
            found[key] = value
    return found


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        # Values of mixed types, numbers beyond 64 bits, lone surrogates: JSON represents them all.
        return pa.array([None if v is None else json.dumps(v) for v in values])


def _check_columns(result: pd.DataFrame, configuration: Configuration) -> None:
    """Check that a result does not contradict its configuration or use a reserved column."""
    fields = scalars(configuration)
    for name in result.columns:
        if name not in RESERVED and name not in fields:
            continue
        value, column = fields.get(name), result[name]
        same = column.isna() if value is None else column == value
        if name in RESERVED or not bool(np.all(same)):
            raise InputError(
                "the table has another column of this name",
                field=str(name),
                value=configuration,
                remedy="Rename the column, or drop it where the configuration says the same.",
            )
