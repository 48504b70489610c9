"""T14: interleaving, a bound that depends on the number of rounds and not on their length.

K rounds of B updates each follow the objectives in any fixed order. A share lambda of the B updates
follows the preference objective. With the constant step r/(B G sqrt K), G = lambda G_DPO +
(1-lambda) G_SFT,

    E gap_lambda(average of the K round starts)  <=  r G / sqrt K,      for every B.

Proof (incremental subgradients, Nedic and Bertsekas 2001). Update j of a round follows f_j at
theta_j, and theta_j is at most alpha (G_0 + ... + G_{j-1}) away from the round's start theta. So
E g_j.(theta_j - theta*) >= f_j(theta_j) - f_j(theta*) >= f_j(theta) - f_j(theta*) - G_j alpha
(G_0 + ... + G_{j-1}). Over a round, f_j(theta) - f_j(theta*) sum to B gap_lambda(theta), and

    |theta_next - theta*|^2  <=  |theta - theta*|^2 - 2 alpha B gap
                                 + alpha^2 (sum of G_j^2 + 2 sum over i < j of G_i G_j),

the last bracket being (sum of G_j)^2 = (B G)^2 in any order. Sum over rounds: the mean gap is at
most r^2/(2 alpha B K) + alpha B G^2/2. So K rounds have the same bound as K updates of Mix, at B
times the cost. K = 1 is sequential training, for which the bound says nothing. Source:
arXiv 2410.15483 has no such statement; constants, and G in place of the largest G_i: ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import trajectories
from tradeoff.errors import InputError
from tradeoff.schedules import Rounds, Schedule
from tradeoff.settings import Share, Updates, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Horizon, constants, step_over
from tradeoff.theory.joint import reach
from tradeoff.theory.measured import mean_below, target


@checked
def round_gradient(problem: LogLinear, lam: Share) -> float:
    """G = lam G_DPO + (1-lam) G_SFT: bound on the mean gradient norm in a round."""
    return float(np.dot((1 - lam, lam), constants(problem).gradients))


def round_length(schedule: Rounds, updates: int) -> int:
    """B, the updates of each round.

    Raises
    ------
    InputError
        If rounds differ, or a round's share of preference updates is not exactly ``lam``.
    """
    plan, starts = schedule.plan(updates), schedule.starts(updates)
    lengths = np.diff([*starts, updates])
    shares = np.add.reduceat(plan.probability, starts) / lengths
    if np.ptp(lengths) or not np.allclose(shares, schedule.lam, atol=1e-12):
        raise InputError(
            f"rounds of {lengths.min()} to {lengths.max()} updates cannot each give the share "
            f"{schedule.lam:g} to preferences",
            field="updates",
            value=updates,
            remedy="Use a multiple of the rounds for which lam times the length is whole.",
        )
    return int(lengths[0])


@checked
def rounds_bound(
    problem: LogLinear, lam: Share, rounds: Horizon, start: ArrayLike | None = None
) -> float:
    """T14's bound: reach times G over sqrt K."""
    return reach(problem, start) * round_gradient(problem, lam) / float(np.sqrt(rounds))


@checked
def rounds_gap(
    problem: LogLinear,
    schedule: Rounds,
    updates: Updates,
    *,
    instead: Schedule | None = None,
    **run: Any,
) -> Checked:
    """Compare the mean gap of the average of the round starts with :func:`rounds_bound`.

    Parameters
    ----------
    problem, schedule, updates
        The problem, and K rounds that share ``updates`` evenly and do not restart.
    instead
        Schedule to run in place of ``schedule``, with its step and against its bound. If it is
        another `Rounds`, the starts of its own rounds are averaged.
    **run
        For :func:`~tradeoff.convex.simulate.trajectories` (replicas, seed, engine, start).
    """
    start, lam, rounds = run.get("start"), schedule.lam, schedule.rounds
    length, norm = round_length(schedule, updates), round_gradient(problem, lam)
    records = instead if isinstance(instead, Rounds) else schedule
    alpha = step_over(reach(problem, start), length * norm * float(np.sqrt(rounds)))
    runs = trajectories(
        problem, instead or schedule, steps=updates, step_size=alpha,
        checkpoints=records.starts(updates), **run,
    )  # fmt: skip
    goal = target(problem, schedule)
    gaps = goal.excess(problem.losses(runs.last[0].mean(axis=1)))
    known = {"G": norm, "reach": reach(problem, start), "K": float(rounds), "B": float(length),
             "step": alpha}  # fmt: skip
    return mean_below(gaps, rounds_bound(problem, lam, rounds, start), known, goal.certificate)
