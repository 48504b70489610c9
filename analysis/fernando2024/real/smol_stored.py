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
from analysis.fernando2024.real.smol_plan import twin
from analysis.fernando2024.real.smol_scores import LOSSES
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
    return study.collect(task(configurations), there(configurations), smol_runs.FOLDER)


def stored(configurations: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which runs are stored, themselves or as their twins."""
    both = (exact(configurations), exact([twin(c) for c in configurations]))
    return [any(one) for one in zip(*both, strict=True)]


def exact(configurations: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which runs are stored with just these configurations."""
    return [file.exists() for file in _places(configurations)]


def files(configurations: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Files of the runs that are stored, and of their twins."""
    return [file for file in _places(_with_twins(configurations)) if file.exists()]


def _with_twins(configurations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each configuration and its twin, which may be itself, once."""
    every = [*configurations, *(twin(c) for c in configurations)]
    return list({canonical(c): c for c in every}.values())


def _places(configurations: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Where the file of each run is, if it is stored."""
    laid = plans.make(task(configurations), configurations, smol_runs.FOLDER, ())
    return [store.run_file(laid.folder, address) for address in laid.addresses]


def there(configurations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each configuration, or that of its twin where only the twin is stored."""
    own = exact(configurations)
    return [c if done else twin(c) for c, done in zip(configurations, own, strict=True)]


def twins(configurations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What of these runs was done as twins, and how far runs that were done both ways differ.

    Returns
    -------
    dict
        ``runs`` has the number of runs of each method whose twin alone is stored. ``both`` has a
        record for each run done both ways: its ``name``, ``seed``, and ``differences``, the twin's
        final losses less its own. Runs that are laid out as a twin does them are left out.
    """
    configurations = [c for c in configurations if twin(c) != c]
    if not configurations:
        return {"runs": {}, "both": []}
    copies = [twin(c) for c in configurations]
    alone: dict[str, int] = {}
    both = []
    for c, own, copied in zip(configurations, exact(configurations), exact(copies), strict=True):
        if own and copied:
            both.append(c)
        elif copied:
            alone[c["name"]] = alone.get(c["name"], 0) + 1
    return {"runs": alone, "both": [_compared(c) for c in both]}


def _compared(c: Mapping[str, Any]) -> dict[str, Any]:
    """Name, seed and differences of a run that was done both ways."""
    ends = [
        study.collect(task([c]), [one], smol_runs.FOLDER)[LOSSES].to_numpy(dtype=float)[-1]
        for one in (c, twin(c))
    ]
    return {"name": c["name"], "seed": c["seed"], "differences": (ends[1] - ends[0]).tolist()}


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
    """Copy the runs of these configurations and of their twins that are missing here; their number.

    A run's address holds the sources that computed it, so a run of other sources is not found. Who
    takes runs over vouches that the edits between do not change results.
    """
    every = _with_twins(configurations)
    taken = 0
    for c, place in zip(every, _places(every), strict=True):
        file = theirs.get(canonical(c))
        if file is not None and not place.exists():
            store.read_run(file, canonical(c))  # It must be intact.
            with replacing(place) as partial:
                partial.write_bytes(file.read_bytes())
            taken += 1
    return taken
