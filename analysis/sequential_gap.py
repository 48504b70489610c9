"""Does the gap of sequential training close with more updates?

Left: gap of f_lambda against the number of gradients, with the limit and its two certified sides.
Right: the limit gap of the binary example against the radius: closed form and simulated runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis import style
from tradeoff.convex import (
    LogLinear,
    StepSize,
    binary_example,
    minimise,
    minimise_max_gap,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential
from tradeoff.scores import Interval, interval
from tradeoff.theory.binary import binary_gap
from tradeoff.theory.checked import Checked
from tradeoff.theory.sequential import First, LimitGap, half_gap_steps, limit_gap

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]
STEP = StepSize(1.0, 0.5)
ORDERS: tuple[First, First] = ("sft", "preference")
JOINT: tuple[Schedule, ...] = (Mix(), Alright(), Maxright())
RADII = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
CAPTION = (
    "Left: mean gap of f_lambda, lambda = 1/2, after T gradients (sequential: T/2 for each stage; "
    "Mix: T/2 updates), one problem with d = 16, step 1/sqrt(t) within each stage, last iterate; "
    "what varies is the data order, n = 256 replicas, bands are 95 % intervals. Dashed: the limit "
    "of each order (hollow marker) inside the range that its gradient alone certifies. MAXRIGHT "
    "minimises F_lambda, so its gap of f_lambda levels off at that of the minimiser of F_lambda, "
    "which is no forgetting. Right: the binary example; markers are simulated runs "
    "(deterministic, n = 1), lines the closed form, log cosh(R/2) at lambda = 1/2, where both "
    "orders coincide and their markers take turns. Where R is small and the last objective has "
    "the larger weight, the optimum lies on the boundary too and the gap is zero. Command: python "
    "-m analysis sequential_gap"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem, replicas = random_log_linear(0), 64 if fast else 256
    lengths: Lengths = 2 ** np.arange(5, 9 if fast else 14)
    limits = {label(first): limit_gap(problem, 0.5, first) for first in ORDERS}
    gaps = {label(first): sequential_gaps(problem, first, lengths, replicas) for first in ORDERS}
    gaps |= {m.label: joint_gaps(problem, m, lengths, replicas) for m in JOINT}
    radii = np.array(RADII[:6] if fast else RADII)
    with style.figure(1, 2, height=3.6) as (fig, (left, right)):
        draw_lengths(left, lengths, gaps, limits)
        numbers = draw_radii(right, radii)
        style.save(fig, out, "sequential_gap")
    return {
        "gradients": lengths,
        "replicas": replicas,
        "gap": {name: {"mean": g.mean, "half_width": g.high - g.mean} for name, g in gaps.items()},
        "limit": {name: _limit_numbers(limit) for name, limit in limits.items()},
        "gap_at_the_minimiser_of_F": float(
            gap_of(problem, minimise_max_gap(problem, 0.5).theta[None])[0]
        ),
        "updates_that_certify_half_the_gap": {
            label(first): half_gap_steps(problem, 0.5, first) for first in ORDERS
        },
        "last_gap_over_alright": {
            name: float(gaps[name].mean[-1] / gaps["ALRIGHT"].mean[-1]) for name in limits
        },
        "binary": numbers,
    }


def label(first: First) -> str:
    return Sequential(first=first).label


def gap_of(problem: LogLinear, theta: Array, lam: float = 0.5) -> Array:
    """Gap of f_lambda at theta (..., d)."""
    losses = problem.losses(theta.reshape(-1, theta.shape[-1])).reshape(*theta.shape[:-1], 2)
    return np.asarray(losses @ [1 - lam, lam] - minimise(problem, lam, tolerance=1e-13).value)


def sequential_gaps(problem: LogLinear, first: First, lengths: Lengths, replicas: int) -> Interval:
    """Gap of complete runs of every length: the stage boundary moves with the length."""
    ends = []
    for length in lengths.tolist():
        runs = trajectories(
            problem,
            Sequential(first=first),
            steps=length,
            step_size=STEP,
            replicas=replicas,
            checkpoints=[length],
        )
        ends.append(gap_of(problem, runs.last[0, :, 0]))
    return interval(np.stack(ends, axis=1))


def joint_gaps(problem: LogLinear, method: Schedule, lengths: Lengths, replicas: int) -> Interval:
    """Gap of a joint method after as many gradients."""
    marks = (lengths / method.plan(1).cost()[0]).astype(int)
    runs = trajectories(
        problem,
        method,
        steps=int(marks[-1]),
        step_size=STEP,
        replicas=replicas,
        checkpoints=marks,
    )
    return interval(gap_of(problem, runs.last[0]))


def draw_lengths(
    ax: Axes, lengths: Lengths, gaps: dict[str, Interval], limits: dict[str, LimitGap]
) -> None:
    """Gap against T, log-log; on the right, each order's limit inside its certified range."""
    end = float(lengths[-1])
    for name, found in gaps.items():
        look = style.look(name)
        ax.loglog(lengths, found.mean, **look.line_style())
        ax.fill_between(lengths, found.low, found.high, color=look.color, alpha=0.2, linewidth=0)
        limit = limits.get(name)
        place = (end, float(found.mean[-1])) if limit is None else (3.1 * end, limit.gap)
        style.label_line(ax, *place, name, color=look.color)
    for k, (name, limit) in enumerate(limits.items()):
        x, color = end * (1.7 + 0.9 * k), style.look(name).color
        low, high = (float(np.asarray(side.bound)) for side in (limit.lower, limit.upper))
        ax.plot([lengths[0], x], [limit.gap] * 2, **style.BOUND, zorder=0)
        ax.plot([x, x], [low, high], color=color, linewidth=1, marker="_", markersize=9)
        ax.plot(x, limit.gap, **style.look(name).dots(markerfacecolor="white"))
    top = max(float(np.asarray(limit.upper.bound)) for limit in limits.values())
    ax.annotate("certified range\nof the limit", (2.1 * end, top * 1.2), ha="center", fontsize=7.5)
    ax.set(
        title="More updates do not close the gap",
        xlabel="gradients T",
        ylabel="gap (nats)",
        xlim=(lengths[0] / 1.3, end * 18),
        ylim=(None, top * 2.6),
    )


def simulated_binary(lam: float, beta: float, radius: float, first: First) -> float:
    """Gap of a run on the binary example, both stages long enough to reach the boundary."""
    problem = binary_example(radius, beta)
    # While it walks outwards, |theta'| >= step * w * exp(-w |theta|) / 2 with w = beta or 1.
    stage = int(np.exp(max(1.0, beta) * radius) / min(1.0, beta) / 1.5) + 20
    runs = trajectories(
        problem,
        Sequential(lam=lam, first=first),
        steps=2 * stage,
        step_size=4.0,
        replicas=1,
        checkpoints=[2 * stage],
    )
    return float(gap_of(problem, runs.last[0, :, 0], lam)[0])


def draw_radii(ax: Axes, radii: Array) -> dict[str, Any]:
    """Closed form and simulated gap of the binary example against the radius."""
    fine = np.linspace(0.01, radii[-1], 200)
    numbers: dict[str, Any] = {"radii": radii}
    for lam, weight in ((0.5, 1.4), (0.25, 0.8)):
        for first in ORDERS if lam != 0.5 else ORDERS[:1]:
            line = [binary_gap(lam, 1.0, float(r), first) for r in fine]
            ax.plot(fine, line, color="0.35", linewidth=weight)
            text = r"$\log\,\cosh(R/2)$" if lam == 0.5 else rf"{label(first)}, $\lambda$=1/4"
            style.label_line(ax, fine[-1], line[-1], text, color="0.2")
        for first in ORDERS:
            look = style.look(label(first))
            found = [simulated_binary(lam, 1.0, float(r), first) for r in radii]
            exact = [binary_gap(lam, 1.0, float(r), first) for r in radii]
            # Both orders coincide at lambda = 1/2: one fills the odd places, the other the even.
            show = slice(ORDERS.index(first), None, 2) if lam == 0.5 else slice(None)
            ax.plot(
                radii[show], found[show], **look.dots(label=label(first) if lam < 0.5 else None)
            )
            numbers[f"{label(first)} lambda={lam}"] = {"simulated": found, "closed_form": exact}
    lower = [float(np.asarray(limit_gap(binary_example(r), 0.5).lower.bound)) for r in fine[::4]]
    ax.plot(fine[::4], lower, **style.BOUND)
    style.label_line(ax, fine[-1], lower[-1], r"certified ($\lambda$=1/2)", color="0.35")
    mix = [mixed_binary(float(r)) for r in radii]
    ax.plot(radii, mix, **style.look("Mix").line_style(markersize=3))
    style.label_line(ax, radii[-1], mix[-1], "Mix", color="k")
    ax.set(
        title="The worst case grows without bound",
        xlabel="radius R of the parameter ball",
        ylabel="limit gap (nats)",
        xlim=(0, radii[-1] * 1.42),
        xticks=np.arange(0, radii[-1] + 1, 2),
    )
    ax.legend(loc="upper left")
    return {**numbers, "Mix lambda=0.5": mix}


def mixed_binary(radius: float) -> float:
    """Gap of Mix on the binary example from the boundary."""
    problem = binary_example(radius)
    runs = trajectories(
        problem, Mix(), steps=200, step_size=1.0, replicas=1, start=[radius], checkpoints=[200]
    )
    return float(gap_of(problem, runs.last[0, :, 0])[0])


# ------------------------------------------------------------------ claims


def claim_closed_form(fast: bool = False) -> Checked:
    """Simulated sequential runs of the binary example end at the closed-form gap (exact)."""
    settings = [(0.5, 1.0, r) for r in (0.5, 2.0, 5.0)] + [(0.25, 1.0, 3.0), (0.7, 0.5, 2.0)]
    cases = [(*s, first) for s in settings for first in ORDERS]
    return Checked(
        np.array([simulated_binary(*case) for case in cases]),
        np.array([binary_gap(*case) for case in cases]),
        "exact",
        {"cases": float(len(cases))},
        1e-9,
    )


def claim_log_cosh(fast: bool = False) -> Checked:
    """At beta = 1 and lambda = 1/2 the closed form is log cosh(R/2), for both orders (exact)."""
    radii = np.array([0.1, 1.0, 4.0, 10.0, 30.0])
    found = [[binary_gap(0.5, 1.0, float(r), first) for r in radii] for first in ORDERS]
    return Checked(np.array(found), np.tile(np.log(np.cosh(radii / 2)), (2, 1)), "exact", {}, 1e-12)


def claim_limit_lower(fast: bool = False) -> Checked:
    """On random instances the limit gap of either order exceeds its certified bound (lower)."""
    limits = random_limits(6 if fast else 20)
    bounds = np.array([float(np.asarray(limit.lower.bound)) for limit in limits])
    if not np.all(bounds > 0):
        raise AssertionError("a certified bound is not positive")
    gaps = np.array([limit.gap for limit in limits])
    tolerance = max(float(np.max(limit.lower.tolerance)) for limit in limits)
    return Checked(gaps, bounds, "lower", {"smallest bound": float(bounds.min())}, tolerance)


def claim_limit_upper(fast: bool = False) -> Checked:
    """On random instances the limit gap of either order is below its certified bound (upper)."""
    limits = random_limits(6 if fast else 20)
    bounds = np.array([float(np.asarray(limit.upper.bound)) for limit in limits])
    return Checked(np.array([limit.gap for limit in limits]), bounds, "upper", {}, 1e-12)


def random_limits(instances: int) -> list[LimitGap]:
    """Limit gaps of both orders on instances of varied conflict, dimension, radius and weight."""
    rng = np.random.default_rng(20241015)
    problems = [
        random_log_linear(
            seed,
            dimension=int(rng.integers(2, 12)),
            conflict=float(rng.uniform(0.25, 1.0)),
            radius=float(rng.uniform(1.0, 5.0)),
            beta=float(rng.uniform(0.2, 2.0)),
        )
        for seed in range(instances)
    ]
    weights = rng.uniform(0.1, 0.9, instances).tolist()
    return [
        limit_gap(problem, lam, first)
        for problem, lam in zip(problems, weights, strict=True)
        for first in ORDERS
    ]


def claim_first_stage_leaves_no_trace(fast: bool = False) -> Checked:
    """After a long second stage the gap is the limit gap, whatever the first stage was (exact)."""
    problem = random_log_linear(
        104, prompts=4, responses=4, dimension=2, demonstrations=24, pairs=24,
        conflict=0.6, sharpness=1.5,
    )  # fmt: skip
    cases = [(first, share) for first in ORDERS for share in (0.0, 0.2, 0.6)]
    updates = 1500 if fast else 2500
    runs = trajectories(
        problem,
        [Sequential(first=first, share=share) for first, share in cases],
        steps=updates,
        step_size=0.5,
        replicas=1,
        checkpoints=[updates],
        gradients="full",
    )
    limits = [limit_gap(problem, 0.5, first).gap for first, _ in cases]
    found = gap_of(problem, runs.last[:, 0, 0])
    return Checked(found, np.array(limits), "exact", {"updates": float(updates)}, 1e-3)


def claim_joint_falls_beneath(fast: bool = False) -> Checked:
    """After 2,048 gradients both orders keep at least five times the gap of Mix and ALRIGHT."""
    problem, lengths = random_log_linear(0), np.array([2048])
    kept = [sequential_gaps(problem, first, lengths, 256).low[0] for first in ORDERS]
    joint = max(joint_gaps(problem, m, lengths, 256).high[0] for m in JOINT[:2])
    return Checked(np.array(kept), np.full(2, 5 * joint), "lower", {"n": 256.0}, 0.0)


def _limit_numbers(limit: LimitGap) -> dict[str, float]:
    return {
        "gap": limit.gap,
        "certified_lower": float(np.asarray(limit.lower.bound)),
        "certified_upper": float(np.asarray(limit.upper.bound)),
    }


if __name__ == "__main__":
    main(Path("out"))
