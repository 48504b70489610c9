"""One call of a study's function in a worker, and outcomes that travel back whatever happens."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tradeoff.study import engines
from tradeoff.study.addresses import Configuration, Task, canonical
from tradeoff.study.engines import few_threads
from tradeoff.study.processes import Died

LONGEST, LONGEST_TRACE = 10_000, 100_000
"""Characters kept of a message and of a traceback; some libraries put a whole array into one."""
_NOTE = 60
"""Characters within the limit for what is said in place of a middle."""


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


def compute(
    arguments: Sequence[tuple[Any, ...]], **engine: Any
) -> Generator[tuple[tuple[int, ...], list[Outcome]], None, None]:
    """Make every :func:`call`, also where worker processes die; yields what each returns.

    A call whose worker died failed in all of its runs. Where failures are recorded and there are
    several, each of them gets its own call, and so its own process to die in.

    Parameters
    ----------
    arguments
        Of each call.
    **engine
        Settings of :func:`tradeoff.study.engines.stream`.
    """
    waiting = list(arguments)
    while waiting:
        apart = []
        with closing(engines.stream(call, waiting, **engine)) as answers:
            for answer in answers:
                if not isinstance(answer, Died):
                    yield answer
                    continue
                task, positions, configurations, listed, threads, record = answer.arguments
                if record and len(positions) > 1:
                    for i, configuration in zip(positions, configurations, strict=True):
                        apart.append((task, (i,), [configuration], listed, threads, record))
                    continue
                message = f"WorkerDied: the process ended before the run did: {answer.how}"
                yield positions, [Failure(storable(message), "")] * len(positions)
        waiting = apart


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
    except (Exception, SystemExit) as error:
        if record and len(configurations) > 1:
            alone = [
                call(task, (i,), [c], listed, threads, record)[1]
                for i, c in zip(positions, configurations, strict=True)
            ]
            return positions, [outcome for (outcome,) in alone]
        return positions, [_failure(error)] * len(positions)
    return positions, _tables(returned, len(positions), listed)


def storable(text: str, limit: int = LONGEST) -> str:
    """The text as every file can hold it: what UTF-8 lacks is escaped, a long middle left out."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    if len(text) <= limit:
        return text
    half = (limit - _NOTE) // 2
    return f"{text[:half]} ... {len(text) - 2 * half:,} characters left out ... {text[-half:]}"


def _failure(error: BaseException) -> Failure:
    try:
        text = str(error)
    except Exception as second:
        text = f"its text cannot be made: {type(second).__name__}"
    trace = "".join(traceback.format_exception(error))
    return Failure(
        storable(f"{type(error).__name__}: {text}"), storable(trace, limit=LONGEST_TRACE)
    )


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
