"""Reservoir sampling: rows drawn at random in one pass, with only the sample in memory."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Generic, TypeVar

from tradeoff.data.spool import Spool
from tradeoff.errors import InputError

R = TypeVar("R")


class Sample(Generic[R]):
    """A uniform sample of rows without replacement, in their order (Knuth's reservoir).

    Every row gets a random priority, and the rows with the smallest priorities are kept. The choice
    depends on the seed and on the number of rows, not on their content.

    Parameters
    ----------
    size
        Rows to keep; None for all.
    seed
        Seed of the priorities.
    folder
        Folder in which all rows are kept on disk; a sample is held in memory.

    Attributes
    ----------
    seen
        Number of rows that were added.

    Raises
    ------
    InputError
        For a size below 1.
    """

    def __init__(
        self, size: int | None, seed: int = 0, folder: str | PathLike[str] | None = None
    ) -> None:
        if size is not None and size < 1:
            remedy = "Give a positive number, or None for all rows."
            raise InputError("no rows are asked for", field="sample", value=size, remedy=remedy)
        self.size = size
        self.seen = 0
        self._random = random.Random(seed)
        self._kept: list[tuple[float, int, R]] = []
        whole = None if size is not None else folder
        self._all: Any = [] if whole is None else Spool(whole)

    def add(self, row: R) -> None:
        """Add a row."""
        self.seen += 1
        if self.size is None:
            self._all.append(row)
            return
        entry = (-self._random.random(), self.seen, row)  # `seen` breaks ties of equal priorities
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, entry)
        elif entry[0] > self._kept[0][0]:
            heapq.heapreplace(self._kept, entry)

    def __len__(self) -> int:
        return len(self._all) if self.size is None else len(self._kept)

    def rows(self) -> Sequence[R]:
        """The kept rows, in the order in which they were added."""
        if self.size is None:
            return self._all if isinstance(self._all, Spool) else tuple(self._all)
        return tuple(row for _, _, row in sorted(self._kept, key=lambda entry: entry[1]))


def sampled(rows: Iterable[R], size: int | None, seed: int = 0) -> Sequence[R]:
    """Draw a sample of given rows; `Sample` says how."""
    found: Sample[R] = Sample(size, seed)
    for row in rows:
        found.add(row)
    return found.rows()
