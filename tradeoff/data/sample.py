"""Rows drawn at random while they go by, so that no more than the sample is ever held."""

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

    Every row gets a random priority; the rows of the least ones stay. Which ones these are depends
    on the seed and on how many rows go by, not on what is in them.

    Parameters
    ----------
    size
        Rows to keep; None for all.
    seed
        Of the priorities.
    folder
        Where all rows are kept on disk; a sample is held in memory.

    Attributes
    ----------
    seen
        Rows that went by.

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
        self.size, self.seen = size, 0
        self._random = random.Random(seed)
        self._kept: list[tuple[float, int, R]] = []
        whole = None if size is not None else folder
        self._all: Any = [] if whole is None else Spool(whole)

    def add(self, row: R) -> None:
        """Let a row go by."""
        self.seen += 1
        if self.size is None:
            self._all.append(row)
            return
        entry = (-self._random.random(), self.seen, row)  # no two are of one place
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, entry)
        elif entry[0] > self._kept[0][0]:
            heapq.heapreplace(self._kept, entry)

    def __len__(self) -> int:
        return len(self._all) if self.size is None else len(self._kept)

    def rows(self) -> Sequence[R]:
        """The rows kept, in the order in which they went by."""
        if self.size is None:
            return self._all if isinstance(self._all, Spool) else tuple(self._all)
        return tuple(row for _, _, row in sorted(self._kept, key=lambda entry: entry[1]))


def sampled(rows: Iterable[R], size: int | None, seed: int = 0) -> Sequence[R]:
    """A sample of rows that are at hand; `Sample` says how it is drawn."""
    found: Sample[R] = Sample(size, seed)
    for row in rows:
        found.add(row)
    return found.rows()
