"""Worker processes that may die; each death is attributed to the call that caused it.

A pool of processes breaks as a whole when one of them is killed, exits or crashes, and does not say
in which call. So there are never more running calls than workers. The calls that were running at a
death are repeated one at a time: the call that kills its worker again is the cause.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

Arguments = tuple[Any, ...]
_VARIABLES = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
"""Prefixes of environment variables for threads: NAME_NUM_THREADS, or VECLIB_MAXIMUM_THREADS."""
_CODES = re.compile(r"exit codes of the workers are \{(.*)\}")


@dataclass(frozen=True)
class Died:
    """The result of a call whose worker process died.

    Attributes
    ----------
    arguments
        Arguments of the call.
    how
        How the process ended, such as ``SIGKILL(-9)``, as far as it is known.
    """

    arguments: Arguments
    how: str


def stream(
    function: Callable[..., Any], arguments: Sequence[Arguments], workers: int, threads: int
) -> Generator[Any, None, None]:
    """Call a function with each tuple of arguments; yield each result, or :class:`Died`."""
    waiting, suspects = deque(arguments), deque[Arguments]()
    while waiting or suspects:
        alone = deque([suspects.popleft()]) if suspects else None
        died = yield from _until_a_death(function, alone or waiting, workers, threads)
        if len(died) == 1:
            yield died[0]
        else:
            suspects.extend(one.arguments for one in died)


def _until_a_death(
    function: Callable[..., Any], waiting: deque[Arguments], workers: int, threads: int
) -> Generator[Any, None, list[Died]]:
    """Make calls in one pool until a worker dies; return the calls that were running then."""
    died: list[Died] = []
    broken = False
    with _pool(min(workers, len(waiting)), threads) as pool:
        running: dict[Future[Any], Arguments] = {}
        while running or (waiting and not broken):
            while waiting and not broken and len(running) < workers:
                try:
                    running[pool.submit(function, *waiting[0])] = waiting[0]
                except BrokenProcessPool:  # a worker died just now, perhaps in a running call
                    broken = True
                else:
                    waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                given = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    died.append(Died(given, _how(error)))
                    broken = True
                else:
                    yield result
    return died


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes, with the current ``sys.path``; an error in the block kills them."""
    names = [f"{name}_{'' if '_' in name else 'NUM_'}THREADS" for name in _VARIABLES]
    pool = ProcessPoolExecutor(workers, env=dict.fromkeys(names, str(threads)))
    try:
        yield pool
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise
    pool.shutdown()


def _how(error: BaseException) -> str:
    """How the workers ended, from the pool's message."""
    found = _CODES.search(str(error))
    return found[1] if found else str(error).split("\n")[0]
