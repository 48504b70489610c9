"""How many threads compute: one for a small batch, one for each run where runs go one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

SMALL = 2**18
"""Parameters of a batched call up to which it runs on one thread.

On idle cores four threads halve its time for twice the work; on busy ones they wait for each other
at every operation, and it takes many times as long.
"""


@contextmanager
def one_thread(*, when: bool = True) -> Iterator[None]:
    """Compute on one thread, if `when`, and restore the number afterwards."""
    before = torch.get_num_threads()
    try:
        if when:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def spread(threads: int) -> Iterator[Callable[..., Any]]:
    """A `map` whose calls take a thread each, so many at a time; results in order."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map
