"""T18: MAXRIGHT without f* and with one data point per update.

MAXRIGHT needs both minima and both exact values. F_lambda is a maximum, max over q of
(1-q) w_S (f_S - f_S*) + q w_D (f_D - f_D*), so it is the value of a game in which theta descends
and q in [0, 1] ascends (minimax excess risk: arXiv 2306.00026; Tchebycheff by mirror descent:
2410.21764). At each update a fair coin picks the objective, and one of its data points gives both
the step and the payoff:

1. for each objective T_0 updates of projected SGD, averaged: an anchor a_i in place of theta_i*;
2. T updates: i by a fair coin; theta <- Pi(theta - alpha 2 q_i w_i g_i), and
   q <- clip(q -+ eta 2 w_i (loss_i(theta) - loss_i(a_i))), both losses of the same data point.

Theorem. With c = w_S G_S + w_D G_D, G^2 = 2 max (w_i G_i)^2, b^2 = 8 R^2 sum (w_i G_i)^2,
alpha = R/(G sqrt T), eta = 1/(2 b sqrt T), from the centre,

    E F_lambda(average) - F_lambda*  <=  (R G + b)/sqrt T  +  R c/sqrt(T_0).

Proof. With the losses of the anchors in place of the minima, let L(theta, q) be the value of the
game. F(average) - F* is at most max_q L(average, q) - L(theta*, mean q), with theta* FIXED. The
theta part is T4: E|g|^2 <= 2 sum of q_i^2 w_i^2 G_i^2 <= G^2. The q part: payoffs d_t have
E d_t^2 <= b^2, since the loss of a data point moves by at most 2 R G_i. The best q depends on the
run. So a second, auxiliary sequence ascends on the noise of the payoffs (Nemirovski et al. 2009).
Each of the two sequences costs (1/2)^2/(2 eta) + eta T b^2/2, together b sqrt T at that eta. The
loss of anchor i is o_i above f_i*, with E o_i <= R G_i/sqrt T_0 (T4). That costs at most
|w_S o_S - w_D o_D| (T7). Source of the constants and of the two-point payoff, which needs no value
of a minimum: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.sampling import LogLinearSampler
from tradeoff.schedules import PREFERENCE, SFT, Maxright
from tradeoff.settings import Count, Seed, Share, Updates, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants, step_over
from tradeoff.theory.measured import mean_below, target

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Game:
    """Step sizes and bound of one game.

    Attributes
    ----------
    steps, anchor_steps
        T updates of the game, and T_0 updates for the anchor of each objective.
    lam
        Weight of the preference objective.
    alpha, eta
        Step sizes of theta and of q.
    bound
        Bound on E F_lambda(average) - F_lambda*.
    """

    steps: int
    anchor_steps: int
    lam: float
    alpha: float
    eta: float
    bound: float


@checked
def game(
    problem: LogLinear, lam: Share, steps: Updates, anchor_steps: Updates | None = None
) -> Game:
    """Step sizes and bound; ``anchor_steps`` is half of ``steps`` by default."""
    before = max(1, steps // 2) if anchor_steps is None else anchor_steps
    pulls = np.array([1 - lam, lam]) * constants(problem).gradients
    norm = float(np.sqrt(2) * pulls.max())
    payoff = float(np.sqrt(8) * problem.radius * np.linalg.norm(pulls))
    limit = (problem.radius * norm + payoff) / np.sqrt(steps)
    limit += problem.radius * pulls.sum() / np.sqrt(before)
    root = float(np.sqrt(steps))
    alpha, eta = step_over(problem.radius, norm * root), step_over(1.0, 2 * payoff * root)
    return Game(steps, before, lam, alpha, eta, float(limit))


def play(
    problem: LogLinear, rules: Game, replicas: int, seed: int = 0, *, ascend: bool = True
) -> tuple[Array, Array]:
    """Averaged theta (replicas, d) and mean q (replicas,); ``ascend=False`` keeps q at 1/2."""
    sampler = LogLinearSampler(problem, seed, np.arange(replicas))
    anchors = [_anchor(problem, sampler, i, rules.anchor_steps, replicas) for i in (0, 1)]
    clock, streams = np.arange(rules.steps)[:, None], (
        draws.OBJECTIVE, draws.SFT_ESTIMATE, draws.PREFERENCE_ESTIMATE,
    )  # fmt: skip
    coin, *uniform = (draws.uniform(draws.keys(seed, np.arange(replicas), k), clock)
                      for k in streams)  # fmt: skip
    rows = [sampler.index(i, uniform[i]) for i in (SFT, PREFERENCE)]
    weights = np.array([1 - rules.lam, rules.lam])
    theta, q = np.zeros((replicas, problem.dimension)), np.full(replicas, 0.5)
    mean, mean_q = np.zeros_like(theta), np.zeros(replicas)
    for t in range(rules.steps):
        mean += (theta - mean) / (t + 1)
        mean_q += (q - mean_q) / (t + 1)
        step, payoff = np.empty_like(theta), np.empty(replicas)
        for i, mine in ((SFT, coin[t] >= 0.5), (PREFERENCE, coin[t] < 0.5)):
            both = np.concatenate([theta[mine], anchors[i][mine]])
            loss, gradient = sampler.evaluate(i, both, np.tile(rows[i][t, mine], 2))
            own, anchor = np.split(loss, 2)
            share = q[mine] if i == PREFERENCE else 1 - q[mine]
            step[mine] = (2 * weights[i] * share)[:, None] * gradient[: len(own)]
            payoff[mine] = (2 if i == PREFERENCE else -2) * weights[i] * (own - anchor)
        theta = problem.project(theta - rules.alpha * step)
        q = np.clip(q + rules.eta * payoff, 0.0, 1.0) if ascend else q
    return mean, mean_q


def _anchor(
    problem: LogLinear, sampler: LogLinearSampler, objective: int, steps: int, replicas: int
) -> Array:
    """Average of projected SGD on one objective, with the step of T4."""
    longest = constants(problem).gradients[objective]
    alpha = step_over(problem.radius, longest * float(np.sqrt(steps)))
    theta = np.zeros((replicas, problem.dimension))
    mean = np.zeros_like(theta)
    for t in range(steps):
        mean += (theta - mean) / (t + 1)
        theta = problem.project(theta - alpha * sampler.gradient(objective, theta, t))
    return mean


@checked
def minimax_gap(
    problem: LogLinear,
    lam: Share,
    steps: Updates,
    *,
    anchor_steps: Updates | None = None,
    replicas: Count = 32,
    seed: Seed = 0,
    ascend: bool = True,
) -> Checked:
    """Compare the mean of F_lambda(average) - F_lambda* with the bound of :func:`game`.

    Parameters
    ----------
    problem, lam
        The problem, with dense features for speed, and the weight of the preference objective.
    steps, anchor_steps
        T and T_0.
    replicas, seed
        Independent runs and their root seed.
    ascend
        ``False`` keeps q at 1/2, which is ALRIGHT on another target: the statement should fail.
    """
    rules = game(problem, lam, steps, anchor_steps)
    average, q = play(problem, rules, replicas, seed, ascend=ascend)
    goal = target(problem, Maxright(lam=lam))
    known = {"alpha": rules.alpha, "eta": rules.eta, "T": float(steps),
             "T_0": float(rules.anchor_steps), "q": float(q.mean())}  # fmt: skip
    gaps = goal.excess(problem.losses(average))
    return mean_below(gaps, rules.bound, known, goal.certificate)
