"""Which way do the methods walk? Choose a schedule, a weight, a split and a refresh interval.

The picture shows one choice of each. On the report page the reader chooses, and the page draws the
paths that are stored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.fernando2024.convex import stale_refresh
from analysis.fernando2024.convex.loss_space import LAMBDAS, STEP, method
from analysis.fernando2024.methods import METHODS, label
from tradeoff.convex import (
    Front,
    LogLinear,
    Minimum,
    StepSize,
    minimise,
    pareto_front,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Maxright, Schedule, Sequential

Array = NDArray[np.float64]
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
REFRESH = (1, 3, 10, 30, 100, 300, 1000, None)
RUNS = 4
"""Number of single runs that a reader may choose, in addition to the mean."""
INSTANCES = 3
SHARES_SHOWN = ("0.05", "0.5", "0.95")
REFRESH_SHOWN = {"1": ("at every update", style.look("maxright").color), "never": ("never", "0.35")}
"""Names and colours of two refresh intervals; both are MAXRIGHT."""
RING: dict[str, Any] = {"marker": "o", "markersize": 12, "markerfacecolor": "none",
                        "markeredgecolor": "0.1", "linestyle": "none"}  # fmt: skip
ENDS = {"mix": 9.0, "alright": 5.5}
"""Sizes of markers that lie on top of each other."""
CAPTION = (
    "Which way do the methods walk? Grey: certified front. Star: ideal point. Left: means of "
    "{replicas} runs at λ = 1/2 with {budget} gradients each (Mix: {updates} updates of two), step "
    "0.3/√t in each stage. Middle: SFT→DPO and DPO→SFT, by share of the last stage. Right: "
    "MAXRIGHT at λ = 1/4, last fifth of 5,000 updates, losses refreshed at every update or never; "
    "triangles: averages, n = 1. The data order varies. Command: python -m analysis explorer"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "replicas": str(numbers["replicas"]),
        "budget": f"{numbers['gradients']:,}",
        "updates": f"{numbers['gradients'] // 2:,}",
    }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = random_log_linear(0)
    budget, replicas, accuracy = (400, 32, 1e-3) if fast else (4000, 256, 1e-4)
    front = pareto_front(problem, accuracy=accuracy)
    paths = [p for key in METHODS for lam in LAMBDAS
             for p in runs_of(problem, front, key, lam, budget, replicas)]  # fmt: skip
    splits = [split(problem, front, first, share, budget, replicas)
              for first in ("sft", "preference") for share in SHARES]  # fmt: skip
    stale = [run for seed in range(INSTANCES) for run in refreshed(seed, 1500 if fast else 5000)]
    numbers = {
        "gradients": budget,
        "replicas": replicas,
        "certified_error": front.error,
        "fronts": {"laboratory": outline(front)}
        | {f"instance {s + 1}": outline(instance_front(s)) for s in range(INSTANCES)},
        "aims": [aim(seed).losses.round(4) for seed in range(INSTANCES)],
        "targets": {str(lam): minimise(problem, lam).losses.round(4) for lam in LAMBDAS},
        "paths": paths,
        "splits": splits,
        "refresh": stale,
    }
    picture(out, numbers)
    return numbers


# ---------------------------------------------------------------------- what is stored


def runs_of(
    problem: LogLinear, front: Front, key: str, lam: float, budget: int, replicas: int
) -> list[dict[str, Any]]:
    """Mean path of one method at one weight, and the paths of the first runs."""
    schedule = method(key, lam)
    gradients, losses = _run(problem, schedule, budget, replicas, STEP)
    scores = front.score(losses[:, -1], lam)[["regret", "front_gap", "matched_weight"]]
    chosen = [("mean", losses.mean(axis=0), scores.mean())]
    chosen += [(str(r + 1), losses[r], scores.iloc[r]) for r in range(RUNS)]
    return [
        {
            "chosen": {"schedule": key, "lambda": str(lam), "run": run},
            **path(gradients, points),
            "regret": _short(score.regret),
            "matched_weight": _short(score.matched_weight),
        }
        for run, points, score in chosen
    ]


def split(
    problem: LogLinear, front: Front, first: str, share: float, budget: int, replicas: int
) -> dict[str, Any]:
    """Mean path if the preference stage gets ``share`` of the budget, at lambda = 1/2."""
    early = 1 - share if first == "sft" else share
    schedule = Sequential(lam=0.5, first="sft" if first == "sft" else "preference", share=early)
    gradients, losses = _run(problem, schedule, budget, replicas, STEP)
    return {
        "chosen": {"share": str(share)},
        "schedule": schedule.key,
        **path(gradients, losses.mean(axis=0)),
        "regret": _short(front.score(losses[:, -1], 0.5).regret.mean()),
    }


def refreshed(seed: int, steps: int) -> list[dict[str, Any]]:
    """One run of MAXRIGHT at every refresh interval, and the losses of its averaged iterate."""
    problem, front = stale_refresh.instance(seed), instance_front(seed)
    marks = np.unique(np.r_[0, np.geomspace(1, steps, 20), np.linspace(steps * 0.8, steps, 60)])
    found = []
    for k in REFRESH:
        runs = trajectories(
            problem,
            Maxright(lam=0.25, refresh=k),
            steps=steps,
            step_size=stale_refresh.STEP,
            replicas=1,
            checkpoints=marks.astype(int),
        )
        average = runs.losses(problem, "average")[0, 0, -1]
        row = front.score(average[None], 0.25).iloc[0]
        found.append(
            {
                "chosen": {"instance": str(seed + 1), "k": "never" if k is None else str(k)},
                **path(runs.checkpoints, runs.losses(problem)[0, 0]),
                "average": average.round(4),
                "matched_weight": _short(row.matched_weight),
            }
        )
    return found


def instance_front(seed: int) -> Front:
    return stale_refresh.certified(stale_refresh.instance(seed), 0.25)[0]


def aim(seed: int) -> Minimum:
    """The minimiser of F_lambda, to which MAXRIGHT should converge."""
    return stale_refresh.certified(stale_refresh.instance(seed), 0.25)[1]


def path(gradients: Any, losses: Array) -> dict[str, Any]:
    """Losses (K, 2) along a run in nats, and the number of gradients spent at each."""
    return {
        "gradients": gradients,
        "sft_loss": losses[:, 0].round(3),
        "preference_loss": losses[:, 1].round(3),
    }


def outline(front: Front) -> dict[str, Any]:
    """The front as a curve, and its ideal point."""
    keep = np.unique(np.linspace(0, len(front.inner) - 1, 40).astype(int))
    return {"curve": front.inner[keep].round(4), "ideal": front.ideal.round(4)}


def _run(
    problem: LogLinear, schedule: Schedule, budget: int, replicas: int, step: StepSize
) -> tuple[NDArray[np.int64], Array]:
    """Gradients spent at K records, and (replica, K, 2) losses there."""
    cost = int(schedule.plan(1).cost().max())
    steps = budget // cost
    # Records are dense at the start of each stage, where a path turns.
    starts = [int(start) for start in np.flatnonzero(schedule.plan(steps).clock == 1)]
    marks = [start + np.geomspace(1, max(steps - start, 1), 16) for start in starts]
    runs = trajectories(
        problem,
        schedule,
        steps=steps,
        step_size=step,
        replicas=replicas,
        checkpoints=np.unique(np.concatenate([[0], *marks]).round().astype(int).clip(0, steps)),
    )
    return runs.checkpoints * cost, runs.losses(problem)[0]


def _short(value: Any) -> float:
    return float(f"{float(value):.4g}")


# ---------------------------------------------------------------------- the picture


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Draw one choice of each of the three explorers."""
    with style.figure(1, 3, height=3.1) as (fig, axes):
        draw(fig, axes, numbers)
        style.save(fig, out, "explorer")


def draw(fig: Any, axes: Any, numbers: Mapping[str, Any]) -> None:
    """Draw the paths of all methods, of three splits, and of two refresh intervals."""
    left, middle, right = axes
    for ax in (left, middle):
        _background(ax, numbers["fronts"]["laboratory"])
    left.plot(*numbers["targets"]["0.5"], **RING, label="asked for")
    for found in numbers["paths"]:
        if found["chosen"]["run"] == "mean" and found["chosen"]["lambda"] == "0.5":
            _walk(left, found, found["chosen"]["schedule"])
    for found in numbers["splits"]:
        if found["chosen"]["share"] in SHARES_SHOWN:
            _walk(middle, found, found["schedule"])
            _name_share(middle, found)
    _background(right, numbers["fronts"]["instance 1"])
    for found in numbers["refresh"]:
        if found["chosen"]["instance"] == "1" and found["chosen"]["k"] in REFRESH_SHOWN:
            name, color = REFRESH_SHOWN[found["chosen"]["k"]]
            late = np.asarray(found["gradients"]) >= 0.8 * found["gradients"][-1]
            x, y = (np.asarray(found[f"{name}_loss"])[late] for name in ("sft", "preference"))
            right.plot(x, y, color=color, linewidth=0.9, label=name)
            right.plot(*found["average"], marker="^", color=color, markeredgecolor="w", ms=8)
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower left", ncols=6, fontsize=7.5, handlelength=3)
    right.legend(fontsize=7.5, loc="upper right")
    left.set(title="Every method, λ = 1/2", ylabel="preference loss (nats)")
    middle.set(title="Share of the last stage")
    right.set(title="MAXRIGHT, fresh or stale")


def _background(ax: Axes, found: Mapping[str, Any]) -> None:
    ax.plot(*np.asarray(found["curve"]).T, **{**style.FRONT, "linewidth": 4, "alpha": 0.35})
    ax.plot(*found["ideal"], **style.IDEAL)
    ax.set_xlabel("SFT loss (nats)")


def _walk(ax: Axes, found: Mapping[str, Any], key: str) -> None:
    """Draw a path with a marker at its end. Where ends coincide, the first marker is larger."""
    look = style.look(key)
    ax.plot(found["sft_loss"], found["preference_loss"], color=look.color, linestyle=look.line,
            linewidth=1.1)  # fmt: skip
    size = ENDS.get(key, 6.5)
    dots = look.dots(label=label(key), markersize=size, markeredgecolor="w", markeredgewidth=0.7)
    ax.plot(found["sft_loss"][-1], found["preference_loss"][-1], zorder=5, **dots)


def _name_share(ax: Axes, found: Mapping[str, Any]) -> None:
    """Write the second stage's share of the budget at the end of a path."""
    share, first = float(found["chosen"]["share"]), found["schedule"].startswith("sft")
    last = share if first else 1 - share
    ax.annotate(f"{100 * last:.0f} %", (found["sft_loss"][-1], found["preference_loss"][-1]),
                xytext=(6, 14 * last - 7), textcoords="offset points", fontsize=7,
                color=style.look(found["schedule"]).color)  # fmt: skip


if __name__ == "__main__":
    main(Path("out"))
