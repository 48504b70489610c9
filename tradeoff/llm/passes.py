"""The rows of an update, and their division into forward passes of each process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from tradeoff.errors import InputError
from tradeoff.llm.ahead import Needed
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.corpora import Corpora
from tradeoff.llm.cuts import Extents, passes
from tradeoff.llm.streams import Stream
from tradeoff.schedules import PREFERENCE, SFT, Rule


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward and backward pass of one process.

    Attributes
    ----------
    objective
        0 for SFT, 1 for preference.
    rows
        Indices in the training set.
    share
        Factor of the summed loss of these rows in the mean over the update: one over the number of
        tokens or pairs. It is 0 for a pass that is made only to match other processes.
    weight
        Weight of the objective's gradient in this update.
    """

    objective: int
    rows: Int[np.ndarray, " n"]
    share: float
    weight: float


class Feed:
    """Reader of the rows of both training sets.

    Parameters
    ----------
    data, config
        Rows, and the numbers of rows of an update and of a pass.
    process, processes
        Number of this process, and of all processes.

    Attributes
    ----------
    positions
        Numbers of rows read of (SFT, preference), which are all that a checkpoint needs.
    followed
        (objective, rows) of the latest update, over all processes.
    """

    def __init__(self, data: Corpora, config: TrainConfig, process: int, processes: int) -> None:
        self.data, self.config = data, config
        self.process, self.processes = process, processes
        self.positions = [0, 0]
        self.followed: list[tuple[int, Int[np.ndarray, " n"]]] = []
        self._extents = [Extents.of(data.training(objective)) for objective in (SFT, PREFERENCE)]
        lengths = [len(extents.starts) for extents in self._extents]
        self._streams = [Stream(n, config.seed, o) for o, n in enumerate(lengths)]

    def first_rows(self, objective: int, count: int, needed: Needed) -> Int[np.ndarray, " count"]:
        """The first `count` rows in reading order; they repeat if there are fewer rows.

        Pairs are limited to those whose reference log-probabilities are known.
        """
        stream = self._streams[objective]
        known = stream.size
        if objective == PREFERENCE:
            known = sum(len(group) for group in needed.groups)
        if not known:
            raise InputError(
                "a part of the method asks for gradients of rows, and the run reads none of them",
                field="method",
                remedy="Give rows of both objectives, or use another method.",
            )
        return stream.rows(0, known)[np.arange(count) % known]

    def passes(
        self, step: int, rule: Rule, follow: Callable[[int], Float[np.ndarray, " 2"]]
    ) -> list[Pass]:
        """Passes of this process in update `step`.

        Parameters
        ----------
        step
            Update, from 0.
        rule
            Rule of the schedule's plan.
        follow
            Maps the number of a draw to gradient weights (2,). It is called once, with `step`,
            unless the defect `choose_per_forward` is on.
        """
        defects, self.followed = self.config.defects, []
        if defects.choose_per_forward and rule is Rule.DRAW:
            return self._drawn_one_by_one(step, follow)
        weights = follow(step)
        found = []
        for objective in (SFT, PREFERENCE):
            if weights[objective]:
                rows = self._next(objective, self.config.batch(objective))
                found += self._split(objective, rows, float(weights[objective]))
            elif defects.discard_unused_batch:
                self._next(objective, self.config.batch(objective))
        return found

    def _next(self, objective: int, count: int) -> Int[np.ndarray, " n"]:
        rows = self._streams[objective].rows(self.positions[objective], count)
        self.positions[objective] += count
        return rows

    def _split(self, objective: int, rows: Int[np.ndarray, " n"], weight: float) -> list[Pass]:
        items = self.data.training(objective)
        self.followed.append((objective, rows))
        total = sum(items[i].scored for i in rows) if objective == SFT else len(rows)
        extents = self._extents[objective]
        parts = passes(rows, extents, self.config, self.process, self.processes)
        return [Pass(objective, part, keep / total, weight) for part, keep in parts]

    def _drawn_one_by_one(
        self, step: int, follow: Callable[[int], Float[np.ndarray, " 2"]]
    ) -> list[Pass]:
        """The official code's update: every pass draws its own objective."""
        at_once = self.config.rows_per_forward * self.processes
        rounds = -(-self.config.batch_size // at_once)
        weights = [follow(step * rounds + i) for i in range(rounds)]
        drawn = [int(np.argmax(pair)) for pair in weights]
        found: list[Pass] = []
        for objective, pair in zip(drawn, weights, strict=True):
            times = drawn.count(objective)
            # A loss is the mean over the passes that drew it; its gradient is divided by all
            # passes.
            weight = float(pair[objective]) * times / rounds
            rows = self._next(objective, -(-self.config.batch(objective) // rounds))
            parts = self._split(objective, rows, weight)
            found += [replace(part, share=part.share / times) for part in parts]
        return found
