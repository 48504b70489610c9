"""Numbers of threads: one for a small batch, or one for each run if runs go one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

SMALL = 2**18
"""Largest number of parameters of a batched call that runs on one thread.

On idle cores four threads halve its time but double its processor time. On busy cores they wait for
each other at every operation, and the call takes many times as long.
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
    """Make a `map` that runs each call in a thread, `threads` at a time, with results in order."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map
