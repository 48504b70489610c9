"""Stored runs of the study on SmolLM2: computed, collected, taken over from another checkout."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from analysis.fernando2024.real import smol_rows, smol_runs
from tradeoff import study
from tradeoff.errors import InputError
from tradeoff.records import replacing
from tradeoff.study import plans, store
from tradeoff.study.addresses import Task, canonical


class Missing(InputError):
    """Runs that are not stored yet."""


@cache
def _code() -> Task:
    """A run's function with its sources, which are read once in a process."""
    return study.task(smol_runs.post_train)


@cache
def _task(files: tuple[Path, ...]) -> Task:
    """The function on some files of data."""
    return _code().on(files)


def task(configurations: Sequence[Mapping[str, Any]]) -> Task:
    """The task of some runs; all of them are of one pair."""
    return _task(tuple(smol_rows.files(configurations[0]["pair"])))


def compute(configurations: Sequence[Mapping[str, Any]], known: Task | None = None) -> pd.DataFrame:
    """The table of some runs; computes what is missing.

    Parameters
    ----------
    configurations
        Of runs of one pair.
    known
        Their task as another process made it, which will look for the runs under its addresses.

    Raises
    ------
    RunError
        If this process has other sources than that one.
    """
    return study.run(
        *(known or task(configurations), configurations, smol_runs.FOLDER),
        backend="sequential", jobs=1, progress=False,
    )  # fmt: skip


def collect(configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of runs that are all stored.

    Raises
    ------
    Missing
        If some are not.
    """
    if count := stored(configurations).count(False):
        remedy = "Go on with the study."
        raise Missing(f"{count} of {len(configurations)} runs are missing", remedy=remedy)
    return study.collect(task(configurations), configurations, smol_runs.FOLDER)


def stored(configurations: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which runs are stored."""
    laid = plans.make(task(configurations), configurations, smol_runs.FOLDER, ())
    return [store.run_file(laid.folder, address).exists() for address in laid.addresses]


@contextmanager
def unpacked(place: Path) -> Iterator[Path]:
    """The folder of a study, from the archive of its runs if `place` is one."""
    if not place.is_file():
        yield place
        return
    with TemporaryDirectory() as folder:
        with tarfile.open(place) as file:
            file.extractall(folder, filter="data")
        yield Path(folder)


def by_configuration(folder: Path) -> dict[str, Path]:
    """Files of the runs in the folder of a study, by the text of their configurations.

    Raises
    ------
    InputError
        If there are none.
    """
    files = sorted((folder / "runs").glob("*.parquet"))
    if not files:
        remedy = "Give the folder of a study, which has runs/*.parquet."
        raise InputError("there are no runs", file=folder, remedy=remedy)
    return {pq.read_schema(file).metadata[store.KEY].decode(): file for file in files}


def take(configurations: Sequence[Mapping[str, Any]], theirs: Mapping[str, Path]) -> int:
    """Copy the runs of these configurations that are missing here; how many were copied.

    A run's address holds the sources that computed it, so a run of other sources is not found. Who
    takes runs over vouches that the edits between do not change results.
    """
    laid = plans.make(task(configurations), configurations, smol_runs.FOLDER, ())
    taken = 0
    for c, address in zip(laid.configurations, laid.addresses, strict=True):
        place, file = store.run_file(laid.folder, address), theirs.get(canonical(c))
        if file is not None and not place.exists():
            store.read_run(file, canonical(c))  # It must be intact.
            with replacing(place) as partial:
                partial.write_bytes(file.read_bytes())
            taken += 1
    return taken
