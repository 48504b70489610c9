"""T18: the limits of the DPO minimiser as beta tends to zero and to infinity.

They describe what a sequential run keeps. theta_b is the minimiser of f_DPO on the ball,
delta_j = phi(chosen) - phi(rejected), w_j the weights of the pairs, s the label smoothing.

Small beta. The slope of pair j is beta (s - sigma(-beta m_j)), and |sigma(-x) - 1/2| <= |x|/4. So
-grad f_DPO / beta is within beta M / 4 of (1/2 - s) mean(delta), M the mean of |delta| max|m|.
Where beta M / 4 is less than the length of that vector, the minimiser is on the boundary, at
-R grad/|grad|, and

    |theta_b - R mean(delta)/|mean(delta)||  <=  R beta M / ((1 - 2 s) |mean(delta)|).

Large beta, unsmoothed labels that one policy satisfies. Let m* > 0 be the least margin over the
pairs, maximised over the ball. f_DPO(theta_b) <= exp(-beta m*), and it is at least
min w_j log(2) exp(-beta min m_j). So

    m* - min_j m_j(theta_b)  <=  log(1 / (min w_j log 2)) / beta:

theta_b tends to the hard-margin point for every reference. Duality certifies m*:
m* <= R |sum q_j delta_j| - sum q_j shift_j for every q of the simplex. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.tails import Tail, smallest_on_ball
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE
from tradeoff.theory.checked import Checked
from tradeoff.theory.growth import locate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HardMargin:
    """The point of the ball whose least margin is largest.

    Attributes
    ----------
    theta
        (d,) the point found.
    margin
        Its least margin over the reference policy.
    upper
        Certified upper bound on the least margin of any point of the ball.
    """

    theta: Float[np.ndarray, " d"]
    margin: float
    upper: float


def hard_margin(problem: LogLinear, sharpness: float = 1e7) -> HardMargin:
    """Maximise the least margin on the ball, through a log-sum-exp that approximates it.

    Parameters
    ----------
    problem
        Only its pairs of positive weight, its reference and its radius are used.
    sharpness
        Inverse temperature of the log-sum-exp, times the widest possible margin. The error is about
        log(J) / ``sharpness`` of the widest margin, for J pairs.
    """
    used = problem.preference_weights > 0
    delta, shift = problem.dense_differences[used], problem.margin_shift[used]
    widest = problem.radius * float(np.max(np.linalg.norm(delta, axis=1)))
    t = sharpness / max(widest, 1e-300)
    tail = Tail(-t * delta, t * shift, np.arange(len(shift)), np.zeros(len(shift)))
    theta = smallest_on_ball(tail, problem.radius)
    logits = t * (shift - delta @ theta)
    q = np.exp(logits - logits.max())
    q /= q.sum()
    upper = problem.radius * float(np.linalg.norm(q @ delta)) - float(q @ shift)
    return HardMargin(theta, float(np.min(delta @ theta - shift)), upper)


def small_beta(problem: LogLinear, betas: Sequence[float]) -> Checked:
    """Compare |theta_b - R mean(delta)/|mean(delta)|| with its bound, linear in beta.

    Raises
    ------
    InputError
        If the pairs cancel, so that there is no mean direction.
    """
    weights, delta = problem.preference_weights, problem.dense_differences
    mean, lengths = weights @ delta, np.linalg.norm(delta, axis=1)
    size = float(np.linalg.norm(mean))
    if not size > 0:
        raise InputError(
            "the pairs cancel: their mean difference is zero",
            field="chosen",
            remedy="Give pairs that do not all come in both directions.",
        )
    spread = weights @ (lengths * (problem.radius * lengths + np.abs(problem.margin_shift)))
    scale = problem.radius * float(spread) / ((1 - 2 * problem.label_smoothing) * size)
    limit = problem.radius / size * mean
    found = [locate(replace(problem, beta=float(beta)), PREFERENCE) for beta in betas]
    apart = np.array([float(np.linalg.norm(f.minimum.theta - limit)) for f in found])
    bound = np.minimum(scale * np.asarray(betas, dtype=float), 2 * problem.radius)
    slack = np.array([f.distance for f in found]) + 1e-9 * problem.radius
    return Checked(apart, bound, "upper", {"R": problem.radius, "|mean delta|": size}, slack)


def large_beta(problem: LogLinear, betas: Sequence[float]) -> Checked:
    """Compare m* - min_j m_j(theta_b) with log(1/(min w log 2))/beta, for unsmoothed labels.

    Raises
    ------
    InputError
        If labels are smoothed, or no policy of the ball ranks every pair as labelled.
    """
    hardest = hard_margin(problem)
    if problem.label_smoothing or not hardest.margin > 0:
        raise InputError(
            "no policy of the ball satisfies every pair, or labels are smoothed",
            field="label_smoothing" if problem.label_smoothing else "chosen",
            remedy="The limit of large beta is stated for pairs that one policy satisfies.",
        )
    used = problem.preference_weights > 0
    delta, shift = problem.dense_differences[used], problem.margin_shift[used]
    least = float(problem.preference_weights[used].min())
    short, slack = [], []
    for beta in betas:
        found = locate(replace(problem, beta=float(beta)), PREFERENCE)
        short.append(hardest.upper - float(np.min(delta @ found.minimum.theta - shift)))
        slack.append(hardest.upper - hardest.margin + 1e-12 * problem.radius)
        slack[-1] += float(np.linalg.norm(delta, axis=1).max()) * found.distance
    bound = np.log(1 / (least * np.log(2))) / np.asarray(betas, dtype=float)
    known = {"m*": hardest.margin, "min w": least}
    return Checked(np.array(short), bound, "upper", known, np.array(slack))
