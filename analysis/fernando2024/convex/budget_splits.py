"""Can a clever split of the budget make sequential training as good as joint training?

The gap of f_lambda is drawn against the length of the second stage. The first stage has the rest of
the budget. Left: exact gradients. Right: stochastic gradients. Horizontal lines are joint methods
at the same number of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.evidence import MOST, NEARLY_ALL, holds_on, holds_on_fewer
from analysis.dossier.mutations import SFT_ONLY, SWAPPED, UNTRAINED, mutate, reject_unknown
from analysis.fernando2024.convex import contest
from analysis.fernando2024.convex.cases import COUNT, Case, cases
from analysis.fernando2024.convex.tuning import (
    COARSE,
    NARROW,
    SCALES,
    Tuned,
    ends,
    pair_cost,
    tune,
    updates,
)
from analysis.fernando2024.methods import label
from tradeoff.convex import (
    Front,
    LogLinear,
    StepSize,
    minimise,
    pareto_front,
    random_log_linear,
    trajectories,
)
from tradeoff.schedules import Alright, Mix, Schedule, Sequential
from tradeoff.scores import Interval, interval
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import constants
from tradeoff.theory.sequential import First, budget_splits

Array = NDArray[np.float64]
LAM = 0.5
ORDERS: tuple[First, First] = ("sft", "preference")
JOINT: tuple[Schedule, ...] = (Mix(lam=LAM), Alright(lam=LAM))
EXACT = 100
"""Budget of a run with exact gradients."""
CAPTION = (
    "Can a split of the budget help sequential training? Gap of f_λ (λ = 1/2) on one problem (d = "
    "16) if the second stage gets T_b of T gradients. Horizontal lines: joint methods. Left: exact "
    "gradients, step 1/L (ALRIGHT: n = 64). Right: T = {budget} stochastic gradients, tuned steps; "
    "even the best split, chosen with hindsight, keeps {times} times ALRIGHT's gap. n = "
    "{replicas}; the data order varies; bands are 95 % intervals. Command: python -m analysis "
    "budget_splits"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = random_log_linear(0)
    front = pareto_front(problem, accuracy=1e-3 if fast else 1e-4)
    exact = exact_study(problem, front)
    settings = (400, 7, 64, COARSE) if fast else (4000, 16, 256, SCALES)
    noisy = stochastic_study(problem, front, *settings)
    short = stochastic_study(problem, front, 100, 7, settings[2], settings[3])
    with style.figure(1, 2, height=3.7, sharey=False) as (fig, (left, right)):
        draw(left, exact, "Exact gradients, one step size")
        draw_certified(left, problem, exact)
        draw(right, noisy, "Stochastic gradients, tuned steps")
        style.save(fig, out, "budget_splits")
    return {
        "exact": exact.numbers(),
        "stochastic": noisy.numbers(),
        "short_budget": short.numbers(),
        "certified_error": front.error,
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    study = numbers["stochastic"]
    best = min(found["gap"] for found in study["best_split"].values())
    return {
        "budget": f"{study['gradients']:,}",
        "replicas": str(study["replicas"]),
        "times": f"{best / study['joint']['alright']['gap']:.1f}",
    }


def unit_step(problem: LogLinear) -> StepSize:
    """Step size 1/L of the less smooth objective, as in :func:`budget_splits`."""
    c = constants(problem)
    return StepSize(1 / max(c.smoothness(0.0), c.smoothness(1.0)))


class Study:
    """Results of all splits of both orders, and of the joint methods, at one budget."""

    def __init__(
        self,
        problem: LogLinear,
        front: Front,
        budget: int,
        second: NDArray[np.int64],
        split: dict[str, Array],
        joint: dict[str, Array],
        tuned: dict[str, list[Tuned]] | None = None,
    ) -> None:
        """Store final losses: (splits, replicas, 2) by order, (replicas, 2) by joint method."""
        self.front, self.budget, self.second = front, budget, second
        self.optimum = minimise(problem, LAM, tolerance=1e-13).value
        self.split, self.joint, self.tuned = split, joint, tuned or {}

    def gap(self, losses: Array, axis: int = -1) -> Interval:
        """Mean gap of f_lambda over the replicas."""
        return interval(losses @ [1 - LAM, LAM] - self.optimum, axis)

    def best(self, losses: Array) -> dict[str, Any]:
        """The length of the second stage with the least mean gap, and its scores."""
        found = self.gap(losses)
        k = int(np.argmin(found.mean))
        ahead = self.front.score(losses[k])["front_gap"].mean()
        return {
            "second_stage": self.second[k],
            "gap": found.mean[k],
            "half_width": found.high[k] - found.mean[k],
            "front_gap": ahead,
        }

    def numbers(self) -> dict[str, Any]:
        joint = {name: self.gap(losses) for name, losses in self.joint.items()}
        best = {name: self.best(losses) for name, losses in self.split.items()}
        even = int(np.argmin(np.abs(self.second - self.budget / 2)))
        return {
            "gradients": self.budget,
            "replicas": next(iter(self.joint.values())).shape[0],
            "best_split": best,
            "even_split": {name: self.gap(v).mean[even] for name, v in self.split.items()},
            "joint": {
                name: {
                    "gap": float(found.mean),
                    "half_width": float(found.high - found.mean),
                    "front_gap": self.front.score(self.joint[name])["front_gap"].mean(),
                }
                for name, found in joint.items()
            },
            "best_split_beats": [
                name
                for name, found in joint.items()
                if min(b["gap"] for b in best.values()) < found.mean
            ],
            "steps": {
                name: {
                    "scales": [found.scales for found in row],
                    "inside_the_grid": [found.inside for found in row],
                }
                for name, row in self.tuned.items()
            },
        }


def lengths(budget: int, splits: int) -> NDArray[np.int64]:
    """Lengths of the second stage, from 1 gradient to all but one, with the even split."""
    spaced = np.geomspace(1, budget - 1, splits).round().astype(np.int64)
    return np.unique([*spaced.tolist(), budget // 2])


def orders(budget: int, second: NDArray[np.int64], lam: float = LAM) -> dict[str, list[Sequential]]:
    """Schedules of both orders for every length of the second stage."""
    shares = 1 - second / budget
    return {
        Sequential(first=f).key: [Sequential(lam=lam, first=f, share=float(s)) for s in shares]
        for f in ORDERS
    }


def exact_study(problem: LogLinear, front: Front) -> Study:
    """Results with exact gradients and one step size. Only ALRIGHT has replicas."""
    second, step = lengths(EXACT, 16), unit_step(problem)
    split = {
        name: exact_ends(problem, row, EXACT, step) for name, row in orders(EXACT, second).items()
    }
    joint = {
        m.key: exact_ends(
            problem, [m], updates(m, EXACT, 1.0), step, 64 if isinstance(m, Alright) else 1
        )[0]
        for m in JOINT
    }
    return Study(problem, front, EXACT, second, split, joint)


def exact_ends(
    problem: LogLinear, schedules: Sequence[Schedule], steps: int, step: StepSize, replicas: int = 1
) -> Array:
    """(schedules, replicas, 2) final losses of runs with exact gradients."""
    runs = trajectories(
        problem, list(schedules), steps=steps, step_size=step, replicas=replicas,
        checkpoints=[steps], gradients="full",
    )  # fmt: skip
    return runs.losses(problem)[:, :, -1]


def stochastic_study(
    problem: LogLinear,
    front: Front,
    budget: int,
    splits: int,
    replicas: int,
    scales: tuple[float, ...],
) -> Study:
    """Results with stochastic gradients. Every split and method has its own step sizes."""
    second = lengths(budget, splits)
    everything: dict[str, Sequence[Schedule]] = {
        **orders(budget, second), **{m.key: [m] for m in JOINT}
    }  # fmt: skip
    tuned, losses = {}, {}
    for name, row in everything.items():
        steps = [updates(s, budget, 1.0) for s in row]
        tuned[name] = [tune(problem, s, n, scales=scales) for s, n in zip(row, steps, strict=True)]
        losses[name] = np.stack([
            ends(problem, s, n, found.step, replicas=replicas)
            for s, n, found in zip(row, steps, tuned[name], strict=True)
        ])  # fmt: skip
    joint = {m.key: losses.pop(m.key)[0] for m in JOINT}
    return Study(problem, front, budget, second, losses, joint, tuned)


def draw(ax: Axes, study: Study, title: str) -> None:
    """Draw the gap of every split, with the joint methods as horizontal lines."""
    for name, losses in study.split.items():
        look, found = style.look(name), study.gap(losses)
        ax.loglog(study.second, found.mean, **look.line_style())
        ax.fill_between(
            study.second, found.low, found.high, color=look.color, alpha=0.2, linewidth=0
        )
        style.label_line(
            ax, float(study.budget), float(found.mean[-1]), label(name), color=look.color
        )
    levels = {name: float(study.gap(losses).mean) for name, losses in study.joint.items()}
    sides = [1, study.budget]
    for name, value in levels.items():
        ax.loglog(sides, [value, value], **style.look(name).line_style())
    height = (ax.get_ylim()[1] / ax.get_ylim()[0]) ** 0.04
    for name, value in style.apart(levels, height).items():
        style.label_line(ax, float(study.budget), value, label(name), color=style.look(name).color)
    ax.set(
        title=title,
        xlabel=r"gradients of the second stage $T_b$, of " + f"{study.budget:,}",
        ylabel="gap (nats)",
        xlim=(0.8, study.budget * 6),
    )


def draw_certified(ax: Axes, problem: LogLinear, study: Study) -> None:
    """Draw T2's certified lower bound for every split with exact gradients."""
    shares = 1 - study.second / study.budget
    for first in ORDERS:
        found = budget_splits(problem, LAM, study.budget, shares, first)
        bound = np.asarray(found.gaps.bound)
        ax.loglog(study.second, bound, **style.BOUND)
        name = f"{label(Sequential(first=first).key)} certified"
        style.label_line(ax, float(study.budget), float(bound[-1]), name, color="0.35")


# ------------------------------------------------------------------ claims


def claim_no_split_reaches_joint(fast: bool = False, mutation: str | None = None) -> Checked:
    """With exact gradients no split or early stop of either order reaches Mix, on nearly all.

    The step is 1/L. The second stage may end at every update, so all budgets up to that of Mix are
    covered.
    """
    reject_unknown(mutation, (UNTRAINED, SWAPPED))
    found = np.array([best_and_mix(case, 200 if fast else 400) for case in cases(24)])
    best, joint, start = found.T
    joint = start if mutation == UNTRAINED else joint
    held = joint < best if mutation != SWAPPED else best < joint
    return holds_on(held, NEARLY_ALL, {"gradients": 200.0 if fast else 400.0})


@lru_cache(maxsize=64)
def best_and_mix(case: Case, budget: int) -> tuple[float, float, float]:
    """Least gap over splits and early stops, gap of Mix, and gap of the untrained policy."""
    problem, lam = case.problem, case.lam
    shares = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.7])
    best, step = minimise(problem, lam, tolerance=1e-13).value, unit_step(problem)
    gaps = []
    for first in ORDERS:
        runs = trajectories(
            problem, [Sequential(lam=lam, first=first, share=float(s)) for s in shares],
            steps=budget, step_size=step, replicas=1, checkpoints=np.arange(1, budget + 1),
            gradients="full",
        )  # fmt: skip
        gaps.append((runs.losses(problem) @ [1 - lam, lam]).min() - best)
    mix = exact_ends(problem, [Mix(lam=lam)], budget // 2, step)[0, 0] @ [1 - lam, lam] - best
    start = problem.losses(np.zeros(problem.dimension)) @ [1 - lam, lam] - best
    return float(min(gaps)), float(mix), float(start)


LONG, SHORT = 2000, 60
"""Budgets of a run, in SFT gradients."""
LONG_BUDGET = "long-budget"


def claim_stochastic_split_stays_above_joint(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """With stochastic gradients the best split keeps more gap than Mix and ALRIGHT, on most cases.

    Splits and step sizes of both orders are chosen for f_lambda with hindsight, on other draws.
    """
    reject_unknown(mutation, (SWAPPED, SFT_ONLY))
    best = best_splits(fast, LONG)
    held = []
    for name in contest.JOINT:
        runs = SFT_ONLY if mutation == SFT_ONLY else name
        joint = contest.gaps(runs, fast, total=LONG)
        held.append(contest.beats(*((joint, best) if mutation != SWAPPED else (best, joint))))
    return holds_on(np.all(held, axis=0), MOST, {"budget": float(LONG)})


def claim_short_budget_is_the_exception(fast: bool = False, mutation: str | None = None) -> Checked:
    """Against us: on a short budget neither Mix nor ALRIGHT beats the best split on most cases.

    ``measured`` holds the upper ends of the intervals of the shares of cases that each method wins.
    """
    total = mutate(mutation, SHORT, {LONG_BUDGET: LONG})
    best = best_splits(fast, total)
    shares = [
        holds_on_fewer(contest.beats(contest.gaps(name, fast, total=total), best), MOST)
        for name in contest.JOINT
    ]
    known = {"budget": float(total), "n": float(COUNT)}
    return Checked(np.array([s.measured for s in shares]), np.full(2, MOST), "upper", known, 0.0)


def best_splits(fast: bool, total: int) -> Array:
    """(cases, replicas) gaps of the split and order that were best on the tuning draws."""
    return _best_splits(fast, total, pair_cost())


@lru_cache(maxsize=4)
def _best_splits(fast: bool, total: int, pair: float) -> Array:
    shares = (1 / 8, 1 / 2, 7 / 8) if fast else (1 / 16, 1 / 4, 1 / 2, 3 / 4, 15 / 16)
    rows = []
    for case in cases():
        tried = [
            Sequential(lam=case.lam, first=first, share=share)
            for first in ORDERS
            for share in shares
        ]
        steps = [updates(s, total, pair) for s in tried]
        found = [
            tune(case.problem, s, n, scales=NARROW if fast else COARSE, replicas=8)
            for s, n in zip(tried, steps, strict=True)
        ]
        k = int(np.argmin([f.value for f in found]))
        losses = ends(case.problem, tried[k], steps[k], found[k].step, replicas=contest.REPLICAS)
        value = minimise(case.problem, case.lam, tolerance=1e-12).value
        rows.append(losses @ [1 - case.lam, case.lam] - value)
    return np.stack(rows)


if __name__ == "__main__":
    main(Path("out"))
