"""A grid of runs becomes one tidy table on disk.

A study is a module-level function of a configuration and the configurations to call it with.
Every result is stored the moment it is there, under an address made of the function, its sources
and the configuration, so that an interrupted study goes on where it stopped and an edited one
recomputes what the edit touches. The table depends on neither engine nor number of workers.

>>> from tradeoff.schedules import Alright, Mix
>>> configurations = grid(schedule=[Mix(), Alright(lam=0.2)], seed=range(3), budget=1000)
>>> len(configurations)
6
>>> configurations[3]
{'schedule': {'name': 'alright', 'lam': 0.2, 'probability': None}, 'seed': 0, 'budget': 1000}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tradeoff.errors import InputError
from tradeoff.extras import needing
from tradeoff.progress import tqdm
from tradeoff.schedules import Schedule

with needing("study"):
    from tradeoff.study import plans, store
    from tradeoff.study.addresses import Configuration, Dependency, plain
    from tradeoff.study.calls import RunError, compute
    from tradeoff.study.engines import Backend
    from tradeoff.study.plans import Function

__all__ = ["RunError", "Status", "collect", "grid", "run", "status"]


@dataclass(frozen=True)
class Status:
    """How many runs of a study are stored, are recorded as failed, and are still to be done."""

    done: int
    failed: int
    missing: int


def grid(
    where: Callable[[Configuration], bool] | None = None, /, **axes: Any
) -> list[Configuration]:
    """Every combination of values, the last axis varying fastest.

    Parameters
    ----------
    where
        Keeps the configurations for which it is true.
    **axes
        Values of each key: an iterable, or one value. Methods and schedules become
        their ``to_dict``.

    Raises
    ------
    InputError
        If an axis is empty or a value is not JSON-able.
    """
    lists = {key: _axis(key, values) for key, values in axes.items()}
    combined = (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
    return [c for c in (plain(c) for c in combined) if where is None or where(c)]


def run(
    function: Function,
    configurations: Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    depends: Sequence[Dependency] = (),
    backend: Backend = "loky",
    jobs: int = -1,
    batch: int | None = None,
    alike: Sequence[str] = (),
    threads: int = 1,
    client: Any = None,
    progress: bool = True,
    on_error: Literal["raise", "record"] = "raise",
) -> pd.DataFrame:
    """Compute what is not stored yet and write the table of all runs to ``folder/table.parquet``.

    Parameters
    ----------
    function
        Defined at the top level of a module, or ``"module:function"``. It takes a configuration
        (after JSON: tuples are lists) and returns a DataFrame, or with ``batch`` a list of
        configurations and returns a list of DataFrames. A named index is kept as columns.
    configurations
        From :func:`grid`, or any dicts of JSON-able values; no two alike.
    folder
        Where results are kept; one process at a time writes to it.
    depends
        Data files as paths, and modules that the function finds at run time (packages with all
        below them), whose change asks for a new run. The sources that it reaches through names
        and imports always count, see :mod:`tradeoff.study.sources`.
    backend, jobs, threads, client
        Who computes, see :func:`tradeoff.study.engines.stream`.
    batch
        Call the function with lists of at most this many configurations, as ensembles want. A
        result must not depend on what else is in its list.
    alike
        Keys in which the configurations of one list must agree, such as the problem.
    progress
        Show a bar that counts stored runs.
    on_error
        "raise": stop at the first run that fails. "record": keep the message and go on; the table
        has a row with the column ``error`` for such a run, which a rerun tries again. A run whose
        worker process is killed, exits or crashes has failed, where there are such workers.

    Returns
    -------
    DataFrame
        In the order of the configurations: ``run`` (position of the configuration), the scalar
        fields of the configuration (nested ones as ``schedule.lam``), the result's columns.

    Raises
    ------
    InputError
        For a configuration, function, result or folder that cannot be used.
    RunError
        If a run failed and ``on_error`` is "raise".
    """
    if on_error not in ("raise", "record"):
        raise InputError(
            "unknown value", field="on_error", value=on_error, remedy='Use "raise" or "record".'
        )
    plan = plans.make(function, configurations, folder, depends)
    plan.task.load()
    plans.read_stored(plan, move_aside=True)
    arguments = [
        (plan.task, tuple(i), [plan.configurations[k] for k in i], batch is not None, threads,
         on_error == "record")
        for i in plans.batches(plan, batch, alike)
    ]  # fmt: skip
    outcomes = compute(arguments, backend=backend, jobs=jobs, threads=threads, client=client)
    total = len(plan.configurations)
    with (
        tqdm(total=total, initial=len(plan.done), disable=not progress, unit="run") as bar,
        closing(outcomes),
    ):
        for positions, results in outcomes:
            for i, result in zip(positions, results, strict=True):
                plans.keep(plan, i, result, on_error)
                bar.update()
    return plans.write_table(plan)


def collect(
    function: Function,
    configurations: Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    depends: Sequence[Dependency] = (),
) -> pd.DataFrame:
    """Return the table of :func:`run` from what is stored; runs may only be done or failed.

    Raises
    ------
    InputError
        If runs are missing or a stored file is damaged.
    """
    plan = plans.make(function, configurations, folder, depends)
    plans.read_stored(plan, move_aside=False)
    if missing := len(plan.configurations) - len(plan.done) - len(plan.failed):
        raise InputError(
            f"{missing} of {len(plan.configurations)} runs are not stored",
            file=plan.folder,
            remedy="Compute them with study.run (results of edited sources do not count).",
        )
    return plans.write_table(plan)


def status(
    function: Function,
    configurations: Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    depends: Sequence[Dependency] = (),
) -> Status:
    """Count stored runs, without reading them."""
    plan = plans.make(function, configurations, folder, depends)
    done = [store.run_file(plan.folder, a).exists() for a in plan.addresses]
    failed = [store.error_file(plan.folder, a).exists() for a in plan.addresses]
    failures = sum(f and not d for d, f in zip(done, failed, strict=True))
    return Status(sum(done), failures, len(done) - sum(done) - failures)


def _axis(key: str, values: Any) -> list[Any]:
    if isinstance(values, str | Mapping | Schedule | Set) or not isinstance(values, Iterable):
        return [values]
    if found := list(values):
        return found
    raise InputError("an axis without values", field=key, remedy="Give at least one value.")
