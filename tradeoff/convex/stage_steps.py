"""A step size for each stage of sequential training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from tradeoff.convex.simulate import StepSize
from tradeoff.schedules import Plan
from tradeoff.settings import Within


@dataclass(frozen=True)
class StageSteps(StepSize):
    """Step size of training in stages, where the clock restarts with every stage.

    Attributes
    ----------
    scale, decay
        First step of the first stage, and decay within each stage, see :class:`StepSize`.
    second
        First step of all later stages.
    """

    second: Annotated[float, Within(0, 1e12, "(]")] = 1.0

    def of(self, plan: Plan) -> NDArray[np.float64]:
        """(T,) step size of every update; a new stage begins where the clock restarts."""
        later = np.cumsum(plan.clock == 1) > 1
        return np.asarray(super().of(plan) * np.where(later, self.second / self.scale, 1.0))
