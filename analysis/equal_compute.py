"""What does alternation gain at equal compute? Mix, ALRIGHT and budget-optimal alternation.

Mix pays for both gradients at every update, ALRIGHT for one, drawn with probability lambda; the
budget-optimal rule draws with p* and rescales. All get the same compute and each its best step.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from tradeoff import study
from tradeoff.checkout import ROOT
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
    "replicas each. Left: medians over instances; grey dashes: predicted for the budget rule from "
    "the second moments at the optimum. ALRIGHT is drawn at a cost ratio of 1; as its update costs "
    "half of Mix's at every ratio, its prediction is the same at all. Right: every case with ±1.96 "
    "SE; solid: error ∝ cost × second moment; dashes: its root, the worst case. Plain ALRIGHT "
    "never has a predicted advantage here. Command: python -m analysis equal_compute."
)
SCRATCH = ROOT / "out" / "study" / "equal_compute"
LAM = 0.5
COSTS = (1.0, 2.0, 4.0)
PLAIN_COST = COSTS[0]
"""Where ALRIGHT is drawn; at lambda = 1/2 its prediction does not depend on the cost ratio."""
CONFLICTS = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = np.geomspace(0.025, 0.4, 7)
BUDGET_LOOK = {1.0: "-", 2.0: (0, (5, 2)), 4.0: (0, (1, 1))}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    size = {"budget": 800, "replicas": 64} if fast else {"budget": 1500, "replicas": 256}
    instances = 1 if fast else 4
    grid = study.grid(conflict=CONFLICTS[::2] if fast else CONFLICTS, seed=range(instances), **size)
    # One after the other: the compiled runs of each use all cores.
    cases = study.run(compare, grid, SCRATCH, backend="sequential", progress=False)
    with style.figure(1, 2, height=3.5) as (fig, (left, right)):
        draw_conflicts(left, cases)
        draw_prediction(right, cases)
        style.save(fig, out, "equal_compute")
    return {
        "lam": LAM,
        "instances": instances,
        "replicas": size["replicas"],
        "budget_in_sft_gradients": size["budget"],
        "cases": cases.drop(columns=["run", *size]).to_dict("records"),
        **summary(cases),
    }


# ---------------------------------------------------------------------- measured and predicted


@lru_cache(maxsize=32)
def instance(conflict: float, seed: int) -> LogLinear:
    return random_log_linear(
        seed, prompts=6, responses=4, dimension=8, demonstrations=24, pairs=24, radius=3.0,
        conflict=conflict,
    )  # fmt: skip


def compare(configuration: dict[str, Any]) -> pd.DataFrame:
    """One row per cost ratio on one instance: errors over Mix's, measured and predicted.

    Runs that differ only in their length are one run.
    """
    budget, replicas = configuration["budget"], configuration["replicas"]
    problem = instance(configuration["conflict"], configuration["seed"])
    m = moments(problem, minimise(problem, LAM).theta)
    mix = errors(problem, Mix(lam=LAM), [budget / (1 + c) for c in COSTS], replicas)
    plain = errors(
        problem, Alright(lam=LAM), [budget / (LAM * c + 1 - LAM) for c in COSTS], replicas
    )
    rows = []
    for k, c in enumerate(COSTS):
        p = optimal_probability(LAM, m.sft, m.preference, 1.0, c)
        rule = Alright(lam=LAM, probability=p)
        tuned = errors(problem, rule, [budget / (p * c + 1 - p)], replicas)[0]
        whole = (1 + c) * m.mixed(LAM)
        row = {"cost": c, "probability": p}
        row["alright"], row["alright_se"] = ratio(plain[k], mix[k])
        row["alright_predicted"] = cost_times_moment(LAM, LAM, m, 1.0, c) / whole
        row["budget_rule"], row["budget_rule_se"] = ratio(tuned, mix[k])
        row["budget_rule_predicted"] = best_product(LAM, m, 1.0, c) / whole
        rows.append(row)
    return pd.DataFrame(rows)


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


def summary(cases: pd.DataFrame) -> dict[str, Any]:
    """Who wins where, and how often the prediction names the winner."""
    clear = (cases.budget_rule - 1).abs() > 1.96 * cases.budget_rule_se
    right = (cases.budget_rule < 1) == (cases.budget_rule_predicted < 1)
    measured = np.log(np.concatenate([cases.alright, cases.budget_rule]))
    predicted = np.log(np.concatenate([cases.alright_predicted, cases.budget_rule_predicted]))
    by_cost = {
        f"{cost:g}": {
            "budget_median": float(group.budget_rule.median()),
            "budget_wins": int((group.budget_rule < 1).sum()),
            "alright_median": float(group.alright.median()),
            "alright_wins": int((group.alright < 1).sum()),
            "cases": len(group),
        }
        for cost, group in cases.groupby("cost")
    }
    return {
        "by_cost_ratio": by_cost,
        "clear_cases": int(clear.sum()),
        "winner_named_in_clear_cases": float(right[clear].mean()) if clear.any() else None,
        "winner_named": float(right.mean()),
        "log_error_of_product": float(np.sqrt(np.mean((measured - predicted) ** 2))),
        "log_error_of_root": float(np.sqrt(np.mean((measured - predicted / 2) ** 2))),
        "worst_budget_ratio": float(cases.budget_rule.max()),
        "best_budget_ratio": float(cases.budget_rule.min()),
    }


# ---------------------------------------------------------------------- drawing


def draw_conflicts(ax: Axes, cases: pd.DataFrame) -> None:
    """Median ratio against conflict: the budget rule at each cost ratio, and plain ALRIGHT."""
    median = cases.groupby(["cost", "conflict"]).median()
    look = style.look("ALRIGHT (budget)")
    for cost in COSTS:
        line = median.loc[cost]
        ax.plot(line.index, line.budget_rule_predicted, **style.BOUND)
        ax.plot(line.index, line.budget_rule, **look.line_style(linestyle=BUDGET_LOOK[cost]))
        style.label_line(ax, 1.0, line.budget_rule.iloc[-1], f"$c_D/c_S = {cost:g}$")
    plain = median.loc[PLAIN_COST].alright
    ax.plot(plain.index, plain, **style.look("ALRIGHT").line_style())
    middle = (plain.index[len(plain) // 2], plain.iloc[len(plain) // 2])
    text = f"ALRIGHT, $c_D/c_S = {PLAIN_COST:g}$"
    ax.annotate(text, middle, (-4, 5), textcoords="offset points", fontsize=8, ha="right")
    ax.axhline(1.0, color="k", linewidth=0.8)
    style.label_line(ax, 1.3, 1.0, "Mix")
    ax.set(
        title="Alternation pays where costs differ",
        xlabel="conflict of the two objectives",
        ylabel="mean gap / that of Mix",
        xlim=(-0.04, 1.3),
        xticks=plain.index,
    )


def draw_prediction(ax: Axes, cases: pd.DataFrame) -> None:
    """Measured against predicted ratio, every case."""
    for name, method in (("alright", "ALRIGHT"), ("budget_rule", "ALRIGHT (budget)")):
        look = style.look(method).dots(markersize=4, elinewidth=0.6, label=method)
        bars = 1.96 * cases[f"{name}_se"]
        ax.errorbar(cases[f"{name}_predicted"], cases[name], bars, **look)
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
    size = {"seed": 0, "budget": 400 if fast else 1000, "replicas": 128}
    cases = [compare({"conflict": x, **size}).iloc[-1] for x in (0.0, 0.5, 1.0)]
    measured = np.array([case.budget_rule for case in cases])
    return Checked(measured, np.ones(3), "upper", {"cost": COSTS[-1]}, 0.0)


if __name__ == "__main__":
    main(Path("out"))
