"""What does alternation gain at equal compute? Mix, ALRIGHT and budget-optimal alternation.

Mix pays for both gradients at every update. ALRIGHT pays for one, drawn with probability lambda.
The budget-optimal rule draws with probability p* and rescales the gradient. All get the same
compute, and each uses its best step size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, WRONG_PROBABILITY, mutate, reject_unknown
from analysis.fernando2024.convex.cases import FIRST_SEED, cases
from analysis.fernando2024.convex.tuning import ends, pair_cost, tune
from analysis.fernando2024.methods import label
from tradeoff import study
from tradeoff.checkout import WORK
from tradeoff.convex import LogLinear, minimise, random_log_linear
from tradeoff.schedules import Alright, Mix, Schedule
from tradeoff.scores import interval, weighted_loss
from tradeoff.theory.checked import Checked
from tradeoff.theory.joint import (
    Moments,
    best_product,
    cost_times_moment,
    moments,
    optimal_probability,
)

CAPTION = (
    "What does alternation gain at equal cost? Mean gap of f_λ over that of Mix, λ = 1/2, averaged "
    "iterates, steps tuned on other draws. {instances} instances for each conflict and cost of a "
    "pair (1, 4, or {measured} as measured). Left: medians; dashes are predictions from second "
    "moments, which name the winner in {named} of {clear} clear cases. Right: every case. n = "
    "{replicas} paired replicas; the data drawn varies; intervals: ±1.96 SE. Command: python -m "
    "analysis equal_compute."
)
SCRATCH = WORK / "study" / "equal_compute"
LAM = 0.5
EQUAL, LARGER = 1.0, 4.0
"""Costs of a pair in demonstrations, in addition to the cost measured on language models."""
PLAIN_COST = EQUAL
"""Cost of a pair at which ALRIGHT is drawn. At lambda = 1/2 its prediction does not depend on the
cost."""
CONFLICTS = (0.0, 0.25, 0.5, 0.75, 1.0)
CONFIRMING = 9500
"""First seed of the instances on which the sign at the measured cost is confirmed."""
STEPS = tuple(0.0125 * 2 ** (k / 2) for k in range(15))
"""Constant step sizes from which every method chooses."""
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1)))
"""Line styles of the budget-optimal rule, by cost of a pair."""


def measured_cost() -> float:
    """Cost of a pair in demonstrations, as measured on language models, to two digits."""
    return round(pair_cost(), 2)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    size: dict[str, Any] = {"budget": 1500, "replicas": 256}
    if fast:
        size = {"budget": 800, "replicas": 64}
    instances = 1 if fast else 4
    size["pair"] = pair = measured_cost()
    grid = study.grid(conflict=CONFLICTS[::2] if fast else CONFLICTS, seed=range(instances), **size)
    # The studies run one after the other, since the compiled runs of each use all cores.
    cases = study.run(compare, grid, SCRATCH, backend="sequential", progress=False)
    numbers = {
        "lam": LAM,
        "instances": instances,
        "replicas": size["replicas"],
        "budget_in_sft_gradients": size["budget"],
        "cost_of_a_pair_measured": pair,
        "cases": cases.drop(columns=["run", *size]).to_dict("records"),
        **summary(cases),
    }
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Draw medians by conflict, and every case against its prediction."""
    cases = pd.DataFrame(list(numbers["cases"]))
    with style.figure(1, 2, height=3.7) as (fig, (left, right)):
        draw_conflicts(left, cases)
        draw_prediction(right, cases)
        handles, labels = left.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        style.save(fig, out, "equal_compute")


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "instances": str(numbers["instances"]),
        "replicas": str(numbers["replicas"]),
        "measured": f"{numbers['cost_of_a_pair_measured']:g}",
        "named": f"{100 * numbers['winner_named_in_clear_cases']:.0f} %",
        "clear": str(numbers["clear_cases"]),
    }


# ---------------------------------------------------------------------- measured and predicted


@lru_cache(maxsize=32)
def instance(conflict: float, seed: int) -> LogLinear:
    return random_log_linear(
        seed, prompts=6, responses=4, dimension=8, demonstrations=24, pairs=24, radius=3.0,
        conflict=conflict,
    )  # fmt: skip


def compare(configuration: dict[str, Any]) -> pd.DataFrame:
    """One row per cost ratio on one instance: gaps over those of Mix, measured and predicted.

    Runs that differ only in their length are computed as one run.
    """
    budget, replicas = configuration["budget"], configuration["replicas"]
    costs = (EQUAL, configuration["pair"], LARGER)
    problem = instance(configuration["conflict"], configuration["seed"])
    m = moments(problem, minimise(problem, LAM).theta)
    mix = errors(problem, Mix(lam=LAM), [budget / (1 + c) for c in costs], replicas)
    plain = errors(
        problem, Alright(lam=LAM), [budget / (LAM * c + 1 - LAM) for c in costs], replicas
    )
    rows = []
    for k, c in enumerate(costs):
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
    """(replicas,) gaps after each number of updates, with the step that is best on other draws."""
    best = minimise(problem, schedule.lam).value
    found = []
    for length in lengths:
        steps = round(length)
        step = tune(
            problem, schedule, steps, scales=STEPS, decay=0.0, iterate="average", replicas=32
        ).step
        losses = ends(problem, schedule, steps, step, iterate="average", replicas=replicas)
        found.append(weighted_loss(losses, schedule.lam) - best)
    return found


def ratio(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Ratio of the means of paired samples, and its standard error (delta method)."""
    value = float(a.mean() / b.mean())
    return value, float(np.std(a - value * b, ddof=1) / np.sqrt(len(a)) / b.mean())


def summary(cases: pd.DataFrame) -> dict[str, Any]:
    """Winners by conflict and cost, and how often the prediction names the winner."""
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
    """Draw the median ratio against conflict: the budget rule at each cost, and plain ALRIGHT."""
    median = cases.groupby(["cost", "conflict"]).median()
    look = style.look("alright-budget")
    for cost, shape in zip(sorted(set(cases["cost"])), LINES, strict=False):
        line = median.loc[cost]
        first = shape == LINES[0]
        predicted = "predicted, at each cost" if first else None
        ax.plot(line.index, line.budget_rule_predicted, **style.BOUND, label=predicted)
        name = {"label": label("alright-budget")} if first else {}
        ax.plot(line.index, line.budget_rule, **look.line_style(linestyle=shape, **name))
        style.label_line(ax, 1.0, line.budget_rule.iloc[-1], f"pair costs {cost:.2g}")
    plain = median.loc[PLAIN_COST].alright
    name = {"label": f"{label('alright')}, pair costs {PLAIN_COST:g}"}
    ax.plot(plain.index, plain, **style.look("alright").line_style(**name))
    ax.axhline(1.0, color="k", linewidth=0.8, label=label("mix"))
    ax.set(
        title="Alternation against Mix",
        xlabel="conflict of the two objectives",
        ylabel="mean gap / that of Mix",
        xlim=(-0.04, 1.36),
        xticks=plain.index,
    )


def draw_prediction(ax: Axes, cases: pd.DataFrame) -> None:
    """Draw the measured against the predicted ratio of every case."""
    for name, method in (("alright", "alright"), ("budget_rule", "alright-budget")):
        look = style.look(method).dots(markersize=4, elinewidth=0.6, label=label(method))
        bars = 1.96 * cases[f"{name}_se"]
        ax.errorbar(cases[f"{name}_predicted"], cases[name], bars, **look)
    span = np.linspace(0.5, 1.2, 50)
    ax.plot(span, span, color="k", linewidth=0.9, label="as predicted (product)")
    ax.plot(span, np.sqrt(span), **style.BOUND, label="root of the product")
    ax.axhline(1, color="0.6", linewidth=0.6)
    ax.axvline(1, color="0.6", linewidth=0.6)
    ax.set(
        title="Measured against predicted",
        xlabel="predicted (cost × second moment) / Mix",
        ylabel="measured / Mix",
    )
    ax.legend(loc="lower right", fontsize=8)


# ---------------------------------------------------------------------- claims


def claim_best_probability(fast: bool = False, mutation: str | None = None) -> Checked:
    """The closed form attains the least product over p* and a fine grid of probabilities."""
    reject_unknown(mutation, (SWAPPED,))
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
        costs = (c_d, c_s) if mutation == SWAPPED else (c_s, c_d)
        formula.append(best_product(lam, m, *costs))
    return Checked(np.array(found), np.array(formula), "exact", {}, 1e-9)


def claim_plain_alternation_gains_nothing(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """Predicted gap of ALRIGHT over that of Mix at lambda = 1/2, where the cost of a pair cancels.

    Proof: at an interior optimum the mean gradients are opposite, so their inner product is not
    positive. Cases whose optimum lies on the boundary are left out.
    """
    del fast
    lam = mutate(mutation, 0.5, {"other-weight": 0.9})
    ratios = []
    for case in cases():
        theta = minimise(case.problem, lam).theta
        if np.linalg.norm(theta) < case.problem.radius * (1 - 1e-6):
            m = moments(case.problem, theta)
            ratios.append(cost_times_moment(lam, lam, m) / (2 * m.mixed(lam)))
    known = {"interior": float(len(ratios))}
    return Checked(np.array(ratios), np.ones(len(ratios)), "lower", known, 1e-9)


def claim_unequal_costs(fast: bool = False, mutation: str | None = None) -> Checked:
    """At c_DPO = 4 c_SFT the budget-optimal rule has a smaller gap than Mix in the geometric mean.

    ``measured`` is the upper end of the 95 % interval of the mean log ratio over the cases. The
    ``share`` of cases on which the rule wins is not shown to lie above one half.
    """
    reject_unknown(mutation, (SWAPPED, WRONG_PROBABILITY))
    mix, rule = mix_and_budget_rule(fast, 4.0, mutation == WRONG_PROBABILITY)
    logs = np.log(rule.mean(axis=1) / mix.mean(axis=1)) * (-1 if mutation == SWAPPED else 1)
    found = interval(logs)
    known = {"mean": float(found.mean), "share": float(np.mean(logs < 0)), "n": float(found.n)}
    return Checked(float(found.high), 0.0, "upper", known, 0.0)


def claim_measured_cost(fast: bool = False, mutation: str | None = None) -> Checked:
    """At the measured cost of a pair the budget-optimal rule has a smaller gap than Mix.

    The upper end of the interval of the mean log ratio over the cases is below 0.
    """
    wrong = mutate(mutation, False, {WRONG_PROBABILITY: True})
    mix, rule = mix_and_budget_rule(fast, measured_cost(), wrong, CONFIRMING)
    found = interval(np.log(rule.mean(axis=1) / mix.mean(axis=1)))
    known = {"mean": float(found.mean), "n": float(found.n)}
    return Checked(float(found.high), 0.0, "upper", known, 0.0)


@lru_cache(maxsize=8)
def mix_and_budget_rule(
    fast: bool, cost: float, wrong: bool, first_seed: int = FIRST_SEED
) -> tuple[np.ndarray, np.ndarray]:
    """(cases, replicas) gaps of Mix and of budget-optimal alternation at one cost of a pair."""
    budget, replicas = (1000, 128) if fast else (4000, 256)
    rows = []
    for case in cases(first_seed=first_seed):
        problem, lam = case.problem, case.lam
        m = moments(problem, minimise(problem, lam).theta)
        p = optimal_probability(lam, m.sft, m.preference, 1.0, cost)
        p = 1 - p if wrong else p
        rule = Alright(lam=lam, probability=p)
        mix = errors(problem, Mix(lam=lam), [budget / (1 + cost)], replicas)[0]
        rows.append((mix, errors(problem, rule, [budget / (p * cost + 1 - p)], replicas)[0]))
    mixed, tuned = zip(*rows, strict=True)
    return np.stack(mixed), np.stack(tuned)


if __name__ == "__main__":
    main(Path("out"))
