"""One call of a study's function in a worker, and outcomes that travel back whatever happens."""

from __future__ import annotations

import traceback
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tradeoff.study.addresses import Configuration, Task, canonical
from tradeoff.study.engines import few_threads


@dataclass(frozen=True)
class Failure:
    """An exception as text: not every exception survives the way from one process to another."""

    message: str
    trace: str


@dataclass(frozen=True)
class Misfit:
    """The function returned something else than tables."""

    found: str
    wanted: str


Outcome = pd.DataFrame | Failure | Misfit


class RunError(RuntimeError):
    """A run of a study failed; what was stored before stays.

    Attributes
    ----------
    position, configuration
        Which run it was.
    """

    def __init__(self, position: int, configuration: Configuration, failure: Failure) -> None:
        self.position, self.configuration = position, configuration
        super().__init__(
            f"run {position} failed: {failure.message}\nconfiguration: {canonical(configuration)}"
            f"\n\n{failure.trace}"
        )


def call(
    task: Task,
    positions: tuple[int, ...],
    configurations: list[Configuration],
    listed: bool,
    threads: int,
    record: bool,
) -> tuple[tuple[int, ...], list[Outcome]]:
    """Compute the runs of one call and return their positions and outcomes.

    Where failures are recorded and a list of several fails, each of them gets its own call, so
    that one bad configuration does not take the others with it.
    """
    function = task.load()
    try:
        with few_threads(threads):
            # A copy, as workers elsewhere have: the function may change what it is given.
            given = deepcopy(configurations)
            returned = function(given) if listed else [function(given[0])]
    except Exception as error:
        if record and len(configurations) > 1:
            alone = [
                call(task, (i,), [c], listed, threads, record)[1]
                for i, c in zip(positions, configurations, strict=True)
            ]
            return positions, [outcome for (outcome,) in alone]
        message = f"{type(error).__name__}: {error}"
        failure = Failure(message, "".join(traceback.format_exception(error)))
        return positions, [failure] * len(positions)
    return positions, _tables(returned, len(positions), listed)


def _tables(returned: Any, count: int, listed: bool) -> list[Outcome]:
    wanted = f"a list of {count} DataFrames" if listed else "a DataFrame"
    if not isinstance(returned, list | tuple) or len(returned) != count:
        size = f" of {len(returned)}" if isinstance(returned, list | tuple) else ""
        return [Misfit(f"a {type(returned).__name__}{size}", wanted)] * count
    for table in returned:
        if not isinstance(table, pd.DataFrame):
            inside = "a list that holds " if listed else ""
            return [Misfit(f"{inside}a {type(table).__name__}", wanted)] * count
    return list(returned)
