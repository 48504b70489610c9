"""The rows of an update, and their division into forward passes of each process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from tradeoff.errors import InputError
from tradeoff.llm._corpora import Corpora
from tradeoff.llm._cuts import Extents, passes
from tradeoff.llm._streams import Stream
from tradeoff.llm.ahead import Needed
from tradeoff.llm.config import TrainConfig
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
        self,
        step: int,
        rule: Rule,
        follow: Callable[[int], Float[np.ndarray, " 2"]],
        *,
        joins: bool = False,
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
            unless a defect of the official code draws for each pass.
        joins
            Whether a rule joins both gradients, which then needs them whatever their weights.
        """
        config, self.followed = self.config, []
        at_once = config.rows_per_forward * self.processes
        draws = config.defects.draws(rule, config.batch_size, at_once)
        drawn = [follow(step * draws + i) for i in range(draws)]
        followed = [[joins or bool(weight) for weight in weights] for weights in drawn]
        found: list[Pass] = []
        for weights, wanted in zip(drawn, followed, strict=True):
            for objective in (SFT, PREFERENCE):
                batch = -(-config.batch(objective) // draws)
                if wanted[objective]:
                    times = sum(each[objective] for each in followed)
                    # A loss is the mean over the draws that follow it; its gradient is divided by
                    # all draws.
                    weight = float(weights[objective]) * times / draws
                    parts = self._split(objective, self._next(objective, batch), weight)
                    found += [replace(part, share=part.share / times) for part in parts]
                elif config.defects.discards(rule):
                    self._next(objective, batch)
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
