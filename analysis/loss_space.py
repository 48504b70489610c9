"""Where do the methods end at equal compute, and which trade-off did they really make?

Left: SFT against preference loss of every method at five requested weights, with the front.
Right: regret at the requested weight, the one number that sees both kinds of failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis import style
from analysis.methods import cell
from tradeoff.convex import (
    Front,
    LogLinear,
    StepSize,
    pareto_front,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]
LAMBDAS = (0.1, 0.25, 0.5, 0.75, 0.9)
METHODS = ("SFT→DPO", "DPO→SFT", "Mix", "ALRIGHT", "MAXRIGHT")
SCORES = ("front_gap", "matched_weight", "regret", "ideal_distance")
STEP = StepSize(0.3, 0.5)
CANDIDATES = tuple(StepSize(scale, 0.5) for scale in (0.05, 0.1, 0.2, 0.4, 0.8))
"""Step sizes among which every method may choose when each is tuned for itself."""
SHOWN = 48
"""Replicas drawn as dots."""
CAPTION = (
    "One problem (d = 16, 64 demonstrations, 64 pairs), 5 methods at lambda in {.1, .25, .5, .75, "
    ".9}; what varies is the data order, n = 256 replicas, common random numbers, 4,000 gradients "
    "each (Mix: 2,000 updates of two), step 0.3/sqrt(t), last iterate. Sequential training gives "
    "the preference stage the share lambda of the updates, as the paper does with epochs. "
    "MAXRIGHT reads exact loss values, which are not counted. Left: dots are 48 of the replicas, "
    "markers the means. Right: mean regret at the requested weight with 95 % intervals (smaller "
    "than the markers). A sequential run ends near an end of the front: where the requested "
    "weight lies at the same end its regret is small too, and MAXRIGHT, which minimises another "
    "function, pays more there than the order that ends with the favoured objective. Command: "
    "python -m analysis loss_space"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = random_log_linear(0)
    replicas, budget = (64, 400) if fast else (256, 4000)
    front = pareto_front(problem, accuracy=1e-3 if fast else 1e-4)
    losses = final_losses(problem, budget, replicas, STEP)
    table = score(front, losses)
    with style.figure(1, 2, height=3.9) as (fig, (left, right)):
        draw_losses(left, front, losses)
        draw_regret(right, table)
        style.save(fig, out, "loss_space")
    return {
        "replicas": replicas,
        "gradients": budget,
        "certified_error": front.error,
        "ranges": front.ranges,
        **summaries(table),
        "paired_regret_joint_minus_sequential": paired(table),
        "tuned_regret": tuned(problem, front, budget, replicas),
    }


def method(label: str, lam: float) -> Schedule:
    """Schedule of a method at a requested weight; sequential budgets follow the weight."""
    return {
        "SFT→DPO": Sequential(lam=lam, share=1 - lam),
        "DPO→SFT": Sequential(lam=lam, first="preference", share=lam),
        "Mix": Mix(lam=lam),
        "ALRIGHT": Alright(lam=lam),
        "MAXRIGHT": Maxright(lam=lam),
    }[label]


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
    for label in labels:
        schedules = [method(label, lam) for lam in lambdas]
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
        result[label] = runs.losses(problem)[:, :, -1]
    return result


def score(
    front: Front, losses: dict[str, Array], lambdas: Sequence[float] = LAMBDAS
) -> pd.DataFrame:
    """One row per method, weight and replica."""
    parts = [
        front.score(values, lam).assign(method=label, lam=lam, replica=np.arange(len(values)))
        for label, grid in losses.items()
        for lam, values in zip(lambdas, grid, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def replicas_of(table: pd.DataFrame, label: str, column: str) -> Array:
    """(replica, lambda) values of one score."""
    rows = table[table["method"] == label]
    return rows.pivot(index="replica", columns="lam", values=column).to_numpy()


def summaries(table: pd.DataFrame) -> dict[str, Any]:
    """Mean and half width of the 95 % interval of every score, by method, in order of lambda."""
    found: dict[str, Any] = {}
    for label in METHODS:
        cells = {name: interval(replicas_of(table, label, name)) for name in SCORES}
        found[label] = {name: cell(value) for name, value in cells.items()}
    return found


def paired(table: pd.DataFrame) -> dict[str, Any]:
    """Joint minus sequential regret on common random numbers; negative: the joint method wins."""
    return {
        f"{joint} - {order}": cell(
            paired_difference(
                replicas_of(table, joint, "regret"), replicas_of(table, order, "regret")
            )
        )
        for joint in METHODS[2:]
        for order in METHODS[:2]
    }


def tuned(problem: LogLinear, front: Front, budget: int, replicas: int) -> dict[str, Any]:
    """Regret when a method has its own best step size at every lambda.

    The step is chosen on other draws (seed 1) than those it is judged on, by the regret itself,
    which a practitioner cannot see: this is the best that sequential training can hope for.
    """
    found: dict[str, Any] = {"replicas": replicas, "candidates": [s.scale for s in CANDIDATES]}
    for label in ("SFT→DPO", "DPO→SFT", "ALRIGHT"):
        trials = [
            _regrets(problem, front, budget, 32, step, label, LAMBDAS, seed=1)
            for step in CANDIDATES
        ]
        chosen = [CANDIDATES[k] for k in np.mean(trials, axis=1).argmin(axis=0)]
        final = [
            _regrets(problem, front, budget, replicas, step, label, [lam])[:, 0]
            for lam, step in zip(LAMBDAS, chosen, strict=True)
        ]
        found[label] = {**cell(interval(final, axis=1)), "step": [s.scale for s in chosen]}
    return found


def _regrets(
    problem: LogLinear,
    front: Front,
    budget: int,
    replicas: int,
    step: StepSize,
    label: str,
    lambdas: Sequence[float],
    seed: int = 0,
) -> Array:
    """(replica, lambda) regret of one method."""
    losses = final_losses(
        problem, budget, replicas, step, labels=[label], lambdas=lambdas, seed=seed
    )
    return replicas_of(score(front, losses, lambdas), label, "regret")


def draw_losses(ax: Axes, front: Front, losses: dict[str, Array]) -> None:
    """Replicas as dots, means as markers joined in order of lambda, over the certified front."""
    ax.plot(*front.inner.T, **{**style.FRONT, "linewidth": 4, "alpha": 0.35})
    ax.plot(*front.ideal, **style.IDEAL)
    ax.annotate(
        "ideal point", tuple(front.ideal), xytext=(8, -3), textcoords="offset points", fontsize=8
    )
    for label, grid in losses.items():
        look = style.look(label)
        dots = grid[:, :SHOWN].reshape(-1, 2)
        ax.scatter(
            dots[:, 0], dots[:, 1], s=3, color=look.color, alpha=0.25, linewidths=0, rasterized=True
        )
        ax.plot(*grid.mean(axis=1).T, **look.line_style(linewidth=1, label=label, zorder=4))
    ax.set(
        title="Sequential runs end near one end …",
        xlabel="SFT loss (nats)",
        ylabel="preference loss (nats)",
    )
    ax.legend(loc="upper right", handlelength=3.5)


def draw_regret(ax: Axes, table: pd.DataFrame) -> None:
    """Mean regret against the requested weight, on a log scale."""
    for label in METHODS:
        found = interval(replicas_of(table, label, "regret"))
        look = style.look(label)
        ax.semilogy(LAMBDAS, found.mean, **look.line_style())
        ax.fill_between(LAMBDAS, found.low, found.high, color=look.color, alpha=0.2, linewidth=0)
        style.label_line(ax, LAMBDAS[-1], found.mean[-1], label, color=look.color)
    ax.set(
        title="… seldom where they were asked to",
        xlabel="requested weight of the preference objective",
        ylabel="regret / range of the front",
        xticks=LAMBDAS,
        xlim=(0.05, 1.16),
    )


def claim_joint_beats_sequential(fast: bool = False) -> Checked:
    """At lambda = 1/2 and equal compute, Mix and ALRIGHT have less regret than either order.

    ``measured`` is the upper end of the 95 % interval of each of the four paired differences.
    """
    problem = random_log_linear(0)
    front = pareto_front(problem, accuracy=1e-3)
    budget = 400 if fast else 1000
    regret = {
        label: _regrets(problem, front, budget, 256, STEP, label, [0.5])[:, 0]
        for label in METHODS[:4]
    }
    ends = [
        paired_difference(regret[joint], regret[order]).high
        for joint in METHODS[2:4]
        for order in METHODS[:2]
    ]
    return Checked(np.array(ends), np.zeros(4), "upper", {"n": 256.0, "gradients": budget}, 0.0)


if __name__ == "__main__":
    main(Path("out"))
