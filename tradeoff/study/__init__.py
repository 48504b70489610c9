"""Run a grid of configurations, store every result, and return one tidy table.

A study is a module-level function of a configuration, and the configurations to call it with.
Every result is stored as soon as it is computed. Its address is a hash of the function, its sources
and the configuration. So an interrupted study continues where it stopped, and after an edit of the
sources only affected runs are computed again. The table depends neither on the engine nor on the
number of workers.

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
    from tradeoff.study._calls import RunError, compute
    from tradeoff.study.addresses import Configuration, Dependency, plain, task
    from tradeoff.study.engines import Backend
    from tradeoff.study.plans import Function

__all__ = ["RunError", "Status", "collect", "grid", "run", "status", "task"]


@dataclass(frozen=True)
class Status:
    """Numbers of runs of a study that are stored, recorded as failed, and missing."""

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
        Filter: only configurations for which it is true are returned.
    **axes
        Values of each key: an iterable, or one value. Methods and schedules are replaced by
        their ``to_dict()``.

    Raises
    ------
    InputError
        If an axis is empty, or JSON cannot represent a value.
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
    """Compute the runs that are not stored, and write all to ``folder/table.parquet``.

    Parameters
    ----------
    function
        A function at the top level of a module, or its name ``"module:function"``. It takes a
        configuration (as JSON has it: tuples are lists) and returns a DataFrame. With ``batch`` it
        takes a list of configurations and returns a list of DataFrames. A named index becomes
        columns. Or a :func:`task` of it, whose sources are not read again.
    configurations
        From :func:`grid`, or any dicts of values that JSON can represent; no two may be equal.
    folder
        Folder of the results; one process at a time writes to it.
    depends
        Further dependencies, whose change causes new runs: data files as paths, and modules that
        the function imports at run time (a package with all modules below it). The sources that it
        reaches through names and imports always count, see :mod:`tradeoff.study.sources`.
    backend, jobs, threads, client
        Settings of the engine, see :func:`tradeoff.study.engines.stream`.
    batch
        Call the function with lists of at most this many configurations, for functions that compute
        several runs together. A result must not depend on the rest of its list.
    alike
        Keys in which the configurations of one list must agree, such as the problem.
    progress
        Show a bar that counts stored runs.
    on_error
        "raise": stop at the first run that fails. "record": store the message and continue. The
        table then has a row with the column ``error`` for that run, and a rerun tries it again.
        With worker processes, a run has failed also if its worker is killed, exits or crashes.

    Returns
    -------
    DataFrame
        Rows in the order of the configurations. Columns: ``run`` (position of the configuration),
        the scalar fields of the configuration (nested ones as ``schedule.lam``), and the columns of
        the result.

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
    """Return the table of :func:`run` from stored results, without computing any run.

    Raises
    ------
    InputError
        If runs are neither stored nor recorded as failed, or a stored file is damaged.
    """
    plan = plans.make(function, configurations, folder, depends)
    plans.read_stored(plan, move_aside=False)
    if missing := len(plan.configurations) - len(plan.done) - len(plan.failed):
        raise InputError(
            f"{missing} of {len(plan.configurations)} runs are not stored",
            file=plan.folder,
            remedy="Compute them with study.run (results from before an edit do not count).",
        )
    return plans.write_table(plan)


def status(
    function: Function,
    configurations: Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    depends: Sequence[Dependency] = (),
) -> Status:
    """Count stored, failed and missing runs, without reading their results."""
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
    raise InputError("the axis has no values", field=key, remedy="Give at least one value.")
