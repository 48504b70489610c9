"""Training rows of a log-linear problem, selected by the data part of a method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.convex.log_linear import LogLinear
from tradeoff.methods.transforms import Transform
from tradeoff.schedules import PREFERENCE, SFT


@dataclass(frozen=True, eq=False)
class ProblemRows:
    """Training rows of one objective, in the form that a transform takes.

    Attributes
    ----------
    problem, objective
        The problem, and the objective: SFT is 0, PREFERENCE is 1.
    start
        (d,) parameters before training.
    """

    problem: LogLinear
    objective: int
    start: NDArray[np.float64]

    @property
    def _responses(self) -> NDArray[np.int64]:
        """(n, sides) rows of the problem's responses."""
        if self.objective == SFT:
            return self.problem.demonstrations[:, None]
        return np.stack([self.problem.chosen, self.problem.rejected], axis=1)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n, sides) ones: every response counts as one token."""
        return np.ones_like(self._responses)

    def log_probs(self) -> NDArray[np.float64]:
        """(n, sides) log-probabilities at the start."""
        return np.asarray(self.problem.log_probs(self.start)[self._responses])


def trained_on(problem: LogLinear, transform: Transform, start: NDArray[np.float64]) -> LogLinear:
    """The problem with only the rows that a transform keeps, and their weights."""
    sft, pairs = (
        transform.chosen(ProblemRows(problem, objective, start)) for objective in (SFT, PREFERENCE)
    )
    of_pairs = ("chosen", "rejected", "pair_weights", "reference_margins")
    places = {"demonstrations": sft, "demonstration_weights": sft, **dict.fromkeys(of_pairs, pairs)}
    given = {name: getattr(problem, name) for name in places}
    chosen: dict[str, Any] = {
        name: None if values is None else values[places[name]] for name, values in given.items()
    }
    return replace(problem, **chosen)
