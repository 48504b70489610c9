"""What does alternation gain at equal compute? Mix, ALRIGHT and budget-optimal alternation (T6).

Mix pays for both gradients at every update, ALRIGHT for one, drawn with probability lambda; the
budget-optimal rule draws with p* and rescales. All get the same compute and each its best step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from tradeoff.convex import LogLinear, minimise, random_log_linear, trajectories
from tradeoff.schedules import Alright, Mix, Schedule
from tradeoff.theory.checked import Checked
from tradeoff.theory.joint import (
    Moments,
    best_product,
    cost_times_moment,
    moments,
    optimal_probability,
)

CAPTION = (
    "Mean gap of f_λ over that of Mix at equal compute, λ = 1/2; below 1 beats Mix. Averaged "
    "iterates, constant step, each method with the best of 7 step sizes (so the ratios carry a "
    "few percent of grid noise); 4 random instances for each conflict (angle between what is "
    "demonstrated and what is preferred, over π) and cost ratio c_DPO/c_SFT, n = 256 paired "
    "replicas each. Left: medians over instances; grey dashes: predicted from the second "
    "moments at the optimum. Right: every case with ±1.96 SE; solid: error ∝ cost × second "
    "moment; dashes: its root, the worst case. Plain ALRIGHT never has a predicted advantage "
    "here. Command: python -m analysis equal_compute."
)
LAM = 0.5
COSTS = (1.0, 2.0, 4.0)
CONFLICTS = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = np.geomspace(0.025, 0.4, 7)
BUDGET_LOOK = {1.0: "-", 2.0: (0, (5, 2)), 4.0: (0, (1, 1))}


@dataclass(frozen=True)
class Case:
    """One instance at one cost ratio: error ratios to Mix, measured and predicted."""

    conflict: float
    seed: int
    cost: float
    alright: float
    alright_se: float
    alright_predicted: float
    budget: float
    budget_se: float
    budget_predicted: float
    probability: float


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    conflicts = CONFLICTS[::2] if fast else CONFLICTS
    instances, replicas, budget = (1, 64, 800) if fast else (4, 256, 1500)
    cases = [
        case
        for conflict in conflicts
        for seed in range(instances)
        for case in compare(conflict, seed, budget, replicas)
    ]
    with style.figure(1, 2, height=3.5) as (fig, (left, right)):
        draw_conflicts(left, cases)
        draw_prediction(right, cases)
        style.save(fig, out, "equal_compute")
    return {
        "lam": LAM,
        "instances": instances,
        "replicas": replicas,
        "budget_in_sft_gradients": budget,
        "cases": [case.__dict__ for case in cases],
        **summary(cases),
    }


# ---------------------------------------------------------------------- measured and predicted


@lru_cache(maxsize=32)
def instance(conflict: float, seed: int) -> LogLinear:
    return random_log_linear(
        seed, prompts=6, responses=4, dimension=8, demonstrations=24, pairs=24, radius=3.0,
        conflict=conflict,
    )  # fmt: skip


def compare(conflict: float, seed: int, budget: int, replicas: int) -> list[Case]:
    """All cost ratios on one instance; runs that differ only in length are one run."""
    problem = instance(conflict, seed)
    m = moments(problem, minimise(problem, LAM).theta)
    mix = errors(problem, Mix(lam=LAM), [budget / (1 + c) for c in COSTS], replicas)
    plain = errors(
        problem, Alright(lam=LAM), [budget / (LAM * c + 1 - LAM) for c in COSTS], replicas
    )
    cases = []
    for k, c in enumerate(COSTS):
        p = optimal_probability(LAM, m.sft, m.preference, 1.0, c)
        rule = Alright(lam=LAM, probability=p)
        tuned = errors(problem, rule, [budget / (p * c + 1 - p)], replicas)[0]
        whole = (1 + c) * m.mixed(LAM)
        cases.append(
            Case(
                conflict, seed, c,
                *ratio(plain[k], mix[k]), cost_times_moment(LAM, LAM, m, 1.0, c) / whole,
                *ratio(tuned, mix[k]), best_product(LAM, m, 1.0, c) / whole,
                p,
            )
        )  # fmt: skip
    return cases


def errors(
    problem: LogLinear, schedule: Schedule, lengths: list[float], replicas: int
) -> list[np.ndarray]:
    """(replicas,) gaps after each number of updates, with the step that is best on average."""
    marks = np.array([round(x) for x in lengths])
    runs = trajectories(
        problem, schedule, steps=int(marks.max()), step_size=STEPS.tolist(), replicas=replicas,
        checkpoints=np.unique(marks),
    )  # fmt: skip
    gaps = runs.losses(problem, "average") @ [1 - LAM, LAM] - minimise(problem, LAM).value
    best = gaps.mean(axis=1).argmin(axis=0)
    where = np.searchsorted(runs.checkpoints, marks)
    return [gaps[best[k], :, k] for k in where]


def ratio(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Ratio of the means of paired samples, and its standard error (delta method)."""
    value = float(a.mean() / b.mean())
    return value, float(np.std(a - value * b, ddof=1) / np.sqrt(len(a)) / b.mean())


def summary(cases: list[Case]) -> dict[str, Any]:
    """Who wins where, and how often the prediction names the winner."""
    budget = np.array([c.budget for c in cases])
    predicted = np.array([c.budget_predicted for c in cases])
    clear = np.abs(budget - 1) > 1.96 * np.array([c.budget_se for c in cases])
    right = (budget < 1) == (predicted < 1)
    both = np.log(
        [[c.alright_predicted, c.alright] for c in cases]
        + list(zip(predicted, budget, strict=True))
    )
    by_cost = {
        f"{cost:g}": {
            "budget_median": float(np.median([c.budget for c in cases if c.cost == cost])),
            "budget_wins": int(sum(c.budget < 1 for c in cases if c.cost == cost)),
            "alright_median": float(np.median([c.alright for c in cases if c.cost == cost])),
            "alright_wins": int(sum(c.alright < 1 for c in cases if c.cost == cost)),
            "cases": sum(c.cost == cost for c in cases),
        }
        for cost in COSTS
    }  # fmt: skip
    return {
        "by_cost_ratio": by_cost,
        "clear_cases": int(clear.sum()),
        "winner_named_in_clear_cases": float(right[clear].mean()) if clear.any() else None,
        "winner_named": float(right.mean()),
        "log_error_of_product": float(np.sqrt(np.mean((both[:, 1] - both[:, 0]) ** 2))),
        "log_error_of_root": float(np.sqrt(np.mean((both[:, 1] - both[:, 0] / 2) ** 2))),
        "worst_budget_ratio": float(budget.max()),
        "best_budget_ratio": float(budget.min()),
    }


# ---------------------------------------------------------------------- drawing


def draw_conflicts(ax: Axes, cases: list[Case]) -> None:
    """Median ratio against conflict: the budget rule at each cost ratio, and plain ALRIGHT."""
    conflicts = sorted({c.conflict for c in cases})

    def median(name: str, cost: float) -> list[float]:
        return [
            float(np.median([getattr(c, name) for c in cases if (c.conflict, c.cost) == (x, cost)]))
            for x in conflicts
        ]

    look = style.look("ALRIGHT (budget)")
    for cost in COSTS:
        line = median("budget", cost)
        ax.plot(conflicts, median("budget_predicted", cost), **style.BOUND)
        ax.plot(conflicts, line, **look.line_style(linestyle=BUDGET_LOOK[cost]))
        style.label_line(ax, 1.0, line[-1], f"$c_D/c_S = {cost:g}$")
    plain = median("alright", 1.0)
    ax.plot(conflicts, plain, **style.look("ALRIGHT").line_style())
    middle = len(plain) // 2
    ax.annotate(
        "ALRIGHT",
        (conflicts[middle], plain[middle]),
        (-6, 7),
        textcoords="offset points",
        fontsize=8,
    )
    ax.axhline(1.0, color="k", linewidth=0.8)
    style.label_line(ax, 1.3, 1.0, "Mix")
    ax.set(
        title="Alternation pays where costs differ",
        xlabel="conflict of the two objectives",
        ylabel="mean gap / that of Mix",
        xlim=(-0.04, 1.3),
        xticks=conflicts,
    )


def draw_prediction(ax: Axes, cases: list[Case]) -> None:
    """Measured against predicted ratio, every case."""
    for name, method in (("alright", "ALRIGHT"), ("budget", "ALRIGHT (budget)")):
        x = [getattr(c, f"{name}_predicted") for c in cases]
        y = [getattr(c, name) for c in cases]
        bars = [1.96 * getattr(c, f"{name}_se") for c in cases]
        ax.errorbar(
            x, y, bars, **style.look(method).dots(markersize=4, elinewidth=0.6, label=method)
        )
    span = np.linspace(0.5, 1.2, 50)
    ax.plot(span, span, color="k", linewidth=0.9)
    ax.plot(span, np.sqrt(span), **style.BOUND)
    ax.annotate("product", (0.55, 0.55), (8, -4), textcoords="offset points", fontsize=8)
    ax.annotate("its root", (0.52, 0.721), (0, 14), textcoords="offset points", fontsize=8)
    ax.axhline(1, color="0.6", linewidth=0.6)
    ax.axvline(1, color="0.6", linewidth=0.6)
    ax.set(
        title="Second moments predict who wins",
        xlabel="predicted (cost × second moment) / Mix",
        ylabel="measured / Mix",
    )
    ax.legend(loc="lower right")


# ---------------------------------------------------------------------- claims


def claim_best_probability(fast: bool = False) -> Checked:
    """The least product over p* and a fine grid of probabilities is the closed form."""
    grid = np.linspace(0.001, 0.999, 999)
    rng = np.random.default_rng(0)
    found, formula = [], []
    for _ in range(20 if fast else 200):
        sft, preference, c_s, c_d = rng.lognormal(size=4).tolist()
        lam, m = float(rng.uniform(0.05, 0.95)), Moments(sft, preference, 0.0)
        p = optimal_probability(lam, sft, preference, c_s, c_d)
        best = cost_times_moment(lam, p, m, c_s, c_d)
        least = min(cost_times_moment(lam, q, m, c_s, c_d) for q in grid.tolist())
        found.append(min(best, least))
        formula.append(best_product(lam, m, c_s, c_d))
    return Checked(np.array(found), np.array(formula), "exact", {}, 1e-9)


def claim_plain_alternation_gains_nothing(fast: bool = False) -> Checked:
    """Predicted error of ALRIGHT over Mix, at equal compute and lambda = 1/2, on every instance."""
    ratios = []
    for conflict in CONFLICTS:
        for seed in range(2 if fast else 8):
            problem = instance(conflict, seed)
            m = moments(problem, minimise(problem, LAM).theta)
            ratios += [
                cost_times_moment(LAM, LAM, m, 1, c) / ((1 + c) * m.mixed(LAM)) for c in COSTS
            ]
    return Checked(np.array(ratios), np.ones(len(ratios)), "lower", {}, 1e-9)


def claim_unequal_costs(fast: bool = False) -> Checked:
    """At c_DPO = 4 c_SFT the budget rule beats Mix, at three levels of conflict."""
    cases = [compare(x, 0, 400 if fast else 1000, 128)[-1] for x in (0.0, 0.5, 1.0)]
    measured = np.array([c.budget for c in cases])
    return Checked(measured, np.ones(3), "upper", {"cost": COSTS[-1]}, 0.0)


if __name__ == "__main__":
    main(Path("out"))
