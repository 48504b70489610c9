"""Where do the methods end at equal compute, and which trade-off did they make?

Left: SFT loss against preference loss of every method at five requested weights, with the front.
Right: regret at the requested weight, the one number that measures both kinds of failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.cells import place
from analysis.dossier.evidence import MOST, holds_on
from analysis.dossier.mutations import SFT_ONLY, SWAPPED, WRONG_PROBABILITY, reject_unknown, swapped
from analysis.fernando2024 import methods
from analysis.fernando2024.convex import contest
from analysis.fernando2024.convex.tuning import COARSE, SCALES, Tuned, ends, tune, updates
from analysis.fernando2024.methods import METHODS, cell, label
from tradeoff.convex import (
    Front,
    LogLinear,
    StepSize,
    minimise,
    pareto_front,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Schedule
from tradeoff.scores import interval, max_gap, paired_difference
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]
LAMBDAS = (0.1, 0.25, 0.5, 0.75, 0.9)
SCORES = ("front_gap", "matched_weight", "regret", "ideal_distance")
STEP = StepSize(0.3, 0.5)
"""The common step size of all methods where none is tuned."""
SHOWN = 48
"""Number of replicas drawn as dots."""
CAPTION = (
    "Where do methods end at equal compute? Last iterates on one problem (d = 16) at five weights, "
    "after {budget} gradients (a pair counts as one; MAXRIGHT's loss values are free). Step sizes "
    "are tuned for each method, and for each stage of sequential training. At λ = 1/2 SFT→DPO has "
    "{times} times ALRIGHT's regret; with one step size for all, {untuned} times. n = {replicas} "
    "replicas; the data order varies; bands: 95 % intervals. Command: python -m analysis "
    "loss_space"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = random_log_linear(0)
    replicas, budget = (64, 400) if fast else (256, 4000)
    front = pareto_front(problem, accuracy=1e-3 if fast else 1e-4)
    chosen = tuned_steps(problem, budget, COARSE if fast else SCALES)
    losses = tuned_losses(problem, budget, replicas, chosen)
    table = score(front, losses)
    shared = score(front, final_losses(problem, budget, replicas, STEP))
    with style.figure(1, 2, height=3.9) as (fig, (left, right)):
        draw_losses(left, front, losses)
        draw_regret(right, table)
        style.save(fig, out, "loss_space")
    return {
        "replicas": replicas,
        "gradients": budget,
        "certified_error": front.error,
        "ranges": front.ranges,
        "lambdas": LAMBDAS,
        **summaries(table),
        "paired_regret_joint_minus_sequential": paired(table),
        "steps": {
            key: {
                "scales": [found.scales for found in row],
                "inside_the_grid": [found.inside for found in row],
            }
            for key, row in chosen.items()
        },
        "shared_step": {
            "step": STEP.scale,
            "regret": {m: cell(interval(replicas_of(shared, m, "regret"))) for m in METHODS},
        },
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    half = place(numbers["lambdas"], 0.5)

    def ratio(regret: Mapping[str, Any]) -> str:
        return f"{regret['sft-dpo']['mean'][half] / regret['alright']['mean'][half]:.1f}"

    return {
        "budget": f"{numbers['gradients']:,}",
        "replicas": str(numbers["replicas"]),
        "times": ratio({name: numbers[name]["regret"] for name in METHODS}),
        "untuned": ratio(numbers["shared_step"]["regret"]),
    }


def tuned_steps(problem: LogLinear, budget: int, scales: Sequence[float]) -> dict[str, list[Tuned]]:
    """Step sizes of every method at every weight. MAXRIGHT's are tuned for F_lambda."""
    optima = np.array([minimise(problem, weight).value for weight in (0.0, 1.0)])
    found: dict[str, list[Tuned]] = {}
    for key in METHODS:
        for lam in LAMBDAS:
            schedule = method(key, lam)
            judge = partial(max_gap, optima=optima, lam=lam) if key == "maxright" else None
            steps = _updates(schedule, budget)
            here = tune(problem, schedule, steps, judge, scales=scales)
            found.setdefault(key, []).append(here)
    return found


def tuned_losses(
    problem: LogLinear, budget: int, replicas: int, chosen: Mapping[str, Sequence[Tuned]]
) -> dict[str, Array]:
    """(lambda, replica, 2) losses of every method with its own step sizes."""
    result = {}
    for key, row in chosen.items():
        schedules = [method(key, lam) for lam in LAMBDAS]
        result[key] = np.stack(
            [
                ends(problem, s, _updates(s, budget), found.step, replicas=replicas)
                for s, found in zip(schedules, row, strict=True)
            ]
        )
    return result


def _updates(schedule: Schedule, budget: int) -> int:
    """Updates that a number of gradients pays for, if a pair costs as much as a demonstration."""
    return updates(schedule, budget, 1.0)


def method(key: str, lam: float) -> Schedule:
    """Schedule of a method at a requested weight. The stages of an order follow the weight."""
    return methods.schedule(key, lam, refresh=1, samples=0)


def final_losses(
    problem: LogLinear,
    budget: int,
    replicas: int,
    step: StepSize,
    *,
    labels: Sequence[str] = METHODS,
    lambdas: Sequence[float] = LAMBDAS,
    seed: int = 0,
) -> dict[str, Array]:
    """(lambda, replica, 2) losses of methods after ``budget`` gradients."""
    result = {}
    for key in labels:
        schedules = [method(key, lam) for lam in lambdas]
        steps = int(budget / schedules[0].plan(1).cost().max())
        runs = trajectories(
            problem,
            schedules,
            steps=steps,
            step_size=step,
            replicas=replicas,
            seed=seed,
            checkpoints=[steps],
        )
        result[key] = runs.losses(problem)[:, :, -1]
    return result


def score(
    front: Front, losses: dict[str, Array], lambdas: Sequence[float] = LAMBDAS
) -> pd.DataFrame:
    """One row per method, weight and replica."""
    parts = [
        front.score(values, lam).assign(method=key, lam=lam, replica=np.arange(len(values)))
        for key, grid in losses.items()
        for lam, values in zip(lambdas, grid, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def replicas_of(table: pd.DataFrame, key: str, column: str) -> Array:
    """(replica, lambda) values of one score."""
    rows = table[table["method"] == key]
    return rows.pivot(index="replica", columns="lam", values=column).to_numpy()


def summaries(table: pd.DataFrame) -> dict[str, Any]:
    """Mean and half width of the 95 % interval of every score, by method, in order of lambda."""
    found: dict[str, Any] = {}
    for key in METHODS:
        cells = {name: interval(replicas_of(table, key, name)) for name in SCORES}
        found[key] = {name: cell(value) for name, value in cells.items()}
    return found


def paired(table: pd.DataFrame) -> dict[str, Any]:
    """Joint minus sequential regret on common random numbers. Negative: the joint method wins."""
    return {
        f"{joint} - {order}": cell(
            paired_difference(
                replicas_of(table, joint, "regret"), replicas_of(table, order, "regret")
            )
        )
        for joint in METHODS[2:]
        for order in METHODS[:2]
    }


def draw_losses(ax: Axes, front: Front, losses: dict[str, Array]) -> None:
    """Draw replicas as dots, means as markers joined by lambda, and the certified front."""
    ax.plot(*front.inner.T, **{**style.FRONT, "linewidth": 4, "alpha": 0.35})
    ax.plot(*front.ideal, **style.IDEAL)
    ax.annotate(
        "ideal point", tuple(front.ideal), xytext=(8, -3), textcoords="offset points", fontsize=8
    )
    for key, grid in losses.items():
        look = style.look(key)
        dots = grid[:, :SHOWN].reshape(-1, 2)
        ax.scatter(
            dots[:, 0], dots[:, 1], s=3, color=look.color, alpha=0.25, linewidths=0, rasterized=True
        )
        ax.plot(*grid.mean(axis=1).T, **look.line_style(linewidth=1, label=label(key), zorder=4))
    ax.set(
        title="Where runs end, with tuned steps",
        xlabel="SFT loss (nats)",
        ylabel="preference loss (nats)",
    )
    ax.legend(loc="upper right", handlelength=3.5)


def draw_regret(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the mean regret against the requested weight, on a log scale."""
    for key in METHODS:
        found = interval(replicas_of(table, key, "regret"))
        look = style.look(key)
        ax.semilogy(LAMBDAS, found.mean, **look.line_style())
        ax.fill_between(LAMBDAS, found.low, found.high, color=look.color, alpha=0.2, linewidth=0)
        style.label_line(ax, LAMBDAS[-1], found.mean[-1], label(key), color=look.color)
    ax.set(
        title="Regret at the weight asked for",
        xlabel="requested weight of the preference objective",
        ylabel="regret / range of the front",
        xticks=LAMBDAS,
        xlim=(0.05, 1.16),
    )


# ---------------------------------------------------------------------- claims


def claim_joint_beats_sequential(fast: bool = False, mutation: str | None = None) -> Checked:
    """At equal cost Mix and ALRIGHT have a smaller gap than either order, on most cases.

    Every method uses the step sizes that are best for f_lambda with hindsight; sequential training
    has one for each stage. ``held`` counts the cases in which all four comparisons hold.
    """
    reject_unknown(mutation, (SWAPPED, SFT_ONLY, WRONG_PROBABILITY))
    held = []
    for order in contest.ORDERS:
        for joint in contest.JOINT:
            name = joint if mutation in (None, SWAPPED) else mutation
            pair = (contest.gaps(name, fast), contest.gaps(order, fast))
            held.append(contest.beats(*(swapped(pair) if mutation == SWAPPED else pair)))
    return holds_on(np.all(held, axis=0), MOST)


if __name__ == "__main__":
    main(Path("out"))
