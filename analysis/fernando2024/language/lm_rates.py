"""How much of the gap is left after tuning the step sizes of every method and stage?

The step sizes that all figures of the language model use, as searched by
:mod:`analysis.fernando2024.language.lm_tuning`. Both orders are compared at one common step size
and at their tuned ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import mutate
from analysis.fernando2024.language import lm_study, lm_tuning
from analysis.fernando2024.language.lm_models import SCALES, task
from analysis.fernando2024.language.lm_study import Array
from analysis.fernando2024.language.lm_tuning import Searched, Tried
from analysis.fernando2024.methods import (
    JOINT,
    METHODS,
    ORDERS,
    bounds,
    cell,
    cost,
    label,
    labels,
    paired_ratio,
)
from analysis.fernando2024.stored import shown
from tradeoff.schedules import PREFERENCE, SFT
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

HALF = 0.5
"""Weight, and the level of conflict that is drawn."""
RULES = ("one step size", "tuned")
CAPTION = (
    "How much of the gap is due to the step size? Tiny language model, λ = 1/2, conflict 1/2, "
    "equal cost. Left, middle: validation loss on the searched grid, n = {tuning} seeds that are "
    "used for tuning only; large: chosen; middle: step size of the second stage. Right: held-out "
    "loss with one step size for all (hollow) and tuned (filled); what varies is the seed, n = "
    "{seeds}, 95 % t-intervals. Command: python -m analysis lm_rates"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "tuning": str(lm_tuning.seeds_of(numbers["tuned"])),
        "seeds": str(numbers["seeds"]),
    }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    found = lm_tuning.tune(scale)
    chosen = lm_tuning.chosen(scale, found)
    table = ends(scale, chosen)
    with style.figure(1, 3, height=3.3) as (fig, (left, middle, right)):
        draw_search(left, scale, found, JOINT)
        draw_search(middle, scale, found, ORDERS)
        left.set(title="One step size", ylabel="validation (SFT + preference)/2")
        middle.set(title="Second stage's step size")
        draw_ends(right, table)
        style.save(fig, out, "lm_rates")
    levels = sorted(table["conflict"].unique())
    return {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "gradients": SCALES[scale].gradients,
        "pair_cost": lm_tuning.costs(scale),
        "pair_cost_in_seconds": pair_cost_in_seconds(scale),
        "grid": [SCALES[scale].rate * share for share in lm_tuning.GRID],
        "common_rate": SCALES[scale].rate,
        "tuned": chosen,
        "conflicts": levels,
        "weighted_loss": {
            rule: {key: cell(interval(losses(table, rule, key))) for key in METHODS}
            for rule in RULES
        },
        "exact_match": {
            rule: {key: cell(interval(losses(table, rule, key, "exact_match"))) for key in METHODS}
            for rule in RULES
        },
        "sequential_minus_joint": {
            rule: {
                f"{order} - {joint}": cell(
                    paired_difference(losses(table, rule, order), losses(table, rule, joint))
                )
                for order in ORDERS
                for joint in JOINT
            }
            for rule in RULES
        },
        "share_of_the_gap_left": {
            f"{order} - {joint}": bounds(left_over(table, order, joint))
            for order in ORDERS
            for joint in ("mix", "alright")
        },
    }


def ends(scale: str, chosen: Mapping[str, Any]) -> pd.DataFrame:
    """Final scores at lambda = 1/2 of every method, with one step size and with tuned ones."""
    common = [SCALES[scale].rate] * 2
    runs = [
        lm_study.configuration(scale, lm_study.schedule(key), seed, chosen=chosen, rates=rates)
        for rates in (common, None)
        for key in METHODS
        for seed in lm_study.seeds(scale)
    ]
    table = lm_study.finals(lm_study.run(scale, runs))
    return table.assign(rule=np.repeat(RULES, len(runs) // 2))


def pair_cost_in_seconds(scale: str, repeats: int = 20) -> float:
    """Processor time of a gradient of pairs over that of one of demonstrations, medians.

    Runs are charged by tokens. This time is measured for comparison, and depends on the machine.
    """
    known = task(scale)
    params = {name: value[0].clone().requires_grad_() for name, value in known.initial([0]).items()}
    rows = SCALES[scale].batch
    taken: dict[int, list[float]] = {SFT: [], PREFERENCE: []}
    for repeat, objective in product(range(repeats), (SFT, PREFERENCE)):
        index = torch.arange(rows) + rows * (repeat % 4)
        began = time.process_time()
        loss = known.losses(params, objective, index, torch.zeros(rows))
        torch.autograd.grad(loss, list(params.values()))
        taken[objective].append(time.process_time() - began)
    return float(np.median(taken[PREFERENCE]) / np.median(taken[SFT]))


def losses(table: pd.DataFrame, rule: str, key: str, name: str = "weighted_loss") -> Array:
    """(seed, conflict) values of one method under one rule for step sizes."""
    rows = table[(table["rule"] == rule) & (table["method"] == key)]
    return lm_study.values(rows, name, "conflict")


def left_over(table: pd.DataFrame, order: str, joint: str) -> Any:
    """Gap of an order to a joint method, tuned over untuned, by conflict."""
    before, after = (losses(table, rule, order) - losses(table, rule, joint) for rule in RULES)
    return paired_ratio(after, before)


def draw_search(ax: Axes, scale: str, found: Mapping[str, Tried], keys: tuple[str, ...]) -> None:
    """Draw mean validation loss by the last stage's step size, the other step size at its best."""
    for key in keys:
        tried, look = found[Searched(key, HALF, HALF).name], style.look(key)
        line = sorted(place for place in tried.losses if place[:-1] == tried.best[:-1])
        rates = [lm_tuning.rates(scale, place)[-1] for place in line]
        ax.plot(rates, [tried.mean(p) for p in line], **look.line_style(markersize=3.5))
        at = lm_tuning.rates(scale, tried.best)[-1], tried.mean(tried.best)
        ax.plot(*at, **look.dots(markersize=8), label=label(key))
    ax.set(xscale="log", xlabel="step size of AdamW", yscale="log")
    ax.yaxis.set_major_formatter("{x:.2g}")
    ax.yaxis.set_minor_formatter("{x:.2g}")
    ax.tick_params(axis="y", which="both", labelsize=7)
    ax.legend(fontsize=7)


def draw_ends(ax: Axes, table: pd.DataFrame) -> None:
    """Draw held-out loss of every method with one step size (hollow) and tuned (filled)."""
    rows = table[table["conflict"] == HALF]
    for place, key in enumerate(METHODS):
        look = style.look(key)
        means = []
        for rule, fill in zip(RULES, ("white", look.color), strict=True):
            found = interval(losses(rows, rule, key)[:, 0])
            means.append(float(found.mean))
            half = float(found.high - found.mean)
            dots = look.dots(markerfacecolor=fill, capsize=2, zorder=4)
            ax.errorbar(means[-1], place, xerr=half, **dots)
        ax.plot(means, [place, place], color=look.color, linewidth=1)
    ax.set(
        title="One step size or tuned",
        xscale="log",
        xlabel="held-out (SFT + preference)/2",
        yticks=range(len(METHODS)),
        yticklabels=labels(METHODS),
    )
    ax.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
    ax.minorticks_off()
    ax.invert_yaxis()


LEAST_REMOVED = 0.5
"""Least share of the gap that tuning removes, set before the runs."""


def claim_tuning_closes_the_gap(fast: bool = False, mutation: str | None = None) -> Checked:
    """Tuning leaves at most half of the gap of SFT→DPO to ALRIGHT and to Mix (upper).

    ``measured`` holds upper ends of Fieller's 95 % intervals of the remaining share, by joint
    method and level of conflict.
    """
    del fast
    found = shown("lm_rates")
    kept = found["share_of_the_gap_left"]
    high = np.array([kept[f"sft-dpo - {joint}"]["high"] for joint in ("mix", "alright")], float)
    high = mutate(mutation, high, {"one-step-size": np.ones_like(high)})
    return Checked(high, np.full_like(high, 1 - LEAST_REMOVED), "upper", {"n": found["seeds"]}, 0.0)


def claim_step_sizes_have_no_better_neighbour(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """No neighbour on the grid is better than the chosen step sizes (upper).

    For every setting, ``measured`` is the validation loss at the chosen step sizes less the least
    loss of their neighbours. All neighbours were tried.
    """
    del fast
    found = shown("lm_rates")
    measured = [_lead(about, found["grid"], mutation) for about in found["tuned"].values()]
    return Checked(np.array(measured), np.zeros(len(measured)), "upper", {}, 0.0)


def _lead(about: Mapping[str, Any], grid: list[float], mutation: str | None) -> float:
    """Loss at the choice less the least loss of its neighbours; infinite if one was not tried."""
    tried = {tuple(t["rates"]): float(np.mean(t["losses"])) for t in about["tried"]}
    worst = max(tried, key=tried.__getitem__)
    choice = mutate(mutation, tuple(about["rates"]), {"worst-of-those-tried": worst})
    stages = 2 if any(first != second for first, second in tried) else 1
    around = lm_tuning.neighbours(_place(choice, grid, stages))
    known = {_place(rates, grid, stages): loss for rates, loss in tried.items()}
    return tried[choice] - min(known.get(other, -np.inf) for other in around)


def _place(rates: tuple[float, ...], grid: list[float], stages: int) -> tuple[int, ...]:
    """Positions on the grid of the step sizes of all stages."""
    return tuple(int(np.argmin(np.abs(np.log(np.array(grid) / r)))) for r in rates[:stages])


if __name__ == "__main__":
    main(Path("out"))
