"""T13: with linear step decay, as trainers use it, the last iterate has the rate of the average.

Take N projected updates with steps eta_t = (r / (G sqrt T)) (T - t)/T, T = N + 1, t = 1..N: a
linear decay to zero. Then for any convex target f with subgradients of second moment G^2

    E f(theta_T) - f*  <=  r G / sqrt(N + 1).

Proof. Put v_0 = 1, v_t = T/(T - t) for t < T and v_T = v_{T-1} = T, and c = eta_t v_t, which is
the same for all t. Compare theta_t not with theta* but with y_t: y_0 = theta*,
v_t y_t = v_{t-1} y_{t-1} + (v_t - v_{t-1}) theta_t. Then v_t (theta_t - y_t) =
v_{t-1} (theta_t - y_{t-1}), so that v_t^2 |theta_{t+1} - y_t|^2 telescopes:

    0 <= r^2 - 2 c sum of v_t E g_t.(theta_t - y_t) + c^2 T G^2.

By convexity E g_t.(theta_t - y_t) >= e_t - sum over s <= t of ((v_s - v_{s-1})/v_t) e_s, where
e_t = E f(theta_t) - f*. In the double sum e_s has the factor v_{s-1} - (v_s - v_{s-1})(T - s),
which is zero for s < T and T for s = T. What is left is 2 c T e_T <= r^2 + c^2 T G^2.
Source without noise: Zamani and Glineur (arXiv 2307.11134), where r G / sqrt(N + 1) is the exact
worst case and no subgradient method does better. With noise: Defazio et al. (2310.07831). Both
objectives, MAXRIGHT and the projection: ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import StepSize, trajectories
from tradeoff.schedules import Schedule
from tradeoff.settings import Positive, Updates, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Horizon, step_over
from tradeoff.theory.joint import reach
from tradeoff.theory.measured import gradient_bound, mean_below, target


@checked
def decaying_step(
    problem: LogLinear, schedule: Schedule, updates: Horizon, start: ArrayLike | None = None
) -> StepSize:
    """Steps r/(G sqrt(N+1)) (N+1-t)/(N+1), for which :func:`last_iterate_bound` holds."""
    norm = gradient_bound(problem, schedule)
    scale = step_over(reach(problem, start), norm * float(np.sqrt(updates + 1)))
    return StepSize(scale * updates / (updates + 1), "linear")


@checked
def last_iterate_bound(
    problem: LogLinear,
    schedule: Schedule,
    updates: Horizon,
    start: ArrayLike | None = None,
    *,
    multiple: Positive = 1.0,
) -> float:
    """T13's bound r G / sqrt(N+1) on the target's gap at the last iterate.

    ``multiple`` is the ratio m of the step size to that of :func:`decaying_step`. The bound is
    larger by the factor (m + 1/m)/2.
    """
    best = reach(problem, start) * gradient_bound(problem, schedule) / np.sqrt(updates + 1)
    return float(best * (multiple + 1 / multiple) / 2)


@checked
def last_iterate_gap(
    problem: LogLinear,
    schedule: Schedule,
    updates: Updates,
    *,
    instead: Schedule | None = None,
    **run: Any,
) -> Checked:
    """Compare the mean gap of the last iterate over replicas with T13's bound.

    Parameters
    ----------
    problem, schedule, updates
        ALRIGHT or Mix (gap of f_lambda), or MAXRIGHT with exact values (of F_lambda), for N
        updates.
    instead
        Schedule to run in place of ``schedule``, with its step and against its bound. A wrong
        method must break the statement.
    **run
        For :func:`~tradeoff.convex.simulate.trajectories` (replicas, seed, engine, start).
    """
    start = run.get("start")
    size = decaying_step(problem, schedule, updates, start)
    runs = trajectories(
        problem, instead or schedule, steps=updates, step_size=size, checkpoints=[updates], **run
    )
    goal = target(problem, schedule)
    limit = last_iterate_bound(problem, schedule, updates, start)
    known = {"G": gradient_bound(problem, schedule), "reach": reach(problem, start),
             "N": float(updates), "step": size.scale}  # fmt: skip
    gaps = goal.excess(runs.losses(problem)[0, :, 0])
    return mean_below(gaps, limit, known, goal.certificate)
