"""Measurements that forecasts are made of, each made once, with its cost counted.

Costs are tokens that a forward pass reads; a backward pass counts twice as much. So they depend
neither on the machine nor on its load.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tradeoff.forecast.sketch import CountSketch, TwoSided
from tradeoff.forecast.subject import Rows, Scored, Shift, Subject, blend

Array = NDArray[np.float64]
FORWARD, BACKWARD = 1, 3
"""Cost of a token in a forward pass, and in one with its backward pass."""
SIDES = 16, 8
"""Widths of the sketch of a last layer, on the side of the vocabulary and of hidden states."""
POINTS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.0), (0.0, 0.5))
"""Where both losses are measured in the plane of the two short runs, in units of ``reach``."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    updates, batch
        Budget of the runs to forecast: updates of Mix, and rows of each set in an update.
    features, gradients, evaluated
        Rows of each set for forward passes, for gradients, and for losses of changed weights.
    probe_updates, probe_batch
        Length of the two short runs, and rows of their updates.
    """

    updates: int
    batch: int
    features: int
    gradients: int
    evaluated: int
    probe_updates: int
    probe_batch: int

    @classmethod
    def of(cls, updates: int, batch: int) -> Effort:
        """What costs the stack less than a twentieth of a run, and no more than is of use.

        Very short runs are an exception: four rows of each set are the least.
        Most of it is forward passes: they give features, and the losses before training.
        """
        rows = updates * batch

        def some(share: float, most: int) -> int:
            return int(np.clip(round(share * rows), 4, most))

        probed = some(0.01, 256)
        length = int(np.clip(probed // batch, 2, 16))
        return cls(
            updates=updates,
            batch=batch,
            features=some(0.08, 512),
            gradients=some(0.01, 64),
            evaluated=some(0.0075, 64),
            probe_updates=length,
            probe_batch=max(1, probed // length),
        )

    def share(self, features: int, gradients: int) -> float:
        """Cost of the stack's rows as a share of one run, if all rows are equally long."""
        run = BACKWARD * self.updates * self.batch
        return (FORWARD * features + BACKWARD * gradients) / run

    @property
    def reach(self) -> float:
        """How far a run travels in units of a short run, whose updates agree less the longer."""
        return float((self.updates / self.probe_updates) ** 0.6)


class Lab:
    """Lazily measures a subject, and counts what each measurement costs.

    Parameters
    ----------
    subject
        The model and its data.
    effort
        How much is measured.
    seed
        Seed of the rows that are drawn, and of sketches.
    """

    def __init__(self, subject: Subject, effort: Effort, seed: int = 0) -> None:
        self.subject, self.effort, self.seed = subject, effort, seed
        self.spent: Counter[str] = Counter()
        rng = np.random.default_rng(seed)
        self._order = tuple(rng.permutation(size) for size in subject.sizes)

    def rows(self, count: int) -> tuple[Rows, Rows]:
        """The first so many rows of each set in a random order."""
        first, second = (order[:count] for order in self._order)
        return first, second

    @cached_property
    def run_cost(self) -> float:
        """Expected cost of a run of the budget."""
        return BACKWARD * self.effort.updates * self.effort.batch * sum(self._lengths)

    @cached_property
    def _lengths(self) -> tuple[float, float]:
        """Mean tokens of a row of each set, from some of them."""
        some = self.rows(256)
        first, second = (self.subject.tokens(i, rows) / len(rows) for i, rows in enumerate(some))
        return first, second

    def cost(self, *measurements: str) -> float:
        """Cost of some measurements, or of all, as a share of that of one run."""
        names = measurements or tuple(self.spent)
        return sum(self.spent[name] for name in names) / self.run_cost

    # ------------------------------------------------------------------ measurements

    @cached_property
    def forward(self) -> tuple[Scored, Scored]:
        """Tokens of some rows of each set under the base model."""
        rows = self.rows(self.effort.features)
        for objective in (0, 1):
            self._spend("forward", objective, rows[objective], FORWARD)
        scored = self.subject.scored
        return scored(0, rows[0], self.sketch), scored(1, rows[1], self.sketch)

    @cached_property
    def sketch(self) -> TwoSided:
        """The sketch of the last layer."""
        return TwoSided.draw(*self.subject.shape, SIDES, self.seed)

    @cached_property
    def base(self) -> Array:
        """(2,) losses of the base model on these rows; that of pairs is log 2."""
        return np.array([-float(self.forward[0].log_p[:, 0].double().mean()), np.log(2.0)])

    @cached_property
    def gradients(self) -> tuple[Array, Array]:
        """Sketched gradients of some rows of each set."""
        rows, sketch = self.rows(self.effort.gradients), CountSketch(256, self.seed)
        for objective in (0, 1):
            self._spend("gradients", objective, rows[objective], BACKWARD)
        return (
            self.subject.gradients(0, rows[0], sketch),
            self.subject.gradients(1, rows[1], sketch),
        )

    @cached_property
    def ends(self) -> tuple[Shift, Shift]:
        """Weights after a short run on each objective."""
        e = self.effort
        read = e.probe_updates * e.probe_batch
        first, second = self._lengths
        # The reference reads the pairs once more.
        self.spent["short runs"] += round(read * (BACKWARD * (first + second) + FORWARD * second))
        size = e.probe_updates, e.probe_batch, self.seed
        return self.subject.steps(0, *size), self.subject.steps(1, *size)

    @cached_property
    def started(self) -> Array:
        """(2,) losses of the base model on the rows that evaluate short runs."""
        return self._losses("start", 0.0, 0.0)

    @cached_property
    def probes(self) -> Array:
        """(2, 2) losses after each short run: row 0 that on demonstrations."""
        return np.stack([self._losses("probes", *place) for place in ((1.0, 0.0), (0.0, 1.0))])

    @cached_property
    def plane(self) -> Array:
        """(5, 2) losses at :data:`POINTS`, as far from the base as the runs are expected to go."""
        far = self.effort.reach
        return np.stack([self._losses("plane", far * a, far * b) for a, b in POINTS])

    def _losses(self, name: str, first: float, second: float) -> Array:
        rows = self.rows(self.effort.evaluated)
        for objective in (0, 1):
            self._spend(name, objective, rows[objective], FORWARD)
        shift = blend([(first, self.ends[0]), (second, self.ends[1])])
        return self.subject.losses(shift, rows)

    def _spend(self, name: str, objective: int, rows: Rows, factor: int) -> None:
        self.spent[name] += factor * self.subject.tokens(objective, rows)
