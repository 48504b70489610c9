"""How many threads torch computes with: one, where a batch is too small to gain by more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 2**18
"""Stacked parameters up to which an update runs on one thread.

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
