"""T4 to T6: ALRIGHT and Mix, the price of alternating, and the best probability for a budget.

All bounds are for projected stochastic gradient on the ball, started at distance at most
``reach`` = R + |start| from the optimum. Only the proof for the last iterate compares iterates
with each other and needs the diameter D = 2R. For averages from the centre, ``reach`` is half of D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.quadratic import Quadratic
from tradeoff.convex.simulate import StepSize, simulate
from tradeoff.convex.solve import minimise
from tradeoff.schedules import PREFERENCE, SFT, Schedule
from tradeoff.settings import Positive, Share, Updates, checked
from tradeoff.theory._alike import kinds_of
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Horizon, constants, sample_gradients, step_over

Array = NDArray[np.float64]
Iterate = Literal["average", "last"]


def reach(problem: Any, start: ArrayLike | None = None) -> float:
    """Largest distance from the first iterate to any point of the ball: R + |start|."""
    if start is None:
        return float(problem.radius)
    norm = float(np.linalg.norm(problem.project(np.asarray(start, dtype=float))))
    return float(problem.radius) + norm


def second_moment_bound(problem: LogLinear, schedule: Schedule) -> float:
    """G^2 with E|g|^2 <= G^2 anywhere, for ALRIGHT (any probability) and Mix."""
    c, kinds = constants(problem), kinds_of(schedule, "T4")
    if len(kinds) == 1:
        return c.mixed_second_moment(schedule.lam)
    return float(sum(p * (weights @ c.gradients) ** 2 for p, weights in kinds))


@checked
def step_size(
    problem: LogLinear,
    schedule: Schedule,
    steps: Horizon,
    iterate: Iterate = "average",
    start: ArrayLike | None = None,
) -> StepSize:
    """Step size for which :func:`bound` holds: reach/(G sqrt T), or D/(G sqrt t) for "last"."""
    norm = float(np.sqrt(second_moment_bound(problem, schedule)))
    if iterate == "last":
        return StepSize(step_over(2 * problem.radius, norm), 0.5)
    return StepSize(step_over(reach(problem, start), norm) / float(np.sqrt(steps)))


@checked
def bound(
    problem: LogLinear,
    schedule: Schedule,
    steps: Horizon,
    iterate: Iterate = "average",
    start: ArrayLike | None = None,
) -> float:
    """Bound of T4 and T5 on E gap of f_lambda after ``steps`` updates.

    Average, constant step a: expanding |theta' - theta*|^2 and taking means,
    sum of E gap(theta_t) <= reach^2/(2a) + a T G^2/2; the best a gives reach G / sqrt T, and
    Jensen moves the mean inside. Last iterate, step D/(G sqrt t): 2 D G (2 + log T)/sqrt T
    (Shamir & Zhang 2013, Theorem 2, with c = D/G). Source: arXiv 2410.15483, Theorem 2.
    """
    norm = float(np.sqrt(second_moment_bound(problem, schedule)))
    if iterate == "last":
        return 4 * problem.radius * norm * (2 + float(np.log(steps))) / float(np.sqrt(steps))
    return reach(problem, start) * norm / float(np.sqrt(steps))


@checked
def joint_gap(
    problem: LogLinear,
    schedule: Schedule,
    steps: Updates,
    iterate: Iterate = "average",
    **run: Any,
) -> Checked:
    """Compare the mean gap of ALRIGHT or Mix over replicas with :func:`bound`.

    ``run`` goes to :func:`~tradeoff.convex.simulate.simulate` (replicas, seed, engine, start).
    """
    start = run.get("start")
    size = step_size(problem, schedule, steps, iterate, start)
    table = simulate(problem, schedule, steps=steps, step_size=size, checkpoints=[steps], **run)
    gaps = table.loc[table["iterate"] == iterate, "gap"]
    error = float(gaps.std() / np.sqrt(len(gaps))) if len(gaps) > 1 else 0.0
    limit = bound(problem, schedule, steps, iterate, start)
    norm = float(np.sqrt(second_moment_bound(problem, schedule)))
    known = {"G": norm, "D": 2 * problem.radius, "reach": reach(problem, start),
             "T": float(steps), "step": size.scale, "SE": error}  # fmt: skip
    return Checked(float(gaps.mean()), limit, "upper", known, 3 * error + 1e-9)


# ------------------------------------------------------------------ T5: the price of alternating


@dataclass(frozen=True)
class Moments:
    """Second moments of the sample gradients at one point.

    Attributes
    ----------
    sft, preference
        V_S = E|g_S|^2 and V_D = E|g_D|^2.
    inner
        grad f_S . grad f_D, which is E g_S . g_D for independent samples.
    """

    sft: float
    preference: float
    inner: float

    def alternating(self, lam: float, probability: float | None = None) -> float:
        """E|g|^2 of ALRIGHT that draws the preference objective with ``probability``."""
        p = lam if probability is None else probability
        pairs = ((lam, p, self.preference), (1 - lam, 1 - p, self.sft))
        return sum(w**2 / q * v for w, q, v in pairs if w > 0)

    def mixed(self, lam: float) -> float:
        """E|g|^2 of Mix on independent samples."""
        squares = lam**2 * self.preference + (1 - lam) ** 2 * self.sft
        return squares + 2 * lam * (1 - lam) * self.inner

    @property
    def difference(self) -> float:
        """E|g_D - g_S|^2 for independent samples."""
        return self.preference + self.sft - 2 * self.inner


def moments(problem: LogLinear | Quadratic, theta: Float[np.ndarray, " d"]) -> Moments:
    """Exact second moments over all data points (quadratics: gradient plus noise)."""
    mean = problem.gradients(theta)
    inner = float(mean[SFT] @ mean[PREFERENCE])
    if isinstance(problem, Quadratic):
        both = (mean**2).sum(axis=1) + np.trace(problem.noise, axis1=1, axis2=2)
        return Moments(float(both[SFT]), float(both[PREFERENCE]), inner)
    values = [0.0, 0.0]
    for objective in (SFT, PREFERENCE):
        gradients, weights = sample_gradients(problem, objective, theta)
        squares = gradients.multiply(gradients) if sp.issparse(gradients) else gradients**2
        values[objective] = float(weights @ np.asarray(squares.sum(axis=1)).ravel())
    return Moments(values[SFT], values[PREFERENCE], inner)


def variance_identity(problem: LogLinear, lam: float, theta: Float[np.ndarray, " d"]) -> Checked:
    """E|g_ALRIGHT|^2 - E|g_Mix|^2 = lam (1 - lam) E|g_D - g_S|^2, on independent samples.

    Proof: lam a^2 + (1 - lam) b^2 - |lam a + (1 - lam) b|^2 = lam (1 - lam) |a - b|^2 pointwise.
    ``measured`` is the left side by enumeration of every pair of data points; ``bound`` is the
    right side from :func:`moments`. It is never negative: per update Mix is never noisier. If one
    prompt serves both objectives, their samples are dependent. The pointwise identity then still
    holds, but E g_S . g_D is not the product of the means. Source: ours.
    """
    (s, p), (d, q) = (sample_gradients(problem, i, theta) for i in (SFT, PREFERENCE))
    s, d = (np.asarray(g.toarray() if sp.issparse(g) else g) for g in (s, d))
    mixed = sum(
        weight * float(q @ np.sum((lam * d + (1 - lam) * g) ** 2, axis=1))
        for weight, g in zip(p.tolist(), s, strict=True)
    )
    alternating = lam * float(q @ np.sum(d**2, axis=1)) + (1 - lam) * float(
        p @ np.sum(s**2, axis=1)
    )
    m = moments(problem, theta)
    price = lam * (1 - lam) * m.difference
    known = {"V_S": m.sft, "V_D": m.preference, "inner": m.inner, "lam": lam}
    return Checked(alternating - mixed, price, "exact", known, 1e-10 * (1 + alternating))


# ------------------------------------------------------------------ T6: equal compute


@checked
def optimal_probability(
    lam: Share,
    sft_moment: float,
    preference_moment: float,
    sft_cost: Positive = 1.0,
    preference_cost: Positive = 1.0,
) -> float:
    """Probability of the preference objective that is best for a compute budget.

    It minimises (mean cost) x (second moment) = (p c_D + (1-p) c_S)(a^2/p + b^2/(1-p)),
    a = lam sqrt V_D, b = (1-lam) sqrt V_S. By Cauchy-Schwarz that is at least
    (a sqrt c_D + b sqrt c_S)^2, with equality where p / (1-p) = (a / sqrt c_D) / (b / sqrt c_S).
    T4's bound at a budget is proportional to the root of the product, with V_i = E|g_i|^2. The gap
    itself is asymptotically proportional to the product with A_i = tr(H^-1 E g_i g_i') in place of
    V_i (T16, :func:`tradeoff.theory.asymptotics.equal_compute`). The two probabilities agree where
    H is a multiple of the identity. Source: ours.
    """
    preference = lam * float(np.sqrt(preference_moment / preference_cost))
    sft = (1 - lam) * float(np.sqrt(sft_moment / sft_cost))
    return lam if preference + sft == 0 else preference / (preference + sft)


def cost_times_moment(
    lam: float,
    probability: float,
    m: Moments,
    sft_cost: float = 1.0,
    preference_cost: float = 1.0,
) -> float:
    """(p c_D + (1-p) c_S)(lam^2 V_D/p + (1-lam)^2 V_S/(1-p)), by which T6 compares methods.

    E gap of an average is proportional to it, to first order, where the curvature is the same in
    all directions; T16 is exact. T4's bound on the gap is proportional to its root.
    """
    cost = probability * preference_cost + (1 - probability) * sft_cost
    return cost * m.alternating(lam, probability)


def best_product(
    lam: float, m: Moments, sft_cost: float = 1.0, preference_cost: float = 1.0
) -> float:
    """The least :func:`cost_times_moment`: (lam sqrt(V_D c_D) + (1-lam) sqrt(V_S c_S))^2."""
    preference = lam * float(np.sqrt(m.preference * preference_cost))
    return (preference + (1 - lam) * float(np.sqrt(m.sft * sft_cost))) ** 2


@checked
def compute_ratio(
    problem: LogLinear | Quadratic,
    lam: Share,
    sft_cost: Positive = 1.0,
    preference_cost: Positive = 1.0,
) -> float:
    """Bound on budget-optimal ALRIGHT's gap over that on Mix's, at equal compute.

    Below 1, alternation has the smaller bound. The ratio is the root of ``best_product`` over
    (c_D + c_S) E|g_Mix|^2, with moments at the minimiser of f_lambda. It is a rule of thumb:
    :func:`tradeoff.theory.asymptotics.equal_compute` has the exact limit of the ratio of gaps.

    Equal costs: alternation wins iff (a + b)^2 < 2 (a^2 + b^2 + 2 lam (1-lam) inner).
    At an interior minimiser inner <= 0 always (lam grad f_D = -(1-lam) grad f_S), so there
    alternation can win only if sampling noise outweighs the conflict. The ratio is infinite where
    Mix has no noise at the optimum, as with one data point per objective. Source: ours.
    """
    m = moments(problem, minimise(problem, lam).theta)
    mix = (sft_cost + preference_cost) * m.mixed(lam)
    if mix <= 1e-14 * m.alternating(lam):
        return float("inf")
    return float(np.sqrt(best_product(lam, m, sft_cost, preference_cost) / mix))
