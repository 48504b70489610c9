"""Is the theory exact where it can be? Moments of noisy quadratics; when soups are optimal.

Left: the expected gap of f_lambda in closed form, through Monte Carlo means. Middle: their
differences in standard errors. Right: averaging the two specialists' parameters (a linear soup) on
a pair with proportional Hessians, and on one without.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from tradeoff.convex import Quadratic, pareto_front, random_quadratic, trajectories
from tradeoff.schedules import Alright, Mix, Schedule, Sequential
from tradeoff.theory.checked import Checked
from tradeoff.theory.quadratic import expected_gap, misalignment, monte_carlo, soup_gap, value

CAPTION = (
    "Two noisy quadratics in two dimensions (condition number 10, noise .3), λ = 1/2, step .1; "
    "the sequential runs switch objective half-way. Left: lines are the closed form, markers "
    "means over n = {replicas} replicas; what varies is the noise and ALRIGHT's choice. Middle:"
    " (mean − closed form)/SE at every record, dashes at ±1.96, where 5 % may lie outside. "
    "Right: soups (1−s)a₀ + s a₁ of the two optima against the certified front, for Hessians "
    "that are proportional and for the same with one of them turned by 60°. Command: python -m "
    "analysis quadratic_exact."
).format(replicas="5,000")
METHODS: tuple[Schedule, ...] = (Sequential(), Sequential(first="preference"), Mix(), Alright())
SHARES = np.linspace(0, 1, 9)
START = np.array([2.0, -2.0])


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = random_quadratic(1)
    replicas, steps = (256, 100) if fast else (5000, 400)
    curves = {m.label: compare(problem, m, steps, replicas) for m in METHODS}
    pairs = {"turned by 60°": soup_pair(60.0), "proportional": soup_pair(0.0)}
    with style.figure(1, 3, height=3.1) as (fig, (left, middle, right)):
        draw_gaps(left, curves)
        draw_scores(middle, curves)
        draw_soups(right, pairs)
        style.save(fig, out, "quadratic_exact")
    z = np.concatenate([c["z"] for c in curves.values()])
    return {
        "replicas": replicas,
        "updates": steps,
        "records": len(z),
        "largest_z": float(np.abs(z).max()),
        "share_within_1.96": float(np.mean(np.abs(z) < 1.96)),
        "final_gap": {name: float(c["exact"][-1]) for name, c in curves.items()},
        "soup_gap_over_range": {name: soup_distance(p) for name, p in pairs.items()},
        "misalignment": {name: misalignment(p) for name, p in pairs.items()},
    }


# ---------------------------------------------------------------------- measured and exact


def compare(
    problem: Quadratic, schedule: Schedule, steps: int, replicas: int
) -> dict[str, np.ndarray]:
    """Expected gap at every step, and Monte Carlo means with their z-scores at 40 records."""
    marks = np.unique(np.linspace(1, steps, 40).round().astype(int))
    exact = expected_gap(problem, schedule, steps, 0.1, START)
    runs = trajectories(
        problem,
        schedule,
        steps=steps,
        step_size=0.1,
        replicas=replicas,
        start=START,
        checkpoints=marks,
    )
    gaps = runs.losses(problem)[0] @ [1 - schedule.lam, schedule.lam]
    gaps -= value(problem, schedule.lam)
    error = gaps.std(axis=0, ddof=1) / np.sqrt(replicas)
    z = (gaps.mean(axis=0) - exact[marks]) / error
    return {"steps": marks, "exact": exact, "mean": gaps.mean(axis=0), "z": z}


def soup_pair(degrees: float) -> Quadratic:
    """Two quadratics whose Hessians are proportional up to a turn of the second."""
    first = np.diag([1.0, 0.1])
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = turn @ (0.6 * first) @ turn.T
    return Quadratic(np.array([[-1.0, -0.6], [1.0, 0.6]]), np.stack([first, second]))


def soup_distance(problem: Quadratic) -> float:
    """Largest front gap (in units of the ranges) along the soups."""
    front = pareto_front(replace(problem, radius=10.0), accuracy=1e-5)
    return float(front.score(problem.losses(soups(problem))).front_gap.max())


def soups(problem: Quadratic) -> np.ndarray:
    """(9, 2) parameters between the two optima."""
    return problem.centres[0] + SHARES[:, None] * (problem.centres[1] - problem.centres[0])


# ---------------------------------------------------------------------- drawing


def draw_gaps(ax: Axes, curves: dict[str, dict[str, np.ndarray]]) -> None:
    for name, c in curves.items():
        look = style.look(name)
        ax.plot(c["exact"], color=look.color, linestyle=look.line)
        ax.plot(c["steps"][::4], c["mean"][::4], **look.dots(label=name))
    ax.set(
        title="The closed form holds",
        xlabel="updates",
        ylabel="mean gap of f",
        yscale="log",
    )
    ax.legend(loc="upper center", fontsize=7, handletextpad=0.1, ncols=2, columnspacing=0.5)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * 5)


def draw_scores(ax: Axes, curves: dict[str, dict[str, np.ndarray]]) -> None:
    for name, c in curves.items():
        ax.plot(c["steps"], c["z"], **style.look(name).dots(markersize=3))
    for level in (-1.96, 1.96):
        ax.axhline(level, **style.BOUND)
    inside = np.mean([np.abs(c["z"]) < 1.96 for c in curves.values()])
    ax.set(
        title=f"{inside:.0%} within 1.96 SE",
        xlabel="updates",
        ylabel="(mean − closed form) / SE",
        ylim=(-4.5, 4.5),
    )


def draw_soups(ax: Axes, pairs: dict[str, Quadratic]) -> None:
    for (name, problem), line in zip(pairs.items(), ("-", (0, (4, 1.5))), strict=True):
        front = pareto_front(replace(problem, radius=10.0), accuracy=1e-4)
        hull = (front.inner - front.ideal) / front.ranges  # both pairs on one pair of axes
        ax.plot(*hull.T, **{**style.FRONT, "linestyle": line}, label=f"front, {name}")
        points = (problem.losses(soups(problem)) - front.ideal) / front.ranges
    # f at a soup is s^2 (or (1-s)^2) of its range for any pair: one line serves both.
    ax.plot(*points.T, color="k", marker="o", markerfacecolor="w", linestyle=":", label="soups")
    ax.legend(loc="upper right", fontsize=7.5)
    ax.set(
        title="Soups can fall short",
        xlabel="f₀, share of its range",
        ylabel="f₁, share of its range",
    )


# ---------------------------------------------------------------------- claims


def claim_exact_moments(fast: bool = False) -> Checked:
    """Closed form and Monte Carlo agree for all four methods, within 4.5 SE at every record."""
    problem, steps = random_quadratic(1), 60 if fast else 200
    checks = [monte_carlo(problem, m, steps, 0.1, replicas=512) for m in METHODS]
    return Checked(
        np.concatenate([np.ravel(c.measured) for c in checks]),
        np.concatenate([np.ravel(c.bound) for c in checks]),
        "exact",
        {},
        np.concatenate([np.ravel(c.tolerance) for c in checks]),
    )


def claim_soups_trace(fast: bool = False) -> Checked:
    """With proportional Hessians every soup lies on the front."""
    found = soup_gap(soup_pair(0.0), SHARES[::4] if fast else SHARES)
    return Checked(found.measured, np.zeros_like(found.measured), "exact", {}, 1e-9)


def claim_soups_miss(fast: bool = False) -> Checked:
    """With one Hessian turned, the inner soups lie behind the front by the bound of T8, or more."""
    inner = SHARES[2:-2:2] if fast else SHARES[1:-1]
    found = soup_gap(soup_pair(60.0), inner)
    return Checked(found.measured, found.bound, "lower", found.constants, 0.0)


if __name__ == "__main__":
    main(Path("out"))
