"""Why not the distance to the ideal point? It ranks methods by the units of a loss.

Left: end points of the methods beside the certified front. Middle: the ideal distance of the same
end points when the preference loss is reported in other units. Right: front gap and regret against
the matched weight. Both do not depend on the units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from analysis.dossier import style
from analysis.dossier.evidence import MOST, holds_on
from analysis.dossier.mutations import mutate, reject_unknown
from analysis.fernando2024.convex.cases import Case, cases
from analysis.fernando2024.methods import label
from tradeoff.convex import Front, LogLinear, pareto_front, random_log_linear, trajectories
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential
from tradeoff.scores import ideal_distance
from tradeoff.theory.checked import Checked
from tradeoff.theory.invariance import (
    front_gap_invariance,
    rescaled,
    rescaled_weight,
)

CAPTION = (
    "Why not the distance to the ideal point? One instance (d = 16), λ = 1/2, averaged iterates "
    "after {updates} updates of step 0.05 (not tuned: scores are compared, not methods). Middle: "
    "with other units of the preference loss the distance gives {orders} orders of the methods. "
    "Right: front gap (filled) and regret (hollow), which do not depend on units. n = {replicas} "
    "replicas; the data drawn varies; intervals are smaller than the markers. Command: python -m "
    "analysis scores."
)
METHODS: tuple[Schedule, ...] = (
    Sequential(share=0.5),
    Sequential(first="preference", share=0.5),
    Mix(),
    Alright(),
    Maxright(weighted=False),
)
LAM = 0.5
FACTORS = np.geomspace(0.1, 10, 41)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    front = pareto_front(instance(), accuracy=1e-3 if fast else 1e-4)
    steps, replicas = (2000, 32) if fast else (4000, 256)
    losses = end_points(instance(), steps, replicas)
    names = [m.key for m in METHODS]
    distances = np.array([distance(front, losses, f) for f in FACTORS])
    table = front.score(losses, LAM)
    share = range_weight(table.matched_weight.to_numpy(), front)
    with style.figure(1, 3, height=3.2) as (fig, axes):
        draw_losses(axes[0], front, dict(zip(names, losses, strict=True)))
        draw_distances(axes[1], dict(zip(names, distances.T, strict=True)))
        draw_scores(axes[2], names, share, table.front_gap.to_numpy(), table.regret.to_numpy())
        style.save(fig, out, "scores")
    ranks = distances.argsort(axis=1).argsort(axis=1)
    return {
        "updates": steps,
        "replicas": replicas,
        "losses": dict(zip(names, losses, strict=True)),
        "front_gap": dict(zip(names, table.front_gap, strict=True)),
        "matched_weight": dict(zip(names, table.matched_weight, strict=True)),
        "matched_weight_in_ranges": dict(zip(names, share, strict=True)),
        "regret": dict(zip(names, table.regret, strict=True)),
        "ideal_distance": dict(zip(names, table.ideal_distance, strict=True)),
        "orders_by_factor": {
            f"{factor:.3g}": [names[i] for i in order]
            for factor, order in zip(FACTORS[::10], ranks[::10].argsort(axis=1), strict=True)
        },
        "distinct_orders": len(np.unique(ranks, axis=0)),
        "worst_change_of_front_gap": largest_change(front, losses, "front_gap"),
        "worst_change_of_regret": largest_change(front, losses, "regret"),
        "regret_over_gap_sequential": float(table.regret[0] / max(table.front_gap[0], 1e-12)),
        "certified_error": front.error,
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "updates": f"{numbers['updates']:,}",
        "orders": str(numbers["distinct_orders"]),
        "replicas": str(numbers["replicas"]),
    }


# ---------------------------------------------------------------------- runs and scores


@cache
def instance() -> LogLinear:
    return random_log_linear(0)


def end_points(problem: LogLinear, steps: int, replicas: int) -> np.ndarray:
    """(5, 2) mean losses of each method's averaged iterate."""
    runs = trajectories(
        problem, METHODS, steps=steps, step_size=0.05, replicas=replicas, checkpoints=[steps]
    )
    return runs.losses(problem, "average")[:, :, -1].mean(axis=1)


def distance(front: Front, losses: np.ndarray, factor: float) -> np.ndarray:
    """Ideal distance of each end point after the preference loss is multiplied by ``factor``."""
    units = np.array([1.0, factor])
    return ideal_distance(losses * units, front.ideal * units)


def range_weight(weight: np.ndarray, front: Front) -> np.ndarray:
    """Convert a weight of the losses into a weight of the losses in units of their ranges."""
    return rescaled_weight(weight, 1 / front.ranges)


def largest_change(front: Front, losses: np.ndarray, score: str) -> float:
    """Largest change of a score over all factors. The requested weight is converted too."""
    before = front.score(losses, LAM)[score].to_numpy()
    changes = []
    for factor in FACTORS:
        units = np.array([1.0, factor])
        weight = float(rescaled_weight(LAM, units))
        after = rescaled(front, units).score(losses * units, weight)[score].to_numpy()
        changes.append(np.abs(after - before).max())
    return float(np.max(changes))


# ---------------------------------------------------------------------- drawing


def draw_losses(ax: Axes, front: Front, losses: dict[str, np.ndarray]) -> None:
    ax.plot(*front.inner.T, **style.FRONT)
    ax.plot(*front.ideal, **style.IDEAL)
    ax.annotate(
        "ideal point",
        (front.ideal[0], front.ideal[1]),
        (6, -3),
        textcoords="offset points",
        fontsize=8,
    )
    for name, point in losses.items():
        ax.plot(*point, **style.look(name).dots(markersize=7, label=label(name)))
    ax.set(title="Where the methods end", xlabel="SFT loss (nats)", ylabel="preference loss (nats)")
    ax.legend(loc="upper right", fontsize=7.5, handletextpad=0.1)


def draw_distances(ax: Axes, distances: dict[str, np.ndarray]) -> None:
    for name, values in distances.items():
        ax.loglog(FACTORS, values, **style.look(name).line_style(markevery=10))
    ax.set(
        title="Ideal distance, by units",
        xlabel="preference loss times",
        ylabel="distance to the ideal point",
        xticks=[0.1, 1, 10],
        xticklabels=["0.1", "1", "10"],
    )
    ax.yaxis.set_minor_formatter(NullFormatter())


def draw_scores(
    ax: Axes, names: list[str], weight: np.ndarray, gap: np.ndarray, regret: np.ndarray
) -> None:
    floor = 1e-5
    for name, x, low, high in zip(names, weight, gap, regret, strict=True):
        look = style.look(name)
        ax.plot([x, x], np.maximum([low, high], floor), color="0.7", linewidth=0.8, zorder=1)
        ax.plot(x, max(high, floor), **look.dots(markersize=9, markerfacecolor="w"))
        ax.plot(x, max(low, floor), **look.dots(markersize=5))
    ax.set(
        title="Front gap and regret",
        xlabel="matched weight (of ranges)",
        ylabel="gap (filled), regret (hollow)",
        yscale="log",
        xlim=(-0.05, 1.05),
    )


# ---------------------------------------------------------------------- claims


def claim_invariance(fast: bool = False, mutation: str | None = None) -> Checked:
    """Front gaps of random policies agree in nats and in random other units of both losses."""
    reject_unknown(mutation, ("ideal-distance",))
    measured, bounds, slack = [], [], []
    for case in cases(4 if fast else 20):
        problem, rng = case.problem, np.random.default_rng(case.seed)
        front = pareto_front(problem, accuracy=1e-3)
        policies = problem.losses(problem.project(rng.normal(size=(50, problem.dimension))))
        units, shift = rng.lognormal(sigma=2, size=2), rng.normal(size=2)
        found = front_gap_invariance(front, policies, units, shift)
        after, before = np.asarray(found.measured), np.asarray(found.bound)
        if mutation:
            before = ideal_distance(policies, front.ideal)
            after = ideal_distance(policies * units, front.ideal * units)
        measured.append(after)
        bounds.append(before)
        slack.append(np.ravel(found.tolerance))
    parts = [np.concatenate(part) for part in (measured, bounds, slack)]
    return Checked(parts[0], parts[1], "exact", {}, parts[2])


def claim_units_pick_the_winner(fast: bool = False, mutation: str | None = None) -> Checked:
    """Other units of the preference loss change which method is nearest to the ideal point.

    The units are 10 times larger or smaller, as a mean over tokens is smaller than their sum. The
    claim is about most cases.
    """
    reject_unknown(mutation, ("regret",))
    held = []
    for case, front, losses in case_ends(fast):
        winners = set()
        for factor in (0.1, 1.0, 10.0):
            units = np.array([1.0, factor])
            if mutation == "regret":
                weight = float(rescaled_weight(case.lam, units))
                values = rescaled(front, units).score(losses * units, weight).regret.to_numpy()
            else:
                values = ideal_distance(losses * units, front.ideal * units)
            winners.add(int(np.argmin(values)))
        held.append(len(winners) > 1)
    return holds_on(held, MOST)


def claim_small_gap_large_regret(fast: bool = False, mutation: str | None = None) -> Checked:
    """The regret of SFT→DPO is at least twice its certified front gap, on most cases."""
    method = mutate(mutation, 0, {"mix": 2})
    ratios = []
    for case, front, losses in case_ends(fast):
        found = front.score(losses[method][None], case.lam).iloc[0]
        ratios.append(float(found.regret) / float(found.front_gap_upper))
    return holds_on(np.array(ratios) >= 2, MOST, {"median ratio": float(np.median(ratios))})


@lru_cache(maxsize=2)
def case_ends(fast: bool) -> tuple[tuple[Case, Front, np.ndarray], ...]:
    """Every case with its front and the (5, 2) mean losses of each method's averaged iterate."""
    found = []
    for case in cases():
        methods: list[Schedule] = [replace(m, lam=case.lam) for m in METHODS[:-1]]
        methods.append(Maxright(lam=case.lam, weighted=False, refresh=10))
        steps = 1000 if fast else 4000
        runs = trajectories(
            case.problem, methods, steps=steps, step_size=0.05, replicas=8, checkpoints=[steps]
        )
        losses = runs.losses(case.problem, "average")[:, :, -1].mean(axis=1)
        found.append((case, pareto_front(case.problem, accuracy=1e-3), losses))
    return tuple(found)


if __name__ == "__main__":
    main(Path("out"))
