"""What does MAXRIGHT lose if the compared losses are old? Refresh every k updates, or never.

Only the loss of the objective that is not followed grows old. The other loss has just been
computed. Four values are read: the matched weight of the average, its F_lambda, the swing of the
path, and the direction in which runs without a refresh move, by requested weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter

from analysis.dossier import style
from analysis.dossier.evidence import MOST, NEARLY_ALL, equivalent, holds_on
from analysis.dossier.mutations import SWAPPED, mutate, reject_unknown
from analysis.fernando2024.convex import contest
from analysis.fernando2024.convex.cases import COUNT, Case, cases
from analysis.fernando2024.convex.convergence import excess, max_gap_minimum
from analysis.fernando2024.convex.tuning import tune
from tradeoff.convex import (
    Front,
    LogLinear,
    Minimum,
    StepSize,
    minimise_max_gap,
    pareto_front,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Maxright
from tradeoff.scores import interval, max_gap
from tradeoff.theory.checked import Checked

CAPTION = (
    "What do old loss values cost MAXRIGHT? Both losses are evaluated every k updates. Thin: n = "
    "{instances} instances (λ = 1/4). Thick: medians. Solid: weighted steps of 0.1. Dashed: "
    "unweighted. Dotted: tuned for each k; without refreshes F is {ratio} times that at k = 1. "
    "Bottom right (n = {cases}): shift without refreshes at one step, {low} for λ < 1/2, {high} "
    "above (95 % intervals). The instance varies. Command: python -m analysis stale_refresh."
)
REFRESH = (1, 10, 100, 1000, None)
NAMES = tuple("never" if k is None else str(k) for k in REFRESH)
READINGS = ("matched_weight", "excess", "preference_share", "swing")
STEP = 0.1
SCALES = tuple(0.0125 * 2**k for k in range(6))
"""Constant step sizes from which each refresh interval chooses."""
Readings = dict[str, np.ndarray]


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    instances, replicas, steps = (4, 8, 1500) if fast else (20, 16, 5000)
    settings = {
        "weighted": (0.25, True, False),
        "unweighted": (0.25, False, False),
        "half": (0.5, True, False),
        "tuned": (0.25, True, True),
    }
    found = {
        name: survey(instances, replicas, steps, lam, weighted, tuned)
        for name, (lam, weighted, tuned) in settings.items()
    }
    moved = {kind: never_and_always(kind == "tuned", 20 if fast else COUNT) for kind in KINDS}
    with style.figure(2, 2, height=4.8) as (fig, axes):
        draw(axes[0, 0], found, "matched_weight", "Where the average lands")
        draw(axes[0, 1], found, "excess", "What it costs in F")
        draw(axes[1, 0], found, "swing", "How wide the path swings")
        draw_shift(axes[1, 1], moved)
        style.save(fig, out, "stale_refresh")
    return {
        "instances": instances,
        "replicas": replicas,
        "updates": steps,
        "refresh": NAMES,
        **{name: summary(readings) for name, readings in found.items()},
        "shift_of_never_over_lambda": {kind: shift_numbers(pair) for kind, pair in moved.items()},
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    shift = numbers["shift_of_never_over_lambda"]["common"]
    costs = numbers["tuned"]["excess"]

    def text(part: Mapping[str, float]) -> str:
        return f"{part['mean']:+.3f} ± {part['half_width']:.3f}"

    return {
        "instances": str(numbers["instances"]),
        "cases": str(shift["n"]),
        "ratio": f"{costs[-1] / costs[0]:.1f}",
        "low": text(shift["below"]),
        "high": text(shift["above"]),
    }


@cache
def instance(seed: int) -> LogLinear:
    return random_log_linear(
        seed, prompts=6, responses=4, dimension=8, demonstrations=24, pairs=24, radius=3.0
    )


@lru_cache(maxsize=64)
def certified(problem: LogLinear, lam: float) -> tuple[Front, Minimum]:
    """The front, and the minimiser of F_lambda, to which MAXRIGHT should converge."""
    return pareto_front(problem, accuracy=1e-4), minimise_max_gap(problem, lam)


def survey(
    instances: int, replicas: int, steps: int, lam: float, weighted: bool, tuned: bool
) -> Readings:
    """Readings (instances, 5) of every instance, and the (instances,) nominal matched weight."""
    rows = [
        measure(instance(seed), replicas, steps, lam, weighted, tuned) for seed in range(instances)
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def measure(
    problem: LogLinear,
    replicas: int,
    steps: int,
    lam: float,
    weighted: bool,
    tuned: bool,
    refresh: tuple[int | None, ...] = REFRESH,
) -> dict[str, Any]:
    """Values read from one instance at each refresh interval."""
    front, best = certified(problem, lam)
    rows = []
    for k in refresh:
        schedule = Maxright(lam=lam, refresh=k, weighted=weighted)
        size = step_of(problem, schedule, steps, tuned)
        tail = np.arange(steps // 2, steps + 1, max(1, steps // 300))
        runs = trajectories(
            problem, schedule, steps=steps, step_size=size, replicas=replicas, checkpoints=tail
        )
        final = problem.losses(runs.average[0, :, -1])
        paths = runs.losses(problem)[0] / front.ranges
        away = np.sum((paths - paths.mean(axis=1, keepdims=True)) ** 2, axis=-1)
        rows.append({
            "matched_weight": float(front.score(final.mean(axis=0)).matched_weight[0]),
            "excess": float(np.mean(excess(problem, schedule, final))),
            "excesses": excess(problem, schedule, final),
            "preference_share": float(runs.counts[0, :, -1, 1].mean() / steps),
            "swing": float(np.sqrt(away.mean(axis=1)).mean()),
            "step": size.scale,
        })  # fmt: skip
    nominal = float(front.score(best.losses).matched_weight[0])
    return {**{name: np.array([row[name] for row in rows]) for name in rows[0]}, "nominal": nominal}


def step_of(problem: LogLinear, schedule: Maxright, steps: int, tuned: bool) -> StepSize:
    """The common step size, or the one that is best for F_lambda on draws that are not reported."""
    lam = schedule.lam
    if tuned:
        optima, _ = max_gap_minimum(problem, lam)
        judge = partial(max_gap, optima=optima, lam=lam)
        return tune(
            problem, schedule, steps, judge, scales=SCALES, decay=0.0, iterate="average", replicas=4
        ).step
    # The harmonic mean of the two weights gives unweighted steps the same mean length.
    return StepSize(STEP if schedule.weighted else STEP * 2 * lam * (1 - lam))


KINDS = ("common", "tuned")
"""Step sizes: one for every refresh interval, or the best of each."""


@lru_cache(maxsize=4)
def never_and_always(tuned: bool, count: int) -> tuple[tuple[Case, dict[str, Any]], ...]:
    """Every case with the values read at k = 1 and without refreshes: 2,000 updates, 8 replicas."""
    return tuple(
        (case, measure(case.problem, 8, 2000, case.lam, True, tuned, (1, None)))
        for case in cases(count)
    )


def shifts(pairs: tuple[tuple[Case, dict[str, Any]], ...]) -> tuple[np.ndarray, np.ndarray]:
    """(cases,) requested weights, and shifts of the matched weight in runs without refreshes."""
    lam = np.array([case.lam for case, _ in pairs])
    return lam, np.array([np.diff(found["matched_weight"])[0] for _, found in pairs])


def shift_numbers(pairs: tuple[tuple[Case, dict[str, Any]], ...]) -> dict[str, Any]:
    """Mean shift below and above lambda = 1/2, and all shifts."""
    lam, shift = shifts(pairs)
    found: dict[str, Any] = {"n": len(lam), "lam": lam, "shift": shift}
    for name, chosen in (("below", lam < 0.5), ("above", lam > 0.5)):
        part = interval(shift[chosen])
        found[name] = {"mean": float(part.mean), "half_width": float(part.high - part.mean)}
    return found


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
    """Draw one value against k, with thin lines for instances and thick ones for medians."""
    at = np.arange(len(NAMES))
    look = style.look("maxright")
    ax.plot(at, found["weighted"][name].T, color="0.8", linewidth=0.6, zorder=1)
    lines: dict[str, tuple[Any, str]] = {
        "weighted": ("-", "weighted steps"),
        "unweighted": ((0, (3, 2)), "unweighted steps"),
        "tuned": (":", "tuned steps"),
    }
    for kind, (line, label) in lines.items():
        middle = np.median(found[kind][name], axis=0)
        ax.plot(at, middle, **look.line_style(linestyle=line, label=label))
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
        "swing": "swing of the path / range",
    }
    ax.set(title=title, ylabel=labels[name], xticks=at, xticklabels=NAMES,
           xlabel="updates between refreshes, k")  # fmt: skip


def draw_shift(ax: Axes, moved: Mapping[str, tuple[tuple[Case, dict[str, Any]], ...]]) -> None:
    """Draw the shift of every case against the requested weight, at one step and at tuned ones."""
    look = style.look("maxright")
    marks = {"common": {"label": "one step"}, "tuned": {"marker": "o", "markerfacecolor": "none"}}
    for kind, pairs in moved.items():
        dots = look.dots(**{"markersize": 4, "label": kind, **marks[kind]})
        ax.plot(*shifts(pairs), **dots)
    ax.axhline(0, color="k", linewidth=0.8)
    ax.legend(loc="upper right", handletextpad=0.1)
    ax.set(
        title="Never − every update",
        xlabel="requested weight λ",
        ylabel="shift of the matched weight",
    )


# ---------------------------------------------------------------------- claims


def claim_never_drifts(fast: bool = False, mutation: str | None = None) -> Checked:
    """At one step size, runs without refreshes end at a larger matched weight where lambda < 1/2.

    The claim is about most cases. Where lambda is larger no direction is claimed: ``mean above`` is
    the mean shift there.
    """
    del fast
    reject_unknown(mutation, (SWAPPED,))
    lam, shift = shifts(never_and_always(False, COUNT))
    shift = -shift if mutation == SWAPPED else shift
    known = {f"mean {k}": float(shift[s].mean()) for k, s in
             (("below", lam < 0.5), ("above", lam > 0.5))}  # fmt: skip
    return holds_on(shift[lam < 0.5] > 0, MOST, known)


def claim_tuned_steps_do_not_drift(fast: bool = False, mutation: str | None = None) -> Checked:
    """Against us: with a step tuned for each, the mean shift lies within 0.03 (equivalence)."""
    del fast
    reject_unknown(mutation, ("common-step",))
    lam, shift = shifts(never_and_always(mutation is None, COUNT))
    return equivalent(shift[lam < 0.5], 0.03)


def claim_never_costs(fast: bool = False, mutation: str | None = None) -> Checked:
    """With a step tuned for each, F without refreshes is larger than at k = 1, on most cases."""
    del fast
    reject_unknown(mutation, (SWAPPED,))
    found = np.stack([row["excesses"] for _, row in never_and_always(True, COUNT)], axis=1)
    always, never = found[::-1] if mutation == SWAPPED else found
    return holds_on(contest.beats(always, never), MOST)


def claim_stale_paths_swing(fast: bool = False, mutation: str | None = None) -> Checked:
    """At one step size paths without refreshes swing twice as far as at k = 1, on nearly all."""
    del fast
    reject_unknown(mutation, (SWAPPED,))  # Checked before anything is computed.
    swing = np.stack([row["swing"] for _, row in never_and_always(False, COUNT)], axis=1)
    always, never = mutate(mutation, swing, {SWAPPED: swing[::-1]})
    known = {"median ratio": float(np.median(never / always))}
    return holds_on(never > 2 * always, NEARLY_ALL, known)


if __name__ == "__main__":
    main(Path("out"))
