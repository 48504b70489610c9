"""T7: MAXRIGHT is a subgradient method on F_lambda, also with stale, estimated or wrong values.

F_lambda(theta) = max of w_i (f_i - f_i*), w = (1 - lam, lam). Let i be the objective that is
followed and h = w_i g_i. If the compared values have weighted errors of at most e_S and e_D, then
w_i (f_i - f_i*) >= F - (e_S + e_D), so h is an (e_S + e_D)-subgradient of F.

Stale values. k is the number of updates between refreshes. The objective followed at the last
update had its value stored there, so that value is one update old. The value of the other is at
most k - 1 updates old. Each update moves a weighted value by at most G_max a G, with a the step
size and G the length of the longest update direction. So e_S + e_D <= k a G_max G for k >= 2, and
0 for k = 1. (Twice (k - 1) a G_max^2 is valid too, and larger for k > 2.)

Weighted steps (h itself, so G = G_max). As in T4, E F(average) - F* <=
reach^2/(2 a T) + a G^2/2 + e. With the best a that is reach G_max sqrt(1 + 2k)/sqrt T for k >= 2.

Unweighted steps (XRIGHT). The step along g_i is a step of length a/w_i along h. Summing,
E sum of (1/w_i)(F(theta_t) - F* - e) <= reach^2/(2a) + (a/2) T G^2 with G = max G_i. The average
weighted by 1/w_i divides by the sum of 1/w_i. That sum is random, but at least T / max w, and the
summands F - F* are not negative, so

    E F(average) - F*  <=  (max w / T)(reach^2/(2a) + a T G^2/2) + (max w / min w) e.

So the constant is max w times max G, not max (w_i G_i): the same rate, a larger constant.
Source: arXiv 2410.15483, Theorem 3 (rate); constants, staleness and weights ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.convex.certify import Minimum
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import StepSize, simulate
from tradeoff.convex.solve import minimise, minimise_max_gap
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE, Maxright
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants, step_over
from tradeoff.theory.joint import reach

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """The bound of a run with step size a: ``inverse / a + linear * a + fixed``.

    Attributes
    ----------
    inverse
        Coefficient of 1/a, from the distance to the optimum.
    linear
        Coefficient of a, from the gradient norms and stale values.
    fixed
        The rest, from estimation errors and wrong optima.
    """

    inverse: float
    linear: float
    fixed: float

    @property
    def step(self) -> float:
        """The step size that makes the bound smallest."""
        return float(np.sqrt(step_over(self.inverse, self.linear)))

    def at(self, step: float) -> float:
        """The bound for a given step size."""
        return self.inverse / step + self.linear * step + self.fixed


def terms(problem: LogLinear, schedule: Maxright, steps: int, start: Any = None) -> Terms:
    """The terms of T7's bound; see the module for the proof.

    Estimates from n samples have a mean error of at most range_i / (2 sqrt n) (Popoviciu), weighted
    by w_i. With wrong optima the run is a subgradient method on the max of w_i (f_i - f_i* - o_i).
    That differs from F by between min w_i o_i and max w_i o_i, so |w_S o_S - w_D o_D| is added
    once.
    """
    if not 0 < schedule.lam < 1:
        raise InputError(
            "one objective has no weight, so nothing is compared",
            field="lam",
            value=schedule.lam,
            remedy="Use 0 < lam < 1.",
        )
    c, pair = constants(problem), np.array([1 - schedule.lam, schedule.lam])
    weighted = c.weighted_gradient(schedule.lam)
    longest = weighted if schedule.weighted else max(c.gradients)
    scale = 1.0 if schedule.weighted else float(pair.max())
    inflation = 1.0 if schedule.weighted else float(pair.max() / pair.min())
    age = steps if schedule.refresh is None else min(schedule.refresh, steps)
    stale = 0.0 if age == 1 else age * weighted * longest
    estimate = 0.0
    if schedule.samples:
        estimate = float(pair @ c.loss_ranges) / (2 * float(np.sqrt(schedule.samples)))
    wrong = pair * schedule.optimum_error
    return Terms(
        inverse=scale * reach(problem, start) ** 2 / (2 * steps),
        linear=scale * longest**2 / 2 + inflation * stale,
        fixed=inflation * estimate + float(abs(wrong[0] - wrong[1])),
    )


def maxright_step(
    problem: LogLinear, schedule: Maxright, steps: int, start: Any = None
) -> StepSize:
    """Constant step size that minimises T7's bound."""
    return StepSize(terms(problem, schedule, steps, start).step)


def maxright_bound(problem: LogLinear, schedule: Maxright, steps: int, start: Any = None) -> float:
    """T7's bound on E F_lambda(average) - F_lambda* with :func:`maxright_step`."""
    parts = terms(problem, schedule, steps, start)
    return parts.at(parts.step)


def maxright_gap(problem: LogLinear, schedule: Maxright, steps: int, **run: Any) -> Checked:
    """Compare the mean of F_lambda - F_lambda* at the averaged iterate with T7's bound.

    ``run`` goes to :func:`~tradeoff.convex.simulate.simulate` (replicas, seed, engine, start).
    """
    start = run.get("start")
    parts = terms(problem, schedule, steps, start)
    table = simulate(
        problem, schedule, steps=steps, step_size=parts.step, checkpoints=[steps], **run
    )
    values = table.loc[table["iterate"] == "average", "max_gap"]
    best = minimise_max_gap(problem, schedule.lam)
    error = float(values.std() / np.sqrt(len(values))) if len(values) > 1 else 0.0
    known = {"F*": best.value, "step": parts.step, "fixed": parts.fixed, "T": float(steps),
             "reach": reach(problem, start), "SE": error}  # fmt: skip
    slack = 3 * error + best.certificate + 1e-9
    measured = float(values.mean()) - best.value
    return Checked(measured, parts.at(parts.step), "upper", known, slack)


def optimum_sensitivity(
    problem: LogLinear, lam: float, optimum_error: tuple[float, float]
) -> Checked:
    """Bound the cost of wrong f_i*: F_lambda - F_lambda* at the minimiser of the wrong F_lambda.

    With o_i added to f_i*, the two functions differ everywhere by between min and max of w_i o_i.
    So the cost is at most |lam o_D - (1 - lam) o_S|: an error common to both weighted optima costs
    nothing. Source: ours. What the minimiser found lacks, by duality, is part of the tolerance.
    """
    pair = np.array([1 - lam, lam])
    wrong = pair * optimum_error
    best = minimise_max_gap(problem, lam)
    optima = np.array([minimise(problem, w, tolerance=1e-13).value for w in (0.0, 1.0)])
    shifted = optima + np.asarray(optimum_error)
    found = _balanced(problem, pair, shifted)
    share = np.array([1 - found.lam, found.lam])
    below = (found.lower - share @ shifted) * pair.prod() / (share @ pair[::-1])
    lacking = float(np.max(pair * (found.losses - shifted)) - below)
    value = float(np.max(pair * (found.losses - optima)))
    limit = float(abs(wrong[0] - wrong[1]))
    known = {"F*": best.value, "matched": found.lam}
    slack = best.certificate + max(0.0, lacking) + 1e-9
    return Checked(value - best.value, limit, "upper", known, slack)


def _balanced(problem: LogLinear, pair: Array, optima: Array) -> Minimum:
    """Minimiser of max w_i (f_i - optima_i), by bisection on the lambda whose minimum it is."""
    low, high = 0.0, 1.0
    found = minimise(problem, 0.5)
    for _ in range(45):
        # At a minimiser the weighted sum is flat but the two losses are not: theta must be precise.
        found = minimise(problem, (low + high) / 2, tolerance=1e-13, start=found.theta)
        gaps = pair * (found.losses - optima)
        middle = (low + high) / 2
        low, high = (low, middle) if gaps[PREFERENCE] < gaps[0] else (middle, high)
    return found
