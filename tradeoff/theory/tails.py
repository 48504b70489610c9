"""T18: a bound on the gap of one run that holds with high probability.

Let |g_t| <= G_max for every data point, and the constant step be r/(G_max sqrt T). Then with
probability at least 1 - delta

    gap(average)  <=  r G_max / sqrt T  +  2 R G_max sqrt(2 log(1/delta) / T).

Proof. As in T4, the sum of gaps is at most r G_max sqrt T plus the sum of
x_t = (grad f_lambda(theta_t) - g_t).(theta_t - theta*), a martingale difference. Given the past,
g_t.(theta_t - theta*) lies in [-2 R G_max, 2 R G_max], an interval of length 4 R G_max; Azuma and
Hoeffding bound the sum by 4 R G_max sqrt(T log(1/delta)/2) with probability 1 - delta. Source: the
method is Cesa-Bianchi, Conconi and Gentile's (2004); constants and both schedules: ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import trajectories
from tradeoff.errors import InputError
from tradeoff.schedules import Schedule
from tradeoff.settings import Updates, checked
from tradeoff.theory._alike import kinds_of
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Horizon, constants, step_over
from tradeoff.theory.joint import reach
from tradeoff.theory.measured import target


def sure_gradient_bound(problem: LogLinear, schedule: Schedule) -> float:
    """G_max, the bound on the length of every update direction of ALRIGHT or Mix."""
    found = constants(problem).gradients
    return float(max(weights @ found for _, weights in kinds_of(schedule, "T18")))


@checked
def tail_bound(
    problem: LogLinear,
    schedule: Schedule,
    steps: Horizon,
    delta: float,
    start: ArrayLike | None = None,
) -> float:
    """The bound that a share of at least 1 - delta of all runs meets."""
    if not 0 < delta < 1:
        raise InputError(
            "not a probability between 0 and 1, both excluded",
            field="delta",
            value=delta,
            remedy="Use a number such as 0.05.",
        )
    spread = 2 * problem.radius * np.sqrt(2 * np.log(1 / delta))
    sure = sure_gradient_bound(problem, schedule)
    return float((reach(problem, start) + spread) * sure / np.sqrt(steps))


@checked
def tail_gap(
    problem: LogLinear, schedule: Schedule, steps: Updates, delta: float = 0.05, *,
    instead: Schedule | None = None, **run: Any,
) -> Checked:  # fmt: skip
    """Compare the (1 - delta) quantile of the average's gap with :func:`tail_bound`.

    Parameters
    ----------
    problem, schedule, steps
        The problem, ALRIGHT or Mix, and the number T of updates.
    delta
        Share of runs that may exceed the bound.
    instead
        Schedule to run in place of ``schedule``, against its bound.
    **run
        For :func:`~tradeoff.convex.simulate.trajectories` (replicas, seed, engine, start).
    """
    start = run.get("start")
    sure, limit = sure_gradient_bound(problem, schedule), tail_bound(
        problem, schedule, steps, delta, start
    )  # fmt: skip
    size = step_over(reach(problem, start), sure * float(np.sqrt(steps)))
    runs = trajectories(
        problem, instead or schedule, steps=steps, step_size=size, checkpoints=[steps], **run
    )
    goal = target(problem, schedule)
    gaps = goal.excess(runs.losses(problem, "average")[0, :, 0])
    measured = float(np.quantile(gaps, 1 - delta, method="higher"))
    known = {"G_max": sure, "delta": delta, "T": float(steps), "mean": float(gaps.mean())}
    return Checked(measured, limit, "upper", known, goal.certificate + 1e-9)
