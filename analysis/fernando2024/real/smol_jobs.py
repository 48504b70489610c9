"""Runs of the study on SmolLM2, one after the other or several at a time on one device."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

from analysis.fernando2024.real.smol_stored import compute, task
from tradeoff.study.addresses import Task
from tradeoff.study.engines import few_threads

Configurations = Sequence[Mapping[str, Any]]
Runner = Callable[[Configurations, float], Iterator[Mapping[str, Any]]]
"""Computes and stores runs; yields each as it ends. No run begins after a time of the clock."""


def one(c: Mapping[str, Any], known: Task) -> None:
    """Compute and store a run on one thread, if this process has the sources of a known task."""
    with few_threads(1):
        compute([c], known)


def ends_with_parent() -> None:
    """End this process as soon as its parent has ended, in whatever way."""

    def watch() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def runner(jobs: int, grace: float = math.inf) -> Iterator[Runner]:
    """A runner of so many runs at a time; its processes end with the block.

    Parameters
    ----------
    jobs
        Runs at a time; one runs in this process.
    grace
        Seconds after which runs that are still going are given up, from when none may begin.
    """
    if jobs == 1:
        yield in_turn
        return
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=ends_with_parent
    )  # fmt: skip
    workers = pool._processes
    try:
        yield lambda runs, ends_at: at_once(pool, jobs, runs, ends_at, grace)
    finally:
        pool.shutdown(wait=math.isinf(grace), cancel_futures=True)
        for worker in list((workers or {}).values()):
            worker.kill()


def in_turn(runs: Configurations, ends_at: float) -> Iterator[Mapping[str, Any]]:
    """Run one after the other."""
    for c in runs:
        if time.monotonic() >= ends_at:
            return
        one(c, task([c]))
        yield c


def at_once(
    pool: Executor, jobs: int, runs: Configurations, ends_at: float, grace: float = math.inf
) -> Iterator[Mapping[str, Any]]:
    """Run several at a time. A run that fails is named and left out, so that others go on.

    Raises
    ------
    Exception
        The first error, if every run so far has failed and there are as many as processes.
    """
    waiting, ended = list(reversed(runs)), 0
    running: dict[Future[None], Mapping[str, Any]] = {}
    errors: list[BaseException] = []
    while waiting or running:
        while waiting and len(running) < jobs and time.monotonic() < ends_at:
            c = waiting.pop()
            running[pool.submit(one, c, task([c]))] = c
        left = ends_at + grace - time.monotonic()
        if not running or left <= 0:
            return
        done, _ = wait(running, None if math.isinf(left) else left, return_when=FIRST_COMPLETED)
        for future in done:
            c = running.pop(future)
            if error := future.exception():
                errors.append(error)
                text = " ".join(str(error).split())[-300:]
                print(f"failed: {c['pair']}, {c['name']}, {c['seed']}: {text}", file=sys.stderr)
                if len(errors) >= jobs and not ended:
                    raise errors[0]
            else:
                ended += 1
                yield c
