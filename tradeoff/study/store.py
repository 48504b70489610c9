"""One Parquet file a run, complete or absent, and the table that they make together."""

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

from tradeoff import seals
from tradeoff.errors import InputError
from tradeoff.records import read_json, replacing, write_json
from tradeoff.study.addresses import Configuration, canonical
from tradeoff.study.calls import storable

KEY, SEAL = b"tradeoff.configuration", seals.MARK.removesuffix(b"=")
"""Entries of a file's metadata: what was computed; the seal of the whole file. Parquet itself has
checksums of pages, not of what locates them. Files of earlier versions have no seal.
"""
RESERVED = ("run", "error")
"""Columns that the table adds: the position of a run, and why it failed."""


class Damaged(Exception):
    """A stored file that cannot be what was written."""


def run_file(folder: Path, address: str) -> Path:
    """Where the result of a run stands."""
    return folder / "runs" / f"{address}.parquet"


def error_file(folder: Path, address: str) -> Path:
    """Where the failure of a run stands."""
    return folder / "runs" / f"{address}.error.json"


def write_run(path: Path, result: pd.DataFrame, configuration: Configuration) -> pa.Table:
    """Store one result with its configuration, and return what a reader of the file sees.

    Raises
    ------
    InputError
        If Parquet cannot hold the result, a column of it contradicts the configuration, or the
        disk does not take it.
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
    about = {**(table.schema.metadata or {}), KEY: text.encode(), SEAL: seals.MARK + seals.BLANK}
    with replacing(path) as partial:
        content = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(about), content, write_page_checksum=True)
        partial.write_bytes(seals.sealed(content.getvalue().to_pybytes()))
    return read_run(path, text)


def read_run(path: Path, text: str) -> pa.Table:
    """Read a stored result, whose configuration must be that of the canonical ``text``."""
    try:
        content = path.read_bytes()
        if SEAL in content and not seals.intact(content):
            raise ValueError("it is not as it was written")
        # One thread: a file is small, and what is damaged fails in the same place every time.
        table = pq.read_table(
            pa.BufferReader(content), use_threads=False, page_checksum_verification=True
        )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise Damaged(f"{path}: {error}") from error
    if (table.schema.metadata or {}).get(KEY) != text.encode():
        raise Damaged(f"{path}: it does not hold the configuration of its address")
    return table.replace_schema_metadata(None)


def write_error(path: Path, configuration: Configuration, error: str, trace: str) -> None:
    """Keep why a run failed, for the table and for whoever looks into it."""
    content = {"error": error, "configuration": canonical(configuration), "traceback": trace}
    write_json(path, content)


def read_error(path: Path) -> str | None:
    """Why a run failed, or None where no failure is recorded.

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
            remedy="Remove it, or run the study again, which tries this run anew.",
        ) from error


def free_name(path: Path) -> Path:
    """The path, or with a number after it where something stands there already."""
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
    """Join results in the order of the configurations, with these as leading columns.

    Parameters
    ----------
    configurations
        All of them.
    results
        Result of each run that is done, by the position of its configuration.
    errors
        Message of each run that failed, by position; each is one row, otherwise empty.
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
        # Where only some configurations have a field, the results of the others may.
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
        # Values of several kinds, numbers beyond 64 bits, half of a pair: JSON holds them all.
        return pa.array([None if v is None else json.dumps(v) for v in values])


def _check_columns(result: pd.DataFrame, configuration: Configuration) -> None:
    """A result may repeat a field of its configuration, but not contradict it."""
    fields = scalars(configuration)
    for name in result.columns:
        if name not in RESERVED and name not in fields:
            continue
        value, column = fields.get(name), result[name]
        same = column.isna() if value is None else column == value
        if name in RESERVED or not bool(np.all(same)):
            raise InputError(
                "a column of the result has a name that the table gives to something else",
                field=str(name),
                value=configuration,
                remedy="Rename the column, or drop it where the configuration says the same.",
            )
