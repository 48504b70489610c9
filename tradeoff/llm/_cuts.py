"""Division of rows into forward passes, and the tokens that each layout computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from tradeoff.llm._data import Example, Pair, Tokenised
from tradeoff.llm.batches import Layout
from tradeoff.llm.config import TrainConfig

Rows = Int[np.ndarray, " _"]


@dataclass(frozen=True, eq=False)
class Extents:
    """Lengths of the sequences of N rows.

    Attributes
    ----------
    lengths
        (N, sides) tokens of each sequence: one sequence for a demonstration, two for a pair.
    starts
        (N,) tokens of the prompt, which the sequences of a row share.
    """

    lengths: Int[np.ndarray, "N sides"]
    starts: Int[np.ndarray, " N"]

    @classmethod
    def of(cls, items: Sequence[Example] | Sequence[Pair]) -> Extents:
        """Lengths of demonstrations or pairs."""
        if isinstance(items, Tokenised):
            return cls(*items.extents)
        return cls(
            np.array([item.lengths for item in items]), np.array([item.start for item in items])
        )

    @cached_property
    def sizes(self) -> Int[np.ndarray, " N"]:
        """Number of tokens of each row."""
        return np.asarray(self.lengths.sum(axis=1))

    def own(self, layout: Layout) -> Int[np.ndarray, " N"]:
        """Number of tokens that each row adds to a pass without padding."""
        spared = self.starts * (self.lengths.shape[1] - 1)
        return np.asarray(self.sizes - spared) if layout == "shared" else self.sizes

    def tokens(self, rows: Rows, layout: Layout) -> int:
        """Number of tokens that a pass over these rows computes, with padding."""
        if layout == "padded":
            return int(self.lengths[rows].max()) * self.lengths[rows].size
        return int(self.own(layout)[rows].sum())


def passes(
    rows: Rows, extents: Extents, config: TrainConfig, process: int, processes: int
) -> Iterator[tuple[Rows, float]]:
    """Yield one process's part of each round of forward passes, and its weight 1.0 or 0.0.

    Rows are sorted by length, longest first, so that neighbours need little padding. All processes
    make the same number of passes, as collective operations need it. A process that has no rows
    left repeats the first row with weight 0.

    Parameters
    ----------
    rows
        Indices of the rows of an update, or of the rows to score.
    extents
        Lengths of all rows of their set.
    config
        ``rows_per_forward``, or ``tokens_per_pass`` if it is given.
    process, processes
        Number of this process, and of all processes.
    """
    ordered = by_length(rows, extents.sizes)
    for part in _rounds(ordered, extents, config, processes):
        own = part[process::processes]
        yield (own, 1.0) if len(own) else (ordered[:1], 0.0)


def _rounds(ordered: Rows, extents: Extents, config: TrainConfig, processes: int) -> Iterator[Rows]:
    layout: Any = "padded" if config.layout == "auto" else config.layout
    start = 0
    while start < len(ordered):
        count = config.rows_per_forward
        if config.tokens_per_pass is not None:
            every = [ordered[start + p :: processes] for p in range(processes)]
            budget = config.tokens_per_pass
            count = min(_fitting(own, extents, layout, budget) for own in every if len(own))
        yield ordered[start : start + count * processes]
        start += count * processes


def _fitting(ordered: Rows, extents: Extents, layout: Layout, budget: int) -> int:
    """Number of first rows that fit in a pass of at most `budget` tokens; at least one."""
    counts = np.arange(1, len(ordered) + 1)
    if layout == "padded":
        longest = np.maximum.accumulate(extents.lengths[ordered].max(axis=1))
        tokens = longest * counts * extents.lengths.shape[1]
    else:
        tokens = np.cumsum(extents.own(layout)[ordered])
    return max(1, int((tokens <= budget).sum()))


def by_length(rows: Rows, sizes: Sequence[int] | Int[np.ndarray, " N"]) -> Rows:
    """Sort rows by length, longest first, so that neighbours need little padding."""
    lengths = np.array([sizes[i] for i in rows])
    return rows[np.argsort(-lengths, kind="stable")]
