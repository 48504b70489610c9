"""T17: an instance on which the rates are attained up to a factor of two.

One prompt has two responses with features a and 0, and both objectives prefer the first:
f_S = f_D = log(1 + exp(-a theta)) for beta = 1. So f_lambda is that function for every lambda, and
every run is deterministic. With G = a and the constant step R/(a sqrt T) the slope lies in
[a s, a/2], s = sigma(-a R). An update moves theta by at most R/(2 sqrt T), so from the centre

    sum of (R - theta_t) over t < T  >=  R sum of (1 - t/(2 sqrt T))  >=  R sqrt T     for T >= 4,

The last step holds because a decreasing sum exceeds its integral. The function lies above its
tangent at R: gap(average) >= a s (R - average) >= s R G / sqrt T. As a R falls, s tends to 1/2.
So no factor below 1/2 on the bound is valid for all instances, even where the bound is a hundred
times above the measured gap of one instance. Over all convex targets r G / sqrt(N+1) itself is
minimax (arXiv 2307.11134). Source of the instance and the constant: ours.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import trajectories
from tradeoff.errors import InputError
from tradeoff.schedules import Alright, Schedule
from tradeoff.settings import Positive, Updates, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.measured import gradient_bound, target


@checked
def slow_instance(feature: Positive = 0.01, radius: Positive = 1.0) -> LogLinear:
    """One prompt with two responses, features ``feature`` and 0; both losses prefer the first."""
    return LogLinear.from_prompts(
        [[[feature], [0.0]]], [(0, 0)], [(0, 0, 1)], radius=radius, beta=1.0
    )


@checked
def attained(
    schedule: Schedule, steps: Updates, *, feature: Positive = 0.01, radius: Positive = 1.0,
    problem: LogLinear | None = None,
) -> Checked:  # fmt: skip
    """Gap of the average >= sigma(-a R) times the bound of T4, T5 or T7, with the bound's step.

    Parameters
    ----------
    schedule
        ALRIGHT, Mix, or MAXRIGHT with exact values.
    steps
        T, at least 4.
    feature, radius
        a and R of :func:`slow_instance`.
    problem
        Another instance to run on, where the statement need not hold.
    """
    if steps < 4:
        raise InputError(
            "the proof needs 2 sqrt T <= T", field="steps", value=steps, remedy="Use 4 or more."
        )
    if isinstance(schedule, Alright) and schedule.probability is not None:
        raise InputError(
            "the lower bound needs unscaled gradients",
            field="probability",
            value=schedule.probability,
            remedy="Use Alright(lam=...) alone.",
        )
    where = slow_instance(feature, radius) if problem is None else problem
    norm, root = gradient_bound(where, schedule), float(np.sqrt(steps))
    limit = where.radius * norm / root
    runs = trajectories(
        where, schedule, steps=steps, step_size=where.radius / (norm * root), replicas=1,
        checkpoints=[steps],
    )  # fmt: skip
    goal = target(where, schedule)
    gap = float(goal.excess(runs.losses(where, "average"))[0, 0, 0])
    share = float(expit(-feature * radius))
    known = {"bound": limit, "measured over bound": gap / limit, "share": share, "T": float(steps)}
    return Checked(gap, share * limit, "lower", known, goal.certificate + 1e-12)
