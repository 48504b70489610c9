"""T8: on a pair of noisy quadratics the first two moments of a run are known in closed form.

An update with step size a is theta' = A theta + b - a n with A = I - a sum c_i H_i,
b = a sum c_i H_i a_i and noise n. The factors c are drawn anew at each update, independently of
theta. So m = E theta and M = E theta theta' obey linear recursions, with any step sizes. This holds
for every plan that draws at random or follows both objectives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from tradeoff.convex.quadratic import Quadratic
from tradeoff.convex.simulate import StepSize, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.schedules import Plan, Schedule
from tradeoff.theory.checked import Checked
from tradeoff.theory.measured import standard_error

Array = NDArray[np.float64]


def moments_of_run(
    problem: Quadratic, plan: Plan, alphas: Float[np.ndarray, " T"], start: ArrayLike | None = None
) -> tuple[Float[np.ndarray, "T1 d"], Float[np.ndarray, "T1 d d"]]:
    """E theta_t and E theta_t theta_t' for t = 0..T.

    Raises
    ------
    InputError
        For a finite radius (projection is not linear) or a LARGER_GAP plan (the choice depends on
        theta).
    """
    _check(problem, plan)
    d, eye = problem.dimension, np.eye(problem.dimension)
    mean = np.zeros((len(plan) + 1, d))
    second = np.zeros((len(plan) + 1, d, d))
    mean[0] = np.zeros(d) if start is None else np.asarray(start, dtype=float)
    second[0] = np.outer(mean[0], mean[0])
    pull = np.einsum("ide,ie->id", problem.hessians, problem.centres)
    for t, alpha in enumerate(alphas):
        for chance, factors in plan.kinds(t):
            if not chance:
                continue
            a = eye - alpha * np.tensordot(factors, problem.hessians, axes=1)
            b = alpha * (factors @ pull)
            noise = alpha**2 * np.tensordot(factors**2, problem.noise, axes=1)
            am = a @ mean[t]
            cross = np.outer(am, b)
            mean[t + 1] += chance * (am + b)
            second[t + 1] += chance * (
                a @ second[t] @ a.T + cross + cross.T + np.outer(b, b) + noise
            )
    return mean, second


def expected_losses(
    problem: Quadratic,
    schedule: Schedule,
    steps: int,
    step_size: float | StepSize,
    start: ArrayLike | None = None,
) -> Float[np.ndarray, "T1 2"]:
    """E (f_SFT, f_preference) after t = 0..T updates.

    E f_i = tr(H_i E (theta - a_i)(theta - a_i)')/2, from the two moments.
    """
    plan = schedule.plan(steps)
    size = step_size if isinstance(step_size, StepSize) else StepSize(step_size)
    mean, second = moments_of_run(problem, plan, size.of(plan), start)
    columns = []
    for centre, hessian in zip(problem.centres, problem.hessians, strict=True):
        square = np.einsum("de,tde->t", hessian, second)
        columns.append(0.5 * (square - 2 * mean @ hessian @ centre + centre @ hessian @ centre))
    return np.stack(columns, axis=-1)


def expected_gap(
    problem: Quadratic,
    schedule: Schedule,
    steps: int,
    step_size: float | StepSize,
    start: ArrayLike | None = None,
) -> Float[np.ndarray, " T1"]:
    """E gap of f_lambda after t = 0..T updates."""
    losses = expected_losses(problem, schedule, steps, step_size, start)
    optimum = value(problem, schedule.lam)
    return np.asarray(losses @ [1 - schedule.lam, schedule.lam] - optimum)


def monte_carlo(
    problem: Quadratic,
    schedule: Schedule,
    steps: int,
    step_size: float | StepSize,
    *,
    standard_errors: float = 4.5,
    **run: Any,
) -> Checked:
    """Compare the mean gap over replicas at every record with the closed form.

    The closed form is exact in expectation, so both agree within sampling error.
    ``standard_errors`` allows for the largest of many records: among a thousand normal ones, one
    exceeds 4.5 with probability 0.7 %.
    """
    runs = trajectories(problem, schedule, steps=steps, step_size=step_size, **run)
    weights = np.array([1 - schedule.lam, schedule.lam])
    gaps = runs.losses(problem)[0] @ weights - value(problem, schedule.lam)
    error = standard_error(gaps)
    exact = expected_gap(problem, schedule, steps, step_size, run.get("start"))[runs.checkpoints]
    worst = float(np.max(np.abs(gaps.mean(axis=0) - exact) / np.maximum(error, 1e-12)))
    known = {"replicas": float(len(gaps)), "largest z": worst}
    return Checked(gaps.mean(axis=0), exact, "exact", known, standard_errors * error + 1e-9)


def value(problem: Quadratic, lam: float) -> float:
    """V(lam) = min f_lambda on the whole space."""
    weights = np.array([1 - lam, lam])
    return float(weights @ problem.losses(_minimiser(problem, weights)))


# ------------------------------------------------------------------ soups


def soup_gap(problem: Quadratic, shares: float | ArrayLike) -> Checked:
    """Bound the distance of a soup (1-s) a_0 + s a_1 of the two optima from the front.

    ``measured`` is min over l of f_l(soup) - V(l), which is zero iff the soup is Pareto optimal.
    ``bound`` is the squared length of the shortest convex combination of the two gradients over
    2 L. The gradients are s H_0 v and -(1-s) H_1 v with v = a_1 - a_0, so the soup is on the front
    iff H_0 v and H_1 v are parallel. For one pair of centres that means: v is an eigenvector of
    H_0^-1 H_1. It holds for every pair of centres iff the Hessians are proportional. Source: ours.
    """
    s = np.atleast_1d(np.asarray(shares, dtype=float))
    v = problem.centres[1] - problem.centres[0]
    points = problem.centres[0] + s[:, None] * v
    gradients = problem.gradients(points)
    top = float(np.linalg.eigvalsh(problem.hessians)[:, -1].max())
    gaps = [_front_gap(problem, losses) for losses in problem.losses(points)]
    bounds = [shortest_combination(g[0], g[1]) ** 2 / (2 * top) for g in gradients]
    known = {"L": top, "misalignment": misalignment(problem)}
    return Checked(np.array(gaps), np.array(bounds), "lower", known, 1e-9)


def misalignment(problem: Quadratic) -> float:
    """Sine of the angle between H_0 v and H_1 v, v = a_1 - a_0: zero iff soups trace the front."""
    p, q = problem.hessians @ (problem.centres[1] - problem.centres[0])
    if not (np.any(p) and np.any(q)):  # one centre: the soup and the front are that point
        return 0.0
    p, q = p / np.linalg.norm(p), q / np.linalg.norm(q)
    return float(np.linalg.norm(q - (p @ q) * p))


def shortest_combination(p: Array, q: Array) -> float:
    """Length of the shortest vector on the segment from p to q (two-objective MGDA)."""
    apart = p - q
    squared = float(apart @ apart)
    share = 0.0 if squared == 0 else float(np.clip(-(q @ apart) / squared, 0, 1))
    return float(np.linalg.norm(q + share * apart))


def _front_gap(problem: Quadratic, losses: Array) -> float:
    def excess(lam: float) -> float:
        return float(losses @ [1 - lam, lam]) - value(problem, lam)

    found = minimize_scalar(excess, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-10})
    return float(min(found.fun, excess(0.0), excess(1.0)))


def _minimiser(problem: Quadratic, weights: Array) -> Array:
    if np.isfinite(problem.radius):
        return minimise(problem, float(weights[1])).theta
    hessian = np.tensordot(weights, problem.hessians, axes=1)
    pull = np.einsum("i,ide,ie->d", weights, problem.hessians, problem.centres)
    return np.asarray(np.linalg.solve(hessian, pull))


def _check(problem: Quadratic, plan: Plan) -> None:
    if np.isfinite(problem.radius):
        raise InputError(
            "projection makes the moments of a run nonlinear",
            field="radius",
            value=problem.radius,
            remedy="Use radius=inf.",
        )
    if plan.watched:
        raise InputError(
            "the choice depends on the iterate, so the moments obey no recursion",
            field="rule",
            value=plan.rule.name,
            remedy="Use a schedule that draws at random or follows both objectives.",
        )
