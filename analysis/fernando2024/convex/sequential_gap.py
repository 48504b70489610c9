"""Does the gap of sequential training close with more updates?

Left: gap of f_lambda against the number of gradients with tuned step sizes, and the limit of
sequential training with its two certified bounds. Right: the limit gap of the binary
example against the radius: closed form and simulated runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.evidence import MOST, holds_on
from analysis.dossier.mutations import SFT_ONLY, SWAPPED, WRONG_OBJECTIVE, mutate, reject_unknown
from analysis.fernando2024.convex import contest
from analysis.fernando2024.convex.cases import cases
from analysis.fernando2024.convex.tuning import Tuned, ends, tune, tune_each_stage, updates
from analysis.fernando2024.methods import label
from tradeoff.convex import (
    LogLinear,
    binary_example,
    minimise,
    minimise_max_gap,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Alright, Mix, Schedule, Sequential
from tradeoff.scores import Interval, interval
from tradeoff.theory.binary import binary_gap
from tradeoff.theory.checked import Checked
from tradeoff.theory.sequential import First, LimitGap, half_gap_steps, limit_gap

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]
ORDERS: tuple[First, First] = ("sft", "preference")
JOINT: tuple[Schedule, ...] = (Mix(), Alright())
RADII = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
HINDSIGHT = "tuned for f_lambda"
JOINT_TRAINING = "joint-training"
CAPTION = (
    "Does more training close the gap? Left: mean gap of f_λ (λ = 1/2) after T gradients, last "
    "iterate, one problem (d = 16), tuned steps. If each stage is tuned for its own loss (thick), "
    "the gap tends to the limit (hollow; bar: certified range). Tuned with hindsight (thin), it is "
    "{times} times ALRIGHT's. n = {replicas} replicas; the data order varies; bands: 95 % "
    "intervals. Right: binary example (n = 1). Command: python -m analysis sequential_gap"
)


@dataclass(frozen=True)
class Curve:
    """Mean gaps of a method by length of the run, and the step sizes chosen for it."""

    gap: Interval
    tuned: list[Tuned]

    def numbers(self) -> dict[str, Any]:
        return {
            "mean": self.gap.mean,
            "half_width": self.gap.high - self.gap.mean,
            "step": [found.scales for found in self.tuned],
            "inside_the_grid": [found.inside for found in self.tuned],
        }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem, replicas = random_log_linear(0), 64 if fast else 256
    lengths: Lengths = 2 ** np.arange(5, 9 if fast else 14)
    limits = {key(first): limit_gap(problem, 0.5, first) for first in ORDERS}
    orders = {key(first): Sequential(first=first) for first in ORDERS}
    own = {name: curve(problem, s, lengths, replicas, own=True) for name, s in orders.items()}
    hindsight = {name: curve(problem, s, lengths, replicas) for name, s in orders.items()}
    joint = {m.key: curve(problem, m, lengths, replicas) for m in JOINT}
    radii = np.array(RADII[:6] if fast else RADII)
    with style.figure(1, 2, height=3.6) as (fig, (left, right)):
        draw_lengths(left, lengths, own | joint, hindsight, limits)
        numbers = draw_radii(right, radii)
        style.save(fig, out, "sequential_gap")
    last = joint["alright"].gap.mean[-1]
    return {
        "gradients": lengths,
        "replicas": replicas,
        "gap": {name: found.numbers() for name, found in (own | joint).items()},
        "gap_with_hindsight": {name: found.numbers() for name, found in hindsight.items()},
        "limit": {name: _limit_numbers(limit) for name, limit in limits.items()},
        "gap_at_the_minimiser_of_F": float(
            gap_of(problem, minimise_max_gap(problem, 0.5).theta[None])[0]
        ),
        "updates_that_certify_half_the_gap": {
            key(first): half_gap_steps(problem, 0.5, first) for first in ORDERS
        },
        "last_gap_over_alright": {
            "own loss": {name: float(found.gap.mean[-1] / last) for name, found in own.items()},
            HINDSIGHT: {name: float(f.gap.mean[-1] / last) for name, f in hindsight.items()},
        },
        "binary": numbers,
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    values = numbers["last_gap_over_alright"][HINDSIGHT].values()
    return {
        "times": f"{min(values):.1f} to {max(values):.1f}",
        "replicas": str(numbers["replicas"]),
    }


def key(first: First) -> str:
    return Sequential(first=first).key


def gap_of(problem: LogLinear, theta: Array, lam: float = 0.5) -> Array:
    """Gap of f_lambda at theta (..., d)."""
    losses = problem.losses(theta.reshape(-1, theta.shape[-1])).reshape(*theta.shape[:-1], 2)
    return np.asarray(losses @ [1 - lam, lam] - minimise(problem, lam, tolerance=1e-13).value)


def curve(
    problem: LogLinear, method: Schedule, lengths: Lengths, replicas: int, own: bool = False
) -> Curve:
    """Gap of complete runs of every length, each with its tuned steps.

    The stage boundary of an order moves with the length. ``own`` tunes each stage for its own loss.
    """
    best = minimise(problem, method.lam, tolerance=1e-13).value
    rows, found = [], []
    for length in lengths.tolist():
        steps = updates(method, length, 1.0)
        if own and isinstance(method, Sequential):
            found.append(tune_each_stage(problem, method, steps))
        else:
            found.append(tune(problem, method, steps))
        losses = ends(problem, method, steps, found[-1].step, replicas=replicas)
        rows.append(losses @ [1 - method.lam, method.lam] - best)
    return Curve(interval(np.stack(rows, axis=1)), found)


def draw_lengths(
    ax: Axes,
    lengths: Lengths,
    curves: dict[str, Curve],
    hindsight: dict[str, Curve],
    limits: dict[str, LimitGap],
) -> None:
    """Draw the gap against T on log axes, and each order's limit with its certified range."""
    end = float(lengths[-1])
    levels, texts = {}, {}
    for name, found in curves.items():
        look, gap = style.look(name), found.gap
        ax.loglog(lengths, gap.mean, **look.line_style())
        ax.fill_between(lengths, gap.low, gap.high, color=look.color, alpha=0.2, linewidth=0)
        if name in limits:
            style.label_line(ax, 3.1 * end, limits[name].gap, label(name), color=look.color)
        else:
            levels[name], texts[name] = float(gap.mean[-1]), label(name)
    for name, found in hindsight.items():
        look = style.look(name)
        ax.loglog(lengths, found.gap.mean, color=look.color, linestyle=look.line, linewidth=0.8)
        levels[f"{name}-hindsight"] = float(found.gap.mean[-1])
        texts[f"{name}-hindsight"] = f"{label(name)}, hindsight"
    for name, place in style.apart(levels, 1.45).items():
        style.label_line(ax, end, place, texts[name], color=style.look(name).color)
    for k, (name, limit) in enumerate(limits.items()):
        x, color = end * (1.7 + 0.9 * k), style.look(name).color
        low, high = (float(np.asarray(side.bound)) for side in (limit.lower, limit.upper))
        ax.plot([lengths[0], x], [limit.gap] * 2, **style.BOUND, zorder=0)
        ax.plot([x, x], [low, high], color=color, linewidth=1, marker="_", markersize=9)
        ax.plot(x, limit.gap, **style.look(name).dots(markerfacecolor="white"))
    top = max(float(np.asarray(limit.upper.bound)) for limit in limits.values())
    ax.annotate("certified range\nof the limit", (2.1 * end, top * 1.2), ha="center", fontsize=7.5)
    ax.set(
        title="Stages tuned for their own loss forget",
        xlabel="gradients T",
        ylabel="gap (nats)",
        xlim=(lengths[0] / 1.3, end * 70),
        ylim=(None, top * 2.6),
    )


def simulated_binary(lam: float, beta: float, radius: float, first: First) -> float:
    """Gap of a run on the binary example, both stages long enough to reach the boundary."""
    problem = binary_example(radius, beta)
    # On the way outwards, |theta'| >= step * w * exp(-w |theta|) / 2 with w = beta or 1.
    stage = int(np.exp(max(1.0, beta) * radius) / min(1.0, beta) / 1.5) + 20
    runs = trajectories(
        problem,
        Sequential(lam=lam, first=first, share=0.5),
        steps=2 * stage,
        step_size=4.0,
        replicas=1,
        checkpoints=[2 * stage],
    )
    return float(gap_of(problem, runs.last[0, :, 0], lam)[0])


def draw_radii(ax: Axes, radii: Array) -> dict[str, Any]:
    """Draw the closed-form and the simulated gap of the binary example against the radius."""
    fine = np.linspace(0.01, radii[-1], 200)
    numbers: dict[str, Any] = {"radii": radii}
    for lam, weight in ((0.5, 1.4), (0.25, 0.8)):
        for first in ORDERS if lam != 0.5 else ORDERS[:1]:
            line = [binary_gap(lam, 1.0, float(r), first) for r in fine]
            ax.plot(fine, line, color="0.35", linewidth=weight)
            text = r"$\log\,\cosh(R/2)$" if lam == 0.5 else rf"{label(key(first))}, $\lambda$=1/4"
            style.label_line(ax, fine[-1], line[-1], text, color="0.2")
        for first in ORDERS:
            look = style.look(key(first))
            found = [simulated_binary(lam, 1.0, float(r), first) for r in radii]
            exact = [binary_gap(lam, 1.0, float(r), first) for r in radii]
            # Both orders coincide at lambda = 1/2. One is drawn at the odd places, the other at the
            # even ones.
            show = slice(ORDERS.index(first), None, 2) if lam == 0.5 else slice(None)
            ax.plot(
                radii[show],
                found[show],
                **look.dots(label=label(key(first)) if lam < 0.5 else None),
            )
            numbers[f"{key(first)} lambda={lam}"] = {"simulated": found, "closed_form": exact}
    lower = [float(np.asarray(limit_gap(binary_example(r), 0.5).lower.bound)) for r in fine[::4]]
    ax.plot(fine[::4], lower, **style.BOUND)
    style.label_line(ax, fine[-1], lower[-1], r"certified ($\lambda$=1/2)", color="0.35")
    mix = [mixed_binary(float(r)) for r in radii]
    ax.plot(radii, mix, **style.look("mix").line_style(markersize=3))
    style.label_line(ax, radii[-1], mix[-1], label("mix"), color="k")
    ax.set(
        title="In the limit, no radius bounds the gap",
        xlabel="radius R of the parameter ball",
        ylabel="limit gap (nats)",
        xlim=(0, radii[-1] * 1.42),
        xticks=np.arange(0, radii[-1] + 1, 2),
    )
    ax.legend(loc="upper left")
    return {**numbers, "mix lambda=0.5": mix}


def mixed_binary(radius: float) -> float:
    """Gap of Mix on the binary example, started at the boundary."""
    problem = binary_example(radius)
    runs = trajectories(
        problem, Mix(), steps=200, step_size=1.0, replicas=1, start=[radius], checkpoints=[200]
    )
    return float(gap_of(problem, runs.last[0, :, 0])[0])


# ------------------------------------------------------------------ claims


def claim_closed_form(fast: bool = False, mutation: str | None = None) -> Checked:
    """Simulated sequential runs of the binary example end at the closed-form gap (exact)."""
    del fast
    reject_unknown(mutation, (SWAPPED, WRONG_OBJECTIVE))
    settings = [(0.5, 1.0, r) for r in (0.5, 2.0, 5.0)] + [(0.25, 1.0, 3.0), (0.7, 0.5, 2.0)]
    cases = [(*s, first) for s in settings for first in ORDERS]
    other = {"sft": ORDERS[1], "preference": ORDERS[0]}
    found = [
        binary_gap(
            1 - lam if mutation == WRONG_OBJECTIVE else lam,
            beta,
            radius,
            other[first] if mutation == SWAPPED else first,
        )
        for lam, beta, radius, first in cases
    ]
    return Checked(
        np.array([simulated_binary(*case) for case in cases]),
        np.array(found),
        "exact",
        {"cases": float(len(cases))},
        1e-9,
    )


def claim_log_cosh(fast: bool = False, mutation: str | None = None) -> Checked:
    """At beta = 1 and lambda = 1/2 the closed form is log cosh(R/2), for both orders (exact)."""
    del fast
    lam = mutate(mutation, 0.5, {WRONG_OBJECTIVE: 0.25})
    radii = np.array([0.1, 1.0, 4.0, 10.0, 30.0])
    found = [[binary_gap(lam, 1.0, float(r), first) for r in radii] for first in ORDERS]
    return Checked(np.array(found), np.tile(np.log(np.cosh(radii / 2)), (2, 1)), "exact", {}, 1e-12)


def claim_limit_lower(fast: bool = False, mutation: str | None = None) -> Checked:
    """The limit gap of either order is above its certified bound, which is positive (lower).

    A bound that is not clearly positive counts as a failure.
    """
    reject_unknown(mutation, (JOINT_TRAINING,))
    limits = random_limits(24 if fast else 40)
    tolerance = max(float(np.max(limit.lower.tolerance)) for limit in limits)
    bounds = np.array([float(np.asarray(limit.lower.bound)) for limit in limits])
    bounds[bounds < 10 * tolerance] = np.nan
    gaps = np.array([limit.gap for limit in limits])
    if mutation == JOINT_TRAINING:
        joint = [
            gap_of(case.problem, minimise(case.problem, case.lam).theta[None], case.lam)[0]
            for case in cases(len(limits) // 2)
        ]
        gaps = np.repeat(joint, 2)
    return Checked(gaps, bounds, "lower", {"smallest bound": float(bounds.min())}, tolerance)


def claim_limit_upper(fast: bool = False, mutation: str | None = None) -> Checked:
    """The limit gap of either order is below its certified bound (upper)."""
    limits = random_limits(24 if fast else 40)
    bounds = np.array([float(np.asarray(limit.upper.bound)) for limit in limits])
    # Limits of both orders alternate, so a shift by one exchanges them.
    bounds = mutate(mutation, bounds, {SWAPPED: bounds.reshape(-1, 2)[:, ::-1].ravel()})
    return Checked(np.array([limit.gap for limit in limits]), bounds, "upper", {}, 1e-12)


@lru_cache(maxsize=2)
def random_limits(instances: int) -> list[LimitGap]:
    """Limit gaps of both orders on every case, the orders alternating."""
    return [
        limit_gap(case.problem, case.lam, first) for case in cases(instances) for first in ORDERS
    ]


def claim_first_stage_leaves_no_trace(fast: bool = False, mutation: str | None = None) -> Checked:
    """After a long second stage the gap is the limit gap, for any first stage (exact).

    The runs use exact gradients, first stages of three lengths, and a random start for every case.
    """
    reject_unknown(mutation, (SWAPPED, JOINT_TRAINING))
    runs = [
        long_second_stages(case.problem, case.lam, case.seed, 1500, mutation)
        for case in cases(4 if fast else 24, dimension=2, radius=2.0)
    ]
    gaps, limits = np.concatenate(runs, axis=1)
    return Checked(gaps, limits, "exact", {"updates": 1500.0}, 1e-3)


def long_second_stages(
    problem: LogLinear, lam: float, seed: int, updates: int, mutation: str | None
) -> Array:
    """(2, 6) gaps at the end, and the limits, of both orders and three shares."""
    pairs = [(first, share) for first in ORDERS for share in (0.0, 0.2, 0.6)]
    schedules: list[Schedule] = [Sequential(lam=lam, first=f, share=share) for f, share in pairs]
    if mutation == JOINT_TRAINING:
        schedules = [Mix(lam=lam)] * len(pairs)
    start = np.random.default_rng(seed).normal(size=problem.dimension)
    ran = trajectories(
        problem, schedules, steps=updates, step_size=0.5, replicas=1, start=start,
        checkpoints=[updates], gradients="full",
    )  # fmt: skip
    limits = [limit_gap(problem, lam, first).gap for first, _ in pairs]
    limits = limits[::-1] if mutation == SWAPPED else limits
    return np.stack([gap_of(problem, ran.last[:, 0, 0], lam), limits])


def claim_joint_falls_beneath(fast: bool = False, mutation: str | None = None) -> Checked:
    """With each stage tuned for its own loss the gap is twice that of Mix and ALRIGHT, on most.

    ``held`` counts the cases in which this is true of both orders and both joint methods.
    """
    reject_unknown(mutation, (SWAPPED, SFT_ONLY))
    held = []
    for order in contest.ORDERS:
        for name in contest.JOINT:
            sequential = contest.gaps(order, fast, own=True)
            joint = contest.gaps(SFT_ONLY if mutation == SFT_ONLY else name, fast)
            pair = (joint, sequential) if mutation != SWAPPED else (sequential, joint)
            held.append(contest.beats(*pair, factor=2.0))
    return holds_on(np.all(held, axis=0), MOST)


def _limit_numbers(limit: LimitGap) -> dict[str, float]:
    return {
        "gap": limit.gap,
        "certified_lower": float(np.asarray(limit.lower.bound)),
        "certified_upper": float(np.asarray(limit.upper.bound)),
    }


if __name__ == "__main__":
    main(Path("out"))
