"""Is the theory exact where a closed form exists? Moments of noisy quadratics, and optimal soups.

Left: the expected gap of f_lambda in closed form, with Monte Carlo means. Middle: their differences
in standard errors. Right: averages of the two specialists' parameters (linear soups), on a pair
with proportional Hessians and on one without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate, reject_unknown
from analysis.fernando2024.methods import label
from tradeoff.convex import Quadratic, pareto_front, random_quadratic, trajectories
from tradeoff.schedules import Alright, Mix, Schedule, Sequential
from tradeoff.theory.checked import Checked
from tradeoff.theory.quadratic import expected_gap, misalignment, monte_carlo, soup_gap, value

CAPTION = (
    "Is the theory exact where a closed form exists? Two noisy quadratics (d = 2, condition 10, "
    "noise 0.3), λ = 1/2, step 0.1. Left: closed form (lines) and means. Middle: difference in SE; "
    "{inside} of {records} records lie within ±1.96 (dashes), the 95 % interval. Right: averages "
    "of the two optima (soups) leave the front if one Hessian is turned by 60°. n = {replicas} "
    "replicas; what varies: noise, ALRIGHT's draws. Command: python -m analysis quadratic_exact."
)
METHODS: tuple[Schedule, ...] = (Sequential(), Sequential(first="preference"), Mix(), Alright())
SHARES = np.linspace(0, 1, 9)
START = np.array([2.0, -2.0])


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = random_quadratic(1)
    replicas, steps = (256, 100) if fast else (5000, 400)
    curves = {m.key: compare(problem, m, steps, replicas) for m in METHODS}
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


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "inside": f"{100 * numbers['share_within_1.96']:.0f} %",
        "records": str(numbers["records"]),
        "replicas": f"{numbers['replicas']:,}",
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
    """Two quadratics with proportional Hessians, the second turned by an angle."""
    first = np.diag([1.0, 0.1])
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = turn @ (0.6 * first) @ turn.T
    return Quadratic(np.array([[-1.0, -0.6], [1.0, 0.6]]), np.stack([first, second]))


def soup_distance(problem: Quadratic) -> float:
    """Largest front gap along the soups, in units of the ranges."""
    front = pareto_front(replace(problem, radius=10.0), accuracy=1e-5)
    return float(front.score(problem.losses(soups(problem))).front_gap.max())


def soups(problem: Quadratic) -> np.ndarray:
    """(9, 2) parameters: averages of the two optima, from one to the other."""
    return problem.centres[0] + SHARES[:, None] * (problem.centres[1] - problem.centres[0])


# ---------------------------------------------------------------------- drawing


def draw_gaps(ax: Axes, curves: dict[str, dict[str, np.ndarray]]) -> None:
    for name, c in curves.items():
        look = style.look(name)
        ax.plot(c["exact"], color=look.color, linestyle=look.line)
        ax.plot(c["steps"][::4], c["mean"][::4], **look.dots(label=label(name)))
    ax.set(
        title="Closed form and means",
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
        title=f"{100 * inside:.0f} % within 1.96 SE",
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
    # f at a soup is s^2 (or (1-s)^2) of its range for any pair, so one line shows both.
    ax.plot(*points.T, color="k", marker="o", markerfacecolor="w", linestyle=":", label="soups")
    ax.legend(loc="upper right", fontsize=7.5)
    ax.set(
        title="Soups against the front",
        xlabel="f₀, share of its range",
        ylabel="f₁, share of its range",
    )


# ---------------------------------------------------------------------- claims


def claim_exact_moments(fast: bool = False, mutation: str | None = None) -> Checked:
    """Closed form and Monte Carlo means agree within 4.5 SE for four methods at every record."""
    steps = 60 if fast else 200
    measured, bounds, slack = [], [], []
    for seed in range(2 if fast else 10):
        problem = random_quadratic(seed)
        told = mutate(mutation, problem, {
            SWAPPED: replace(problem, hessians=problem.hessians[::-1]),
            "no-noise": replace(problem, covariances=None),
        })  # fmt: skip
        for m in METHODS:
            ran = monte_carlo(problem, m, steps, 0.1, replicas=512)
            formula = monte_carlo(told, m, steps, 0.1, replicas=2) if mutation else ran
            measured.append(np.ravel(ran.measured))
            bounds.append(np.ravel(formula.bound))
            slack.append(np.ravel(ran.tolerance))
    parts = (np.concatenate(part) for part in (measured, bounds, slack))
    found, closed, allowed = parts
    return Checked(found, closed, "exact", {}, allowed)


def claim_soups_trace(fast: bool = False, mutation: str | None = None) -> Checked:
    """With proportional Hessians every soup lies on the front."""
    pairs = soup_pairs(mutate(mutation, 0.0, {"turned-hessian": 60.0}))
    found = np.array([soup_gap(p, SHARES[::4] if fast else SHARES).measured for p in pairs])
    return Checked(found, np.zeros(found.shape), "exact", {}, 1e-9)


def claim_soups_miss(fast: bool = False, mutation: str | None = None) -> Checked:
    """With one Hessian turned, the front gap of inner soups is at least the bound of T8."""
    reject_unknown(mutation, ("best-policy",))
    inner = SHARES[2:-2:2] if fast else SHARES[1:-1]
    found = [soup_gap(p, inner) for p in soup_pairs(60.0)]
    measured = np.array([f.measured for f in found])
    if mutation == "best-policy":  # A policy on the front has a front gap of 0.
        measured = np.array([soup_gap(p, inner).measured for p in soup_pairs(0.0)])
    return Checked(measured, np.array([f.bound for f in found]), "lower", {}, 0.0)


def soup_pairs(degrees: float) -> list[Quadratic]:
    """Twenty pairs of quadratics with random Hessian, scale and centres, the second turned."""
    pairs = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first = np.diag([1.0, float(rng.uniform(0.05, 0.4))])
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        second = turn @ (float(rng.uniform(0.3, 2.0)) * first) @ turn.T
        pairs.append(Quadratic(rng.normal(size=(2, 2)), np.stack([first, second])))
    return pairs


if __name__ == "__main__":
    main(Path("out"))
