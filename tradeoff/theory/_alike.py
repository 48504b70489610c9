"""Schedules whose updates are alike and follow f_lambda in the mean, such as ALRIGHT and Mix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tradeoff.methods import Method
from tradeoff.schedules import Schedule

MANY = 64
"""Updates of the plan that is looked at."""


def kinds_of(schedule: Schedule | Method, theorem: str) -> list[tuple[float, NDArray[np.float64]]]:
    """Probability and (2,) gradient weights of each kind of update.

    Parameters
    ----------
    schedule
        One whose updates are all alike, in one stage, and whose mean direction is the gradient of
        f_lambda. A method may change nothing else.
    theorem
        What needs that, for the message.

    Raises
    ------
    TypeError
        If it is another one.
    """
    if isinstance(schedule, Method) and not schedule.plain:
        raise TypeError(
            f"{theorem} is about updates that follow the problem's own losses, and"
            f" {schedule.label} changes them; give a schedule alone"
        )
    plan = schedule.plan(MANY)
    if not plan.watched and plan.stages == 1 and len(np.unique(plan.together)) == 1:
        found = plan.kinds()
        mean = sum(p * weights for p, weights in found)
        alike = np.ptp(plan.probability) == 0 and not np.ptp(plan.weights, axis=0).any()
        if alike and np.allclose(mean, (1 - schedule.lam, schedule.lam)):
            return found
    raise TypeError(
        f"{theorem} is about schedules such as Alright and Mix, whose updates are alike and follow"
        f" f_lambda in the mean, not {type(schedule).__name__}"
    )
