"""What does MAXRIGHT lose when the compared values go stale? Refresh every k updates, or never.

Only the objective not followed goes stale: the followed one's loss has just been computed. Four
readings of the same runs: where the average lands on the front, what that costs in F_lambda, how
the updates were divided, and how much the path swings.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter

from analysis import style
from analysis.convergence import excess
from tradeoff.convex import (
    Front,
    LogLinear,
    Minimum,
    minimise_max_gap,
    pareto_front,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Maxright
from tradeoff.theory.checked import Checked

CAPTION = (
    "MAXRIGHT at λ = 1/4 with both losses evaluated anew every k updates. Thin: one random "
    "instance each (n = 16, mean of 16 replicas; what varies is the instance); thick: their "
    "median; solid: weighted steps, dashed: the official code's unweighted steps, of equal mean"
    " length. Averaged iterates after 5,000 updates (what F keeps at k ≤ 10 is progress not yet"
    " made), except the swing: root mean square distance of the last half of the path from its "
    "mean, in units of the front's ranges. Never refreshed, the median instance drifts by about"
    " a tenth in the matched weight, single ones much further; the swing of the path grows on "
    "all. λ = 1/2 is in the results. Command: python -m analysis stale_refresh."
)
REFRESH = (1, 10, 100, 1000, None)
NAMES = tuple("never" if k is None else str(k) for k in REFRESH)
READINGS = ("matched_weight", "excess", "preference_share", "swing")
STEP = 0.1
Readings = dict[str, np.ndarray]


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    instances, replicas, steps = (4, 8, 1500) if fast else (16, 16, 5000)
    settings = {"weighted": (0.25, True), "unweighted": (0.25, False), "half": (0.5, True)}
    found = {
        name: survey(instances, replicas, steps, lam, weighted)
        for name, (lam, weighted) in settings.items()
    }
    with style.figure(2, 2, height=4.4, sharex=True) as (fig, axes):
        draw(axes[0, 0], found, "matched_weight", "Stale values drag the average off its place")
        draw(axes[0, 1], found, "excess", "F suffers beyond k = 100")
        draw(axes[1, 0], found, "preference_share", "The share of updates hardly moves")
        draw(axes[1, 1], found, "swing", "Paths swing ever wider")
        style.save(fig, out, "stale_refresh")
    return {
        "instances": instances,
        "replicas": replicas,
        "updates": steps,
        "refresh": NAMES,
        **{name: summary(readings) for name, readings in found.items()},
    }


@cache
def instance(seed: int) -> LogLinear:
    return random_log_linear(
        seed, prompts=6, responses=4, dimension=8, demonstrations=24, pairs=24, radius=3.0
    )


@lru_cache(maxsize=64)
def certified(problem: LogLinear, lam: float) -> tuple[Front, Minimum]:
    """The front, and the point that MAXRIGHT aims at."""
    return pareto_front(problem, accuracy=3e-4), minimise_max_gap(problem, lam)


def survey(instances: int, replicas: int, steps: int, lam: float, weighted: bool) -> Readings:
    """Readings (instances, 5) of every instance, and the (instances,) nominal matched weight."""
    rows = [measure(instance(seed), replicas, steps, lam, weighted) for seed in range(instances)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def measure(
    problem: LogLinear, replicas: int, steps: int, lam: float, weighted: bool
) -> dict[str, Any]:
    """Readings of one instance at each refresh interval."""
    schedules = [Maxright(lam=lam, refresh=k, weighted=weighted) for k in REFRESH]
    size = STEP if weighted else STEP * 2 * lam * (1 - lam)  # the harmonic mean of the two weights
    tail = np.arange(steps // 2, steps + 1, max(1, steps // 300))
    runs = trajectories(
        problem, schedules, steps=steps, step_size=size, replicas=replicas, checkpoints=tail
    )
    front, best = certified(problem, lam)
    average = runs.average[:, :, -1].reshape(-1, problem.dimension)
    final = problem.losses(average).reshape(len(schedules), replicas, 2)
    paths = runs.losses(problem) / front.ranges
    away = np.sum((paths - paths.mean(axis=2, keepdims=True)) ** 2, axis=-1)
    weights = front.score(final.mean(axis=1)).matched_weight.to_numpy()
    nominal = front.score(best.losses).matched_weight[0]
    above = [excess(problem, s, losses) for s, losses in zip(schedules, final, strict=True)]
    return {
        "matched_weight": weights,
        "excess": np.mean(above, axis=1),
        "preference_share": runs.counts[:, :, -1, 1].mean(axis=1) / runs.checkpoints[-1],
        "swing": np.sqrt(away.mean(axis=2)).mean(axis=1),
        "nominal": nominal,
    }


def summary(found: Readings) -> dict[str, Any]:
    """Medians over instances, and the drift of the matched weight from the nominal one."""
    drift = found["matched_weight"] - found["nominal"][:, None]
    return {
        **{name: np.median(found[name], axis=0) for name in READINGS},
        "nominal_weight": np.median(found["nominal"]),
        "median_drift": np.median(drift, axis=0),
        "largest_drift": np.abs(drift).max(axis=0),
        "weight_furthest": found["matched_weight"][np.abs(drift[:, -1]).argmax(), -1],
        "nominal_furthest": found["nominal"][np.abs(drift[:, -1]).argmax()],
    }


def draw(ax: Axes, found: dict[str, Readings], name: str, title: str) -> None:
    """One reading against k: instances thin, medians thick."""
    at = np.arange(len(NAMES))
    look = style.look("MAXRIGHT")
    ax.plot(at, found["weighted"][name].T, color="0.8", linewidth=0.6, zorder=1)
    lines: dict[str, Any] = {"weighted": "-", "unweighted": (0, (3, 2))}
    for kind, line in lines.items():
        middle = np.median(found[kind][name], axis=0)
        ax.plot(at, middle, **look.line_style(linestyle=line, label=f"{kind} steps"))
    if name == "matched_weight":
        level = np.median(found["weighted"]["nominal"])
        ax.axhline(level, **style.BOUND)
        ax.annotate("minimiser of F", (2, level), (0, -10), textcoords="offset points", fontsize=8)
        ax.legend(loc="upper left")
    if name in ("excess", "swing"):
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if name == "swing":
        ax.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.4]))
        ax.yaxis.set_major_formatter("{x:g}")
    labels = {
        "matched_weight": "matched weight λ*",
        "excess": "F − min F (nats)",
        "preference_share": "share of preference updates",
        "swing": "swing of the path / range",
    }
    ax.set(title=title, ylabel=labels[name], xticks=at, xticklabels=NAMES)
    if name in ("preference_share", "swing"):
        ax.set_xlabel("updates between refreshes, k")


# ---------------------------------------------------------------------- claims


def claim_never_drifts(fast: bool = False) -> Checked:
    """Matched weight at lambda = 1/4: never refreshed, minus refreshed at every update."""
    weights = survey(4 if fast else 6, 8, 2000, 0.25, True)["matched_weight"]
    shift = weights[:, -1] - weights[:, 0]
    known = {"instances": float(len(shift)), "largest": float(shift.max())}
    return Checked(float(np.median(shift)), 0.03, "lower", known, 0.0)


def claim_stale_paths_swing(fast: bool = False) -> Checked:
    """On every instance the path swings at least three times as far unrefreshed as with k = 1."""
    found = survey(4 if fast else 6, 8, 2000, 0.25, True)
    ratio = found["swing"][:, -1] / found["swing"][:, 0]
    return Checked(ratio, np.full(len(ratio), 3.0), "lower", {}, 0.0)


if __name__ == "__main__":
    main(Path("out"))
