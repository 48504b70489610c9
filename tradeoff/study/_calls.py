"""Calls of a study's function in workers; every call returns an outcome, also when it fails."""

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
"""Largest numbers of characters stored of a message and of a traceback, as some have arrays."""
_NOTE = 60
"""Characters reserved for the note that replaces the middle of a long text."""


@dataclass(frozen=True)
class Failure:
    """An exception as text, since not every exception can be sent between processes."""

    message: str
    trace: str


@dataclass(frozen=True)
class Misfit:
    """A return value of the function that is not the expected table or list of tables."""

    found: str
    wanted: str


Outcome = pd.DataFrame | Failure | Misfit


class RunError(RuntimeError):
    """Failure of a run of a study; results stored before it are kept.

    Attributes
    ----------
    position, configuration
        Position and configuration of the run.
    """

    def __init__(self, position: int, configuration: Configuration, failure: Failure) -> None:
        self.position, self.configuration, self._failure = position, configuration, failure
        super().__init__(
            f"run {position} failed: {failure.message}\nconfiguration: {canonical(configuration)}"
            f"\n\n{failure.trace}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments: errors of other processes arrive whole."""
        return type(self), (self.position, self.configuration, self._failure)


def compute(
    arguments: Sequence[tuple[Any, ...]], **engine: Any
) -> Generator[tuple[tuple[int, ...], list[Outcome]], None, None]:
    """Make every :func:`call`, and yield the positions and outcomes of each.

    If the worker of a call dies, all runs of the call have failed. Where failures are recorded,
    a call of several runs is repeated with a call, and so a process, for each run.

    Parameters
    ----------
    arguments
        Arguments of each call.
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

    Where failures are recorded and a call of several runs fails, each run gets its own call. So one
    bad configuration does not make the others fail.
    """
    function = task.load()
    try:
        with few_threads(threads):
            # The function may change its argument, so it gets a copy, as in another process.
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
    """Escape characters that UTF-8 lacks, and leave out the middle of a long text."""
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
