"""A joint training that ends when its budget is spent, for schedules without a known cost.

How often MAXRIGHT follows pairs depends on the losses, and for ALRIGHT it depends on the draws.
With a fixed number of updates some seeds would spend more than others.
"""

from __future__ import annotations

from typing import Any

from analysis.fernando2024.real.llm_runs import Budget
from tradeoff.llm import JointTrainer
from tradeoff.progress import tqdm
from tradeoff.schedules import OBJECTIVES


class Budgeted(JointTrainer):
    """Trainer that ends with the update that brings its cost nearest to a budget, probes included.

    ``config.steps`` is only the largest number of updates that the budget can pay for. An
    evaluation is due whenever another equal part of the budget is spent.
    """

    def __init__(self, *args: Any, budget: Budget, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.budget, self.spent, self.marked = budget, 0.0, 0

    def _after_update(self, interrupt: Any) -> bool:
        before, self.spent = self.spent, float(self.budget.spent(self._counts()))
        if self.spent + (self.spent - before) / 2 >= self.budget.total:
            self.steps = self.step  # Half of the next update would exceed the budget.
        ended = super()._after_update(interrupt)
        if self.step == self.steps and self.diverged_at is None:
            self._evaluate_if_due(tqdm(disable=True))
        return ended or self.step == self.steps

    def _counts(self) -> dict[str, float]:
        followed = zip(OBJECTIVES, self.tally.updates, strict=True)
        counts = {f"{name}_updates": float(count) for name, count in followed}
        return counts | {"probe_rows": float(self.known.probed)}

    def _evaluate_if_due(self, bar: Any) -> bool:
        mark = int(self.spent / self.budget.total * self.budget.marks)
        if self.step not in (0, self.steps) and mark <= self.marked:
            return False
        self.marked = mark
        return super()._evaluate_if_due(bar)
