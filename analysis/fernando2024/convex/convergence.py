"""Do the joint methods converge at their proven rates? Measured gaps against the bounds.

Left: averaged iterates with the constant step of each horizon. Right: last iterates of one run with
the step D/(G sqrt t). Every method is drawn with its bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import COIN, UNTRAINED, mutate, wrong_methods
from analysis.fernando2024.convex.cases import cases
from analysis.fernando2024.methods import label
from tradeoff.convex import (
    LogLinear,
    StepSize,
    binary_example,
    minimise,
    minimise_max_gap,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Alright, Maxright, Mix, Schedule
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants
from tradeoff.theory.joint import bound, moments, step_size, variance_identity
from tradeoff.theory.maxright import maxright_bound, maxright_step

CAPTION = (
    "How do the methods compare with their proven rates? Mean of f_λ − min f_λ (Mix, ALRIGHT) and "
    "of F_λ − min F_λ (MAXRIGHT), λ = 1/2, one instance (d = 6), step sizes of the theorems. "
    "Dashes: bounds. Dotted: untrained policy. At the end, averages are {average} times and last "
    "iterates {last} times smaller than their bounds. n = {replicas} replicas; the data drawn "
    "varies; interval: ±1.96 SE. Command: python -m analysis convergence."
)
METHODS: tuple[Schedule, ...] = (Mix(), Alright(), Maxright())
LEFT: dict[str, float] = {"mix": -9, "alright": 9, "maxright": 0}
RIGHT: dict[str, float] = {"mix": -6, "alright": 3, "maxright": 3}
Curve = dict[str, np.ndarray]


@cache
def instance() -> LogLinear:
    """A problem small enough for MAXRIGHT to compute both exact losses at every update."""
    return random_log_linear(
        3, prompts=4, responses=4, dimension=6, demonstrations=16, pairs=16, radius=3.0
    )


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = instance()
    replicas, top = (64, 3) if fast else (256, 5)
    horizons = np.geomspace(100, 10**top, 2 * (top - 2) + 1).round().astype(int)
    averaged = {m.key: average_curve(problem, m, horizons, replicas) for m in METHODS}
    last = {m.key: last_curve(problem, m, 10**top, replicas) for m in METHODS}
    with style.figure(1, 2, height=3.4, sharey=True) as (fig, (left, right)):
        draw_curves(left, averaged, "Averages, with constant steps", LEFT)
        draw_curves(right, last, "Last iterates, with steps D/(G√t)", RIGHT)
        for ax in (left, right):
            ax.axhline(untrained(problem, Mix()), color="0.5", linewidth=0.8, linestyle=":")
        left.set_ylabel("mean gap (nats)")
        style.save(fig, out, "convergence")
    return {
        "replicas": replicas,
        "averaged": averaged,
        "last": last,
        "untrained": {m.key: untrained(problem, m) for m in METHODS},
        "bound_over_measured_average": {k: looseness(c) for k, c in averaged.items()},
        "bound_over_measured_last": {k: looseness(c) for k, c in last.items()},
        "slope_average": {k: slope(c) for k, c in averaged.items()},
        "slope_last": {k: slope(c) for k, c in last.items()},
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    found = {"replicas": str(numbers["replicas"])}
    for name, key in (("average", "average"), ("last", "last")):
        values = numbers[f"bound_over_measured_{key}"].values()
        found[name] = f"{min(values):.0f} to {max(values):.0f}"
    return found


# ---------------------------------------------------------------------- measured and promised


def average_curve(
    problem: LogLinear, schedule: Schedule, horizons: np.ndarray, replicas: int
) -> Curve:
    """Gap of the averaged iterate at each horizon, each run with the step of that horizon."""
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

    The theorem holds for any convex function with stochastic subgradients of second moment G^2.
    It therefore also covers MAXRIGHT with exact values on F_lambda.
    """
    if isinstance(schedule, Maxright):
        norm = constants(problem).weighted_gradient(schedule.lam)
        width = 2 * problem.radius
        limits = 2 * width * norm * (2 + np.log(marks)) / np.sqrt(marks)
        return StepSize(width / norm, 0.5), limits
    limits = np.array([bound(problem, schedule, int(t), "last") for t in marks])
    return step_size(problem, schedule, int(marks[-1]), "last"), limits


def excess(problem: LogLinear, schedule: Schedule, losses: np.ndarray) -> np.ndarray:
    """The method's objective less its minimum: of f_lambda, or of F_lambda for MAXRIGHT."""
    pair = np.array([1 - schedule.lam, schedule.lam])
    if isinstance(schedule, Maxright):
        optima, least = max_gap_minimum(problem, schedule.lam)
        return np.asarray(np.max((losses - optima) * pair, axis=-1) - least)
    return np.asarray(losses @ pair - minimise(problem, schedule.lam).value)


def untrained(problem: LogLinear, schedule: Schedule) -> float:
    """Gap of the untrained policy in the method's objective."""
    return float(excess(problem, schedule, problem.losses(np.zeros((1, problem.dimension))))[0])


@lru_cache(maxsize=256)
def max_gap_minimum(problem: LogLinear, lam: float) -> tuple[np.ndarray, float]:
    """(2,) minima of both losses, and min F_lambda."""
    optima = np.array([minimise(problem, weight).value for weight in (0.0, 1.0)])
    return optima, minimise_max_gap(problem, lam).value


def looseness(curve: Curve) -> float:
    """Ratio of bound to measured mean at the longest run."""
    return float(curve["bound"][-1] / curve["mean"][-1])


def slope(curve: Curve) -> float:
    """Exponent of the measured rate over the last decade of updates, fitted to the mean gaps."""
    late = curve["steps"] >= curve["steps"][-1] / 10
    return float(np.polyfit(np.log(curve["steps"][late]), np.log(curve["mean"][late]), 1)[0])


def _curve(steps: np.ndarray, values: np.ndarray, limits: np.ndarray) -> Curve:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return {"steps": steps, "mean": values.mean(axis=0), "se": error, "bound": limits}


# ---------------------------------------------------------------------- drawing


def draw_curves(ax: Axes, curves: dict[str, Curve], title: str, apart: dict[str, float]) -> None:
    """Draw one curve and one bound per method on log axes. ``apart`` shifts labels, in points."""
    for shift, (method, c) in enumerate(curves.items()):
        look, steps, mean = style.look(method), c["steps"], c["mean"]
        every = max(1, len(steps) // 6)
        ax.loglog(steps, mean, **look.line_style(markevery=every))
        band = np.array([np.maximum(mean - 1.96 * c["se"], 1e-9), mean + 1.96 * c["se"]])
        ax.fill_between(steps, *band, color=look.color, alpha=0.2, linewidth=0)
        hollow = {"marker": look.marker, "markerfacecolor": "w", "markersize": 5}
        ax.loglog(steps, c["bound"], **style.BOUND, **hollow, markevery=(shift, max(3, every)))
        ax.annotate(
            label(method),
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

LAST_STEPS = 2**15
"""Updates of the last iterates, so many that their bound lies below the gap of the untrained
policy."""


def claim_alright_average(fast: bool = False, mutation: str | None = None) -> Checked:
    """T4 over the cases; ``measured`` is the upper end of each 95 % interval of the mean gap."""
    return averages(Alright, fast, mutation)


def claim_mix_average(fast: bool = False, mutation: str | None = None) -> Checked:
    """T5 over the cases; ``measured`` is the upper end of each 95 % interval of the mean gap."""
    return averages(Mix, fast, mutation)


def claim_maxright_average(fast: bool = False, mutation: str | None = None) -> Checked:
    """T7 over the cases; ``measured`` is the upper end of each 95 % interval of the mean of F."""
    return averages(Maxright, fast, mutation)


def averages(method: type[Mix | Alright | Maxright], fast: bool, mutation: str | None) -> Checked:
    """Check averaged iterates of a method, or of a wrong one, against the method's bound."""
    steps, replicas = (4000, 32) if fast else (16000, 64)
    if method is Maxright:
        steps, replicas = (2000, 8) if fast else (8000, 16)
    upper, limits = [], []
    for case in cases(24, dimension=4, radius=1.0):
        right = method(lam=case.lam)
        if isinstance(right, Maxright):
            size = maxright_step(case.problem, right, steps)
            limits.append(maxright_bound(case.problem, right, steps))
        else:
            size = step_size(case.problem, right, steps)
            limits.append(bound(case.problem, right, steps))
        upper.append(upper_end(case.problem, right, size, [steps], replicas, mutation)[0])
    known = {"T": float(steps), "instances": float(len(upper))}
    return Checked(np.array(upper), np.array(limits), "upper", known, 0.0)


def upper_end(
    problem: LogLinear,
    right: Mix | Alright | Maxright,
    size: StepSize,
    marks: list[int],
    replicas: int,
    mutation: str | None,
    iterate: Literal["average", "last"] = "average",
) -> np.ndarray:
    """Upper ends of the 95 % intervals of the mean gap, in the objective of the right method."""
    wrong: dict[str, Schedule | None] = {
        **wrong_methods(right.lam),
        UNTRAINED: None,
        "swapped-weights": replace(right, lam=1 - right.lam),
    }
    schedule = mutate(mutation, right, wrong)
    if schedule is None:
        return np.full(len(marks), untrained(problem, right))
    runs = trajectories(
        problem, schedule, steps=marks[-1], step_size=size, replicas=replicas, checkpoints=marks
    )
    values = excess(problem, right, runs.losses(problem, iterate)[0])
    error = values.std(axis=0, ddof=1) / np.sqrt(replicas)
    return np.asarray(values.mean(axis=0) + 1.96 * error)


def claim_last_iterates(fast: bool = False, mutation: str | None = None) -> Checked:
    """T4, T5 and T7 for last iterates, on binary examples with bounds below the untrained gap.

    The binary example has the largest gap that a gradient of its length allows. A bound that is
    wrong by a factor would therefore fail on it.
    """
    del fast
    upper, limits = [], []
    for radius in (0.2, 0.5, 1.0):
        problem = binary_example(radius)
        for lam in (0.1, 0.9):
            for right in (Mix(lam=lam), Alright(lam=lam), Maxright(lam=lam)):
                size, bounds = last_bound(problem, right, np.array([LAST_STEPS]))
                replicas = 8 if isinstance(right, Alright) else 2
                found = upper_end(problem, right, size, [LAST_STEPS], replicas, mutation, "last")
                upper.append(found[0])
                limits.append(bounds[0])
    known = {"T": float(LAST_STEPS)}
    return Checked(np.array(upper), np.array(limits), "upper", known, 0.0)


def claim_price_of_alternating(fast: bool = False, mutation: str | None = None) -> Checked:
    """The variance identity at the start, at the optimum and at random points of every case."""
    measured, price = [], []
    for case in cases(6 if fast else 24, dimension=4):
        rng = np.random.default_rng(case.seed)
        best = minimise(case.problem, case.lam).theta
        drawn = mutate(mutation, case.lam, {COIN: 0.5})
        for theta in (np.zeros(4), best, case.problem.project(rng.normal(size=4))):
            measured.append(variance_identity(case.problem, case.lam, theta).measured)
            price.append(drawn * (1 - drawn) * moments(case.problem, theta).difference)
    return Checked(np.array(measured), np.array(price), "exact", {}, 1e-9)


if __name__ == "__main__":
    main(Path("out"))
