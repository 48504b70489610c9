"""Where do the methods walk? Two parameters, four prompts, a clear conflict.

Left: paths in parameter space over the contours of both losses, with the exact Pareto set.
Right: the same paths in loss space, with the certified front and the ideal point.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import AbstractPathEffect, withStroke
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.fernando2024.methods import label
from tradeoff.convex import (
    Front,
    LogLinear,
    StepSize,
    Trajectories,
    pareto_front,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential

Array = NDArray[np.float64]
CAPTION = (
    "Where do the methods walk? One problem with 4 prompts, 4 responses and d = 2; exact "
    "gradients, λ = 1/2, {budget} gradients from one start (cross). All use the step 0.25 t^-0.3, "
    "which is not tuned. Contours: SFT loss solid, preference loss dashed. The final regret in "
    "units of the ranges is {paths} for sequential runs and {alright} for ALRIGHT. n = 1 run; what "
    "varies: ALRIGHT's draws; no interval. Command: python -m analysis toy_trajectories"
)
START = (2.75, 2.6)
BUDGET = 2400
"""Gradients per method."""
METHODS: tuple[Schedule, ...] = (
    Sequential(),
    Sequential(first="preference"),
    Mix(),
    Alright(),
    Maxright(),
)
PLACES = {
    "sft-dpo": ((0.5, 3.2), (1.45, 1.98)),
    "dpo-sft": ((1.98, 1.6), (4.3, 1.0)),
    "mix": ((0.2, 1.66), (0.98, 1.53)),
    "alright": ((1.0, 2.62), (2.5, 1.58)),
    "maxright": ((1.38, 1.32), (1.45, 0.93)),
    "Pareto set": ((0.62, -0.42), (2.1, 0.17)),
}
"""Position of each name in the two panels."""
VIEW = ((-0.75, 3.25), (-0.95, 3.4))
"""Limits of the parameter plane."""


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = toy_problem()
    front = pareto_front(problem, accuracy=1e-3 if fast else 1e-4)
    budget = 300 if fast else BUDGET
    paths = {method.key: run_path(problem, method, budget) for method in METHODS}
    with style.figure(1, 2, height=3.45) as (fig, (left, right)):
        draw_plane(left, problem, front)
        draw_front(right, front)
        for key, path in paths.items():
            marks = milestones(path)
            curve = style.look(key).line_style(markevery=marks, linewidth=1.2, zorder=4)
            left.plot(*path.T, **curve)
            right.plot(*problem.losses(path).T, **curve)
        place_labels(left, right, front)
        style.save(fig, out, "toy_trajectories")
    return {"gradients": budget, **numbers(problem, front, paths)}


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    orders = [numbers[order]["regret"] for order in ("sft-dpo", "dpo-sft")]
    return {
        "budget": f"{numbers['gradients']:,}",
        "paths": f"{min(orders):.2f} and {max(orders):.2f}",
        "alright": f"{numbers['alright']['regret']:.3f}",
    }


def toy_problem() -> LogLinear:
    """Two parameters, four prompts of four responses, both optima inside the ball."""
    return random_log_linear(
        104,
        prompts=4,
        responses=4,
        dimension=2,
        demonstrations=24,
        pairs=24,
        conflict=0.6,
        sharpness=1.5,
    )


def run_path(problem: LogLinear, method: Schedule, budget: int) -> Array:
    """(T + 1, 2) iterates of a run with a budget of gradients."""
    steps = int(budget / method.plan(1).cost()[0])
    runs: Trajectories = trajectories(
        problem,
        method,
        steps=steps,
        step_size=StepSize(0.25, 0.3),
        replicas=1,
        start=np.array(START),
        gradients="full",
        checkpoints=np.arange(steps + 1),
    )
    return np.asarray(runs.last[0, 0])


def milestones(path: Array, spacing: float = 0.42) -> list[int]:
    """Updates at which a path gets a marker, each ``spacing`` away from the one before."""
    marks = [0]
    for t, point in enumerate(path):
        if np.linalg.norm(point - path[marks[-1]]) > spacing:
            marks.append(t)
    return [*marks[1:], len(path) - 1]


def draw_plane(ax: Axes, problem: LogLinear, front: Front) -> None:
    """Draw contours of both losses, the Pareto set and its ends."""
    axes = [np.linspace(low, high, 120) for low, high in VIEW]
    grid = np.stack(np.meshgrid(*axes), axis=-1)
    losses = problem.losses(grid.reshape(-1, 2)).reshape(*grid.shape)
    levels = np.geomspace(0.02, 2.2, 6)
    for i, (color, line) in enumerate((("#b08050", "solid"), ("#5080b0", "dashed"))):
        ax.contour(
            *axes,
            losses[..., i],
            levels=front.ideal[i] + levels,
            colors=color,
            linestyles=line,
            linewidths=0.6,
            alpha=0.75,
        )
    ax.plot(*front.thetas.T, **{**style.FRONT, "linewidth": 5, "alpha": 0.35})
    ax.plot(*START, "kx", markersize=7, markeredgewidth=1.6)
    ax.set(
        title="Sequential paths leave the Pareto set",
        xlabel=r"parameter $\theta_1$",
        ylabel=r"parameter $\theta_2$",
        xlim=VIEW[0],
        ylim=VIEW[1],
    )
    ax.grid(visible=False)


def draw_front(ax: Axes, front: Front) -> None:
    """Draw the certified front, the region that no policy reaches, and the ideal point."""
    ax.plot(*front.inner.T, **{**style.FRONT, "linewidth": 5, "alpha": 0.35})
    ax.plot(*front.ideal, **style.IDEAL)
    span = front.ranges
    ax.set(
        title="… and end at one objective's optimum",
        xlabel="SFT loss (nats)",
        ylabel="preference loss (nats)",
        xlim=(front.ideal[0] - 0.12 * span[0], front.nadir[0] + 0.35 * span[0]),
        ylim=(front.ideal[1] - 0.17 * span[1], front.nadir[1] + 0.3 * span[1]),
    )


def place_labels(left: Axes, right: Axes, front: Front) -> None:
    """Write the name of every path in its colour. The positions suit this one problem."""
    halo: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground="white")]
    for key, (in_plane, in_losses) in PLACES.items():
        for ax, place in ((left, in_plane), (right, in_losses)):
            known = key in style.LOOKS
            text, color = (label(key), style.look(key).color) if known else (key, "0.25")
            name = ax.annotate(text, place, fontsize=8, color=color, va="center", zorder=6)
            name.set_path_effects(halo)
    text = "contours: solid SFT loss, dashed preference loss"
    note = left.annotate(
        text, (0.5, 0.02), xycoords="axes fraction", ha="center", fontsize=7, color="0.3"
    )
    note.set_path_effects(halo)
    left.annotate("start", START, xytext=(6, 6), textcoords="offset points", fontsize=8)
    right.annotate(
        "ideal point", tuple(front.ideal), xytext=(-8, -16), textcoords="offset points", fontsize=8
    )


def numbers(problem: LogLinear, front: Front, paths: dict[str, Array]) -> dict[str, Any]:
    """End of every path, and its distance from the front in its second half."""
    table = front.score(np.stack([problem.losses(p[-1]) for p in paths.values()]), 0.5)
    result: dict[str, Any] = {"certified_error": front.error, "runs": 1}
    for (key, path), row in zip(paths.items(), table.to_dict("records"), strict=True):
        second_stage = front.score(problem.losses(path[len(path) // 2 :]))["front_gap"]
        result[key] = {**row, "largest_front_gap_in_second_half": second_stage.max()}
    return result


if __name__ == "__main__":
    main(Path("out"))
