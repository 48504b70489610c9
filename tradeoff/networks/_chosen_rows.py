"""Selection of training rows of a task by the methods of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tradeoff.methods import Method
from tradeoff.methods.transforms import Online, Written
from tradeoff.networks.tasks import Params, Task, one_run
from tradeoff.networks.trained_losses import RecordsTask
from tradeoff.schedules import PREFERENCE, SFT

AT_ONCE = 256
"""Rows whose log-probabilities are computed at once."""
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TaskRows:
    """Training rows of one objective, as the input of a data transform.

    Attributes
    ----------
    task, objective
        Source of the rows.
    params
        Parameters of one run, before training.
    """

    task: Any
    objective: int
    params: Params

    @property
    def lengths(self) -> Places:
        """(n, sides) number of tokens of each response."""
        return self._both[0].astype(np.int64)

    def log_probs(self) -> NDArray[np.float64]:
        """(n, sides) log-probabilities before training."""
        return self._both[1]

    @cached_property
    def _both(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        every = torch.arange(self.task.sizes[self.objective], device=_device(self.params))
        with torch.no_grad():
            parts = [self._of(index) for index in every.split(AT_ONCE)]
        lengths, found = (
            torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True)
        )
        return lengths, found

    def _of(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.objective == PREFERENCE:
            found, lengths = self.task.pair_log_probs(self.params, index)
            return lengths, found
        tokens, rows = self.task.tokens(self.params, index), len(index)
        lengths = tokens.sums(torch.ones_like(tokens.log_probs), rows)
        return lengths.reshape(-1, 1), tokens.sums(tokens.log_probs, rows).reshape(-1, 1)


def chosen_rows(
    task: Task, methods: Mapping[Method, Sequence[int]], base: Params
) -> dict[tuple[int, int], Places]:
    """Rows that each run trains on, by run and objective, if its method chooses rows.

    Parameters
    ----------
    task
        The task; it needs the members of `RecordsTask` if some method chooses rows.
    methods
        Numbers of the runs of each method.
    base
        Stacked parameters before training, of all runs or of one run for all.
    """
    found: dict[tuple[int, int], Places] = {}
    for method, runs in methods.items():
        if "data" not in method.changed() or isinstance(method.data, Online | Written):
            continue
        assert isinstance(task, RecordsTask), "checked before"
        shared = len(next(iter(base.values()))) == 1
        for objective in (SFT, PREFERENCE):
            known: dict[int, Places] = {}
            for run in runs:
                of = 0 if shared else int(run)
                if of not in known:
                    rows = TaskRows(task, objective, one_run(base, of))
                    known[of] = method.data.chosen(rows)
                found[int(run), objective] = known[of]
    return found


def _device(params: Params) -> torch.device:
    return next(iter(params.values())).device
