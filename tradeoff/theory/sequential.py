"""T3: the gap that sequential training keeps, bounded on every instance (arXiv 2410.15483, Thm 1).

Stage a, then stage b. If stage b converges to the minimiser theta_b of f_b on the ball, the gap of
f_lambda converges to its value at theta_b. That limit does not depend on the start or on stage a.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex.certify import Minimum, Point, frank_wolfe_gap, length
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import StepSize, simulate, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.display import cell
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE, SFT, Sequential
from tradeoff.settings import Share, Updates, checked
from tradeoff.theory.certificates import gradient_of, projected_step
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Horizon, Objective, constants, step_over
from tradeoff.theory.growth import growth, locate

Array = NDArray[np.float64]
First = Literal["sft", "preference"]
Rate = Literal["average", "last", "full"]


@dataclass(frozen=True, repr=False)
class LimitGap:
    """The gap of f_lambda that sequential training ends with.

    Attributes
    ----------
    last
        Certified minimiser of the second stage's objective: the computed theta_b.
    distance
        Upper bound on the distance from it to theta_b.
    gap
        f_lambda - f_lambda* at ``last``.
    enclosure
        Certified bounds on the gap at theta_b itself (T18).
    slope
        |grad f_lambda| at ``last``.
    lower, upper
        T2's bounds at ``last``.
    interior
        The check of gap >= w_a^2 |grad f_a(theta_b)|^2 / (2 L); ``None`` where its conditions fail.
    """

    last: Minimum
    distance: float
    gap: float
    enclosure: tuple[float, float]
    slope: float
    lower: Checked
    upper: Checked
    interior: Checked | None

    @property
    def converged(self) -> bool:
        """Whether the enclosure is narrow: a thousandth of the gap, or 1e-6 nats."""
        low, high = self.enclosure
        return bool(high - low <= max(1e-6, 1e-3 * high))

    def __repr__(self) -> str:
        low, high = (cell(float(end)) for end in self.enclosure)
        doubt = "" if self.converged else ", did not converge"
        return f"LimitGap({cell(float(self.gap))}, certified in [{low}, {high}]{doubt})"


@checked
def limit_gap(
    problem: LogLinear, lam: Share, first: First = "sft", *, tolerance: float | None = None
) -> LimitGap:
    """Compute T3's limit gap with its lower and upper bound.

    Parameters
    ----------
    problem, lam, first
        The problem, the weight of the preference objective, and the objective trained first. The
        limit is the minimiser of the other.
    tolerance
        Certificate, in nats, at which the search for theta_b stops; by default rounding stops it.

    Notes
    -----
    Proof: T2 for f_lambda at theta_b. If theta_b is interior, grad f_b(theta_b) = 0 and so
    grad f_lambda = w_a grad f_a. A full gradient step of size 1/L then gains |g|^2/(2 L), provided
    that it stays in the ball. An interior theta_b is not enough for that, since the minimum is
    taken over the ball too. Where the step leaves the ball, ``lower`` still holds. The limit is
    zero iff theta_b minimises f_lambda too. Source: arXiv 2410.15483, Theorem 1 (existence of an
    instance); for every instance and two-sided: ours.

    Enclosure (T18): let theta_b be within r of the computed point. Convexity and smoothness give
    gap - |g| r <= gap(theta_b) <= gap + |g| r + (L/2) r^2, g = grad f_lambda. No slope is steeper
    than G_lambda, so gap + G_lambda r is an upper bound too. r is ``distance``, which is large
    where theta_b need not be unique. Source: ours.
    """
    b = SFT if first == "preference" else PREFERENCE
    located = locate(problem, b, tolerance=tolerance)
    last = located.minimum
    weights = np.array([1 - lam, lam])
    best = minimise(problem, lam, tolerance=1e-13)
    here = Point.at(problem, last.theta, weights)
    gap = here.value - best.value
    smooth = constants(problem).smoothness(lam)
    gradient, r = here.model.gradient, located.distance
    slope = length(gradient)
    won, moved = projected_step(problem, last.theta, gradient, smooth)
    known = {"L": smooth, "R": problem.radius, "|g|": slope, "step": moved}
    noise = best.certificate + here.value_error + 1e-12
    slack = noise + here.gap_error
    above = frank_wolfe_gap(last.theta, gradient, problem.radius)
    reach = (slope + here.rounding.gradient) * r
    steepest = float(weights @ constants(problem).gradients)
    high = gap + min(reach + smooth / 2 * r**2, steepest * r)
    enclosure = max(0.0, gap - reach - noise), high + noise
    lower = Checked(gap, won, "lower", known, slack)
    upper = Checked(gap, above, "upper", known, slack)
    interior = _interior(problem, last.theta, b, weights, lower)
    return LimitGap(last, r, gap, enclosure, slope, lower, upper, interior)


def _interior(
    problem: LogLinear, theta: Array, b: int, weights: Array, lower: Checked
) -> Checked | None:
    """The simple lower bound, if theta_b and a full step from it are inside the ball."""
    gradients, smooth = problem.gradients(theta), lower.constants["L"]
    residual = length(gradients[b])
    step = weights @ gradients / smooth if smooth > 0 else np.inf
    if not (residual < 1e-6 and np.linalg.norm(theta - step) <= problem.radius):
        return None
    stage_a = length(gradients[1 - b])
    simple = (weights[1 - b] * stage_a) ** 2 / (2 * smooth)
    known = {**lower.constants, "w_a": weights[1 - b], "|grad f_a|": stage_a}
    slack = float(np.max(lower.tolerance)) + residual * lower.constants["|g|"] / smooth
    return Checked(lower.measured, simple, "lower", known, slack)


@checked
def rate_of(problem: LogLinear, objective: Objective, steps: Horizon, rate: Rate) -> float:
    """Bound on E f_b - f_b* after ``steps`` updates of one objective alone, for any start.

    "average": D G / sqrt(T), step D/(G sqrt T). "last": 2 D G (2 + log T)/sqrt(T), step
    D/(G sqrt t) (Shamir & Zhang 2013, Theorem 2). "full": exact gradients with step 1/L,
    L D^2/(2 T).
    """
    c = constants(problem)
    if rate == "full":
        return c.smoothness(float(objective)) * c.diameter**2 / (2 * steps)
    # The functions of `math` take whole numbers of any size.
    base = c.diameter * c.gradients[objective] / math.sqrt(steps)
    return base if rate == "average" else 2 * base * (2 + math.log(steps))


@checked
def stage_step(problem: LogLinear, objective: Objective, steps: Horizon, rate: Rate) -> StepSize:
    """Step size of a stage of ``steps`` updates for which :func:`rate_of` holds."""
    c = constants(problem)
    if rate == "full":
        return StepSize(step_over(1.0, c.smoothness(float(objective))))
    scale = step_over(c.diameter, c.gradients[objective])
    return StepSize(scale, 0.5) if rate == "last" else StepSize(scale / float(np.sqrt(steps)))


@checked
def remaining_gap(
    problem: LogLinear, lam: Share, steps: Horizon, first: First = "sft", rate: Rate = "average"
) -> float:
    """T3 at finite T: a lower bound on E gap after ``steps`` updates of the second stage.

    Proof: f_lambda is convex, so gap(theta) >= gap(theta_b) - |grad f_lambda(theta_b)| r with
    r = |theta - theta_b|. Growth of f_b about theta_b gives E r <= sqrt(2 E(f_b - f_b*)/mu). The
    gradient at theta_b replaces the Lipschitz constant G_lambda of f_lambda, and growth replaces
    strong convexity on the ball. Both make the bound sharper. Source: ours.
    """
    b = SFT if first == "preference" else PREFERENCE
    limit, mu = limit_gap(problem, lam, first), growth(problem, b).mu
    distance = np.sqrt(2 * rate_of(problem, b, steps, rate) / mu)
    return limit.gap - limit.slope * float(min(distance, 2 * problem.radius))


@checked
def half_gap_steps(
    problem: LogLinear, lam: Share, first: First = "sft", rate: Rate = "average"
) -> int:
    """Updates of stage b after which at least half of the limit gap remains for ever.

    The least T with rate_of(T) <= mu gap^2 / (8 |grad f_lambda(theta_b)|^2). Source: ours.

    Raises
    ------
    InputError
        If there is no gap, or T is above 2^1000.
    """
    b = SFT if first == "preference" else PREFERENCE
    limit, mu = limit_gap(problem, lam, first), growth(problem, b).mu
    if not limit.gap > 1e-12:
        raise InputError(
            "the objectives do not conflict at this weight: there is no gap to keep",
            field="lam",
            value=lam,
            remedy="Use a weight for which `limit_gap` is positive.",
        )
    target = mu * limit.gap**2 / (8 * limit.slope**2)
    low, high = 1, 8
    while rate_of(problem, b, high, rate) > target:
        if high >= 2**1000:
            raise InputError(
                "more than 2^1000 updates: the second stage hardly grows about its minimiser",
                field="radius",
                value=problem.radius,
                remedy="Use a smaller radius.",
            )
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rate_of(problem, b, middle, rate) <= target else (middle, high)
    return high


@checked
def measured_gap(
    problem: LogLinear,
    lam: Share,
    steps: Updates,
    first: First = "sft",
    rate: Rate = "average",
    **run: Any,
) -> Checked:
    """Compare E gap of simulated runs with two stages of ``steps`` updates with T3's bound.

    ``run`` goes to :func:`~tradeoff.convex.simulate.simulate` (replicas, seed, engine, start).
    """
    b = SFT if first == "preference" else PREFERENCE
    full = rate == "full"
    table = simulate(
        problem,
        Sequential(lam=lam, first=first, share=0.5),
        steps=2 * steps,
        step_size=stage_step(problem, b, steps, rate),
        checkpoints=[2 * steps],
        gradients="full" if full else "stochastic",
        **({**run, "replicas": 1} if full else run),
    )
    gaps = table.loc[table["iterate"] == ("average" if rate == "average" else "last"), "gap"]
    error = float(gaps.std() / np.sqrt(len(gaps))) if len(gaps) > 1 else 0.0
    bound = remaining_gap(problem, lam, steps, first, rate)
    known = {"limit": limit_gap(problem, lam, first).gap, "T_b": float(steps), "SE": error}
    return Checked(float(gaps.mean()), bound, "lower", known, 3 * error + 1e-9)


@dataclass(frozen=True)
class Splits:
    """Gaps of sequential training with exact gradients, for several splits of the budget.

    Attributes
    ----------
    shares
        (K,) fraction of the updates given to the first stage.
    gaps
        (K,) gaps of f_lambda at the end, each with its own certified lower bound.
    best
        Smallest gap over the splits.
    """

    shares: Float[np.ndarray, " K"]
    gaps: Checked
    best: float


@checked
def budget_splits(
    problem: LogLinear, lam: Share, steps: Updates, shares: ArrayLike, first: First = "sft"
) -> Splits:
    """Gap of sequential training for every split of the budget between the stages.

    Runs use full gradients and the step 1/max(L_SFT, L_DPO). Each gap is compared with T2's lower
    bound at the end of the run. That bound is positive unless the run ends exactly at the optimum.
    In one dimension some split does end there; in more dimensions generically none does. Source:
    ours.
    """
    portions = np.atleast_1d(np.asarray(shares, dtype=float))
    c = constants(problem)
    step = step_over(1.0, max(c.mean_sft_smoothness, c.mean_preference_smoothness))
    schedules = [Sequential(lam=lam, first=first, share=float(s)) for s in portions]
    runs = trajectories(
        problem, schedules, steps=steps, step_size=step, replicas=1,
        checkpoints=[steps], gradients="full",
    )  # fmt: skip
    thetas = runs.last[:, 0, 0]
    best = minimise(problem, lam, tolerance=1e-13)
    gaps = problem.losses(thetas) @ [1 - lam, lam] - best.value
    smooth = c.smoothness(lam)
    bounds = [projected_step(problem, t, gradient_of(problem, lam, t), smooth)[0] for t in thetas]
    found = Checked(gaps, np.array(bounds), "lower", {"L": smooth}, best.certificate + 1e-12)
    return Splits(portions, found, float(gaps.min()))


@checked
def beta_sweep(
    problem: LogLinear, lam: Share, betas: Sequence[float], first: First = "sft"
) -> Checked:
    """Compare the limit gap for every beta with T2's bound: beta alone does not remove the gap.

    The limit gap is zero iff theta_b minimises f_lambda too. That may happen at a finite beta: with
    every pair given in both directions and the SFT optimum as reference, theta_b is that optimum
    and nothing is forgotten. Elsewhere T2 bounds the gap at each beta from below. The limits of
    theta_b for small and large beta are in :mod:`tradeoff.theory.beta_limits`. Source: ours.
    """
    limits = [limit_gap(replace(problem, beta=float(b)), lam, first) for b in betas]
    gaps = np.array([limit.gap for limit in limits])
    bounds = np.array([limit.lower.bound for limit in limits], dtype=float)
    tolerance = max((float(np.max(limit.lower.tolerance)) for limit in limits), default=0.0)
    return Checked(gaps, bounds, "lower", {"lam": lam}, tolerance)
