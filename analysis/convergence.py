"""Do the joint methods keep their promised rates? Measured gaps against the proven bounds.

Left: averaged iterates with the constant step of each horizon. Right: last iterates of one run
with the step D/(G sqrt t). Every bound is drawn with the method it bounds.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from tradeoff.convex import (
    LogLinear,
    StepSize,
    minimise,
    minimise_max_gap,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Alright, Maxright, Mix, Schedule
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants
from tradeoff.theory.joint import bound, step_size, variance_identity
from tradeoff.theory.maxright import maxright_bound, maxright_step

CAPTION = (
    "Mean of f_λ − min f_λ (Mix, ALRIGHT) and of F_λ − min F_λ (MAXRIGHT, exact values at each "
    "update), λ = 1/2, one random instance (d = 6); n = 256 replicas, what varies is the data "
    "drawn; shade: ±1.96 SE. Left: average of the iterates, each horizon with its own constant "
    "step. Right: last iterate of one run with step D/(G√t). Grey dashes: proven bounds, with "
    "the hollow marker of their method. Command: python -m analysis convergence."
)
METHODS: tuple[Schedule, ...] = (Mix(), Alright(), Maxright())
LEFT: dict[str, float] = {"Mix": -9, "ALRIGHT": 9, "MAXRIGHT": 0}
RIGHT: dict[str, float] = {"Mix": -6, "ALRIGHT": 3, "MAXRIGHT": 3}
Curve = dict[str, np.ndarray]


@cache
def instance() -> LogLinear:
    """Small, so that MAXRIGHT can afford both exact losses at every update."""
    return random_log_linear(
        3, prompts=4, responses=4, dimension=6, demonstrations=16, pairs=16, radius=3.0
    )


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = instance()
    replicas, top = (64, 3) if fast else (256, 5)
    horizons = np.geomspace(100, 10**top, 2 * (top - 2) + 1).round().astype(int)
    averaged = {m.label: average_curve(problem, m, horizons, replicas) for m in METHODS}
    last = {m.label: last_curve(problem, m, 10**top, replicas) for m in METHODS}
    with style.figure(1, 2, height=3.4, sharey=True) as (fig, (left, right)):
        draw_curves(left, averaged, "Averages fall faster than promised", LEFT)
        draw_curves(right, last, "Last iterates, far below their bound", RIGHT)
        left.set_ylabel("mean gap (nats)")
        style.save(fig, out, "convergence")
    return {
        "replicas": replicas,
        "averaged": averaged,
        "last": last,
        "bound_over_measured_average": {k: looseness(c) for k, c in averaged.items()},
        "bound_over_measured_last": {k: looseness(c) for k, c in last.items()},
        "slope_average": {k: slope(c) for k, c in averaged.items()},
        "slope_last": {k: slope(c) for k, c in last.items()},
    }


# ---------------------------------------------------------------------- measured and promised


def average_curve(
    problem: LogLinear, schedule: Schedule, horizons: np.ndarray, replicas: int
) -> Curve:
    """Gap of the averaged iterate at each horizon, run with that horizon's step."""
    points, bounds = [], []
    for steps in horizons.tolist():
        if isinstance(schedule, Maxright):
            size = maxright_step(problem, schedule, steps)
            bounds.append(maxright_bound(problem, schedule, steps))
        else:
            size, limit = step_size(problem, schedule, steps), bound(problem, schedule, steps)
            bounds.append(limit)
        runs = trajectories(
            problem, schedule, steps=steps, step_size=size, replicas=replicas, checkpoints=[steps]
        )
        points.append(excess(problem, schedule, runs.losses(problem, "average")[0]))
    return _curve(horizons, np.concatenate(points, axis=1), np.array(bounds))


def last_curve(problem: LogLinear, schedule: Schedule, steps: int, replicas: int) -> Curve:
    """Gap of the last iterate along one run with a decaying step, from update 10 on."""
    marks = np.unique(np.geomspace(10, steps, 25).round().astype(int))
    size, limits = last_bound(problem, schedule, marks)
    runs = trajectories(
        problem, schedule, steps=steps, step_size=size, replicas=replicas, checkpoints=marks
    )
    return _curve(marks, excess(problem, schedule, runs.losses(problem)[0]), limits)


def last_bound(
    problem: LogLinear, schedule: Schedule, marks: np.ndarray
) -> tuple[StepSize, np.ndarray]:
    """Step size D/(G sqrt t) and 2 D G (2 + log t)/sqrt t (Shamir & Zhang 2013, Theorem 2).

    The theorem is about any convex function with stochastic subgradients of second moment G^2, so
    it covers MAXRIGHT with exact values on F_lambda as well.
    """
    if isinstance(schedule, Maxright):
        norm = constants(problem).weighted_gradient(schedule.lam)
        width = 2 * problem.radius
        limits = 2 * width * norm * (2 + np.log(marks)) / np.sqrt(marks)
        return StepSize(width / norm, 0.5), limits
    limits = np.array([bound(problem, schedule, int(t), "last") for t in marks])
    return step_size(problem, schedule, int(marks[-1]), "last"), limits


def excess(problem: LogLinear, schedule: Schedule, losses: np.ndarray) -> np.ndarray:
    """What the method makes small, above its minimum: f_lambda, or F_lambda for MAXRIGHT."""
    pair = np.array([1 - schedule.lam, schedule.lam])
    if isinstance(schedule, Maxright):
        optima, least = max_gap_minimum(problem, schedule.lam)
        return np.asarray(np.max((losses - optima) * pair, axis=-1) - least)
    return np.asarray(losses @ pair - minimise(problem, schedule.lam).value)


@lru_cache(maxsize=64)
def max_gap_minimum(problem: LogLinear, lam: float) -> tuple[np.ndarray, float]:
    """(2,) minima of both losses, and min F_lambda."""
    optima = np.array([minimise(problem, weight).value for weight in (0.0, 1.0)])
    return optima, minimise_max_gap(problem, lam).value


def looseness(curve: Curve) -> float:
    """Bound over measured mean at the longest run."""
    return float(curve["bound"][-1] / curve["mean"][-1])


def slope(curve: Curve) -> float:
    """Exponent of the rate over the last decade: average first, then the log."""
    late = curve["steps"] >= curve["steps"][-1] / 10
    return float(np.polyfit(np.log(curve["steps"][late]), np.log(curve["mean"][late]), 1)[0])


def _curve(steps: np.ndarray, values: np.ndarray, limits: np.ndarray) -> Curve:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return {"steps": steps, "mean": values.mean(axis=0), "se": error, "bound": limits}


# ---------------------------------------------------------------------- drawing


def draw_curves(ax: Axes, curves: dict[str, Curve], title: str, apart: dict[str, float]) -> None:
    """One line and one bound per method on logarithmic axes; ``apart`` moves labels, in points."""
    for shift, (method, c) in enumerate(curves.items()):
        look, steps, mean = style.look(method), c["steps"], c["mean"]
        every = max(1, len(steps) // 6)
        ax.loglog(steps, mean, **look.line_style(markevery=every))
        band = np.array([np.maximum(mean - 1.96 * c["se"], 1e-9), mean + 1.96 * c["se"]])
        ax.fill_between(steps, *band, color=look.color, alpha=0.2, linewidth=0)
        hollow = {"marker": look.marker, "markerfacecolor": "w", "markersize": 5}
        ax.loglog(steps, c["bound"], **style.BOUND, **hollow, markevery=(shift, max(3, every)))
        ax.annotate(
            method,
            (steps[-1], mean[-1]),
            (5, apart[method]),
            textcoords="offset points",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    k = len(steps) // 2
    top = max(c["bound"][k] for c in curves.values())
    ax.annotate("proven bounds", (steps[k], top), (4, 7), textcoords="offset points", fontsize=8)
    ax.set(title=title, xlabel="updates")


# ---------------------------------------------------------------------- claims


def claim_alright_average(fast: bool = False) -> Checked:
    return _upper(average_curve(instance(), Alright(), _horizons(fast), 256), Alright())


def claim_mix_average(fast: bool = False) -> Checked:
    return _upper(average_curve(instance(), Mix(), _horizons(fast), 256), Mix())


def claim_maxright_average(fast: bool = False) -> Checked:
    return _upper(average_curve(instance(), Maxright(), _horizons(fast), 256), Maxright())


def claim_last_iterates(fast: bool = False) -> Checked:
    """All three methods on one line, one after another."""
    curves = [last_curve(instance(), m, 300 if fast else 3000, 256) for m in METHODS]
    joined = {key: np.concatenate([c[key] for c in curves]) for key in curves[0]}
    return _upper(joined, Alright())


def claim_price_of_alternating(fast: bool = False) -> Checked:
    """The identity at the start, at the optimum and at random points, for three weights."""
    problem, rng = instance(), np.random.default_rng(0)
    points = [0 * np.ones(6), minimise(problem, 0.5).theta, *rng.normal(size=(3, 6))]
    checks = [variance_identity(problem, lam, p) for lam in (0.1, 0.5, 0.8) for p in points]
    return Checked(
        np.array([c.measured for c in checks]),
        np.array([c.bound for c in checks]),
        "exact",
        {"points": float(len(checks))},
        1e-9,
    )


def _horizons(fast: bool) -> np.ndarray:
    return np.array([100, 300] if fast else [100, 1000, 4000])


def _upper(curve: Curve, schedule: Schedule) -> Checked:
    """Measured mean + 1.96 SE below the bound, with no further slack."""
    known = {"lam": schedule.lam, "largest_T": float(curve["steps"].max())}
    return Checked(curve["mean"] + 1.96 * curve["se"], curve["bound"], "upper", known, 0.0)


if __name__ == "__main__":
    main(Path("out"))
