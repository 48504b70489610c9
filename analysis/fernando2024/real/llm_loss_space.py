"""Where does each schedule end in the plane of a language model's two losses, on real text?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import mutations, style
from analysis.dossier.cells import place
from analysis.fernando2024.methods import JOINT, METHODS, ORDERS, cell, cost, finals, label
from analysis.fernando2024.real import llm_scores, llm_shown, llm_study
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_study import LAM, LOSSES
from analysis.fernando2024.stored import shown
from tradeoff.scores import Interval, interval, paired_difference, weighted_loss
from tradeoff.theory.checked import Checked

CAPTION = (
    f"{llm_shown.about()} One panel per lambda, with mean paths and ends "
    "of single runs. Star: mean of runs on one objective. Rounds alternate K times. "
    "Command: python -m analysis llm_loss_space"
)
words = llm_shown.words
SWAPPED = "swapped-rows"


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_shown.numbers("llm_loss_space", fast, measure)
    lams = found["lambdas"]
    with style.figure(1, len(lams), height=3.0, squeeze=False, sharey=True) as (fig, axes):
        for i, (ax, lam) in enumerate(zip(axes[0], lams, strict=True)):
            draw(ax, found, i)
            ax.set(title=f"λ = {lam:g}", xlabel="SFT loss (nats per token)")
        axes[0][0].set_ylabel("preference loss (nats)")
        handles, labels = axes[0][place(lams, LAM)].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
        style.save(fig, out, "llm_loss_space")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Mean paths and single ends, by method and in order of lambda, and the chosen step sizes."""
    table = llm_study.run(scale, llm_study.comparison(scale))
    lams = SCALES[scale].lams
    names = [m for m in table["method"].unique() if m not in METHODS]
    return {
        "training": cost(table),
        "lambdas": lams,
        "seeds": SCALES[scale].seeds,
        "few": SCALES[scale].few,
        "start": llm_study.start(scale),
        "ideal": llm_study.ideal(scale),
        "paths": {m: [path(part(table, m, lam)) for lam in lams] for m in METHODS},
        "ends": {m: [ends(part(table, m, lam)).tolist() for lam in lams] for m in METHODS},
        "spent": {m: [spent(part(table, m, lam)) for lam in lams] for m in METHODS},
        "paired_joint_minus_sequential": paired(table, lams),
        "rounds": {
            "labels": names,
            "paths": {m: path(part(table, m, LAM)) for m in names},
            "ends": {m: ends(part(table, m, LAM)).tolist() for m in names},
            "spent": {m: spent(part(table, m, LAM)) for m in names},
            "less_sft_first": {m: cell(against_sequential(table, m)) for m in names},
        },
        "preparation": preparation(scale),
    }


def preparation(scale: str) -> dict[str, Any]:
    """Tried and chosen step sizes, cost of a pair, and final losses of specialists."""
    searched = ["sft-only", "preference-only", *METHODS, "rounds"]
    sft, pairs = (llm_study.specialists(scale, name) for name in ("sft", "preference"))
    clock = [
        finals(one)["seconds"].to_numpy() / finals(one)["step"].to_numpy() for one in (pairs, sft)
    ]
    return {
        "grid": SCALES[scale].grid,
        "seeds": SCALES[scale].tuning,
        "rates": {name: llm_study.rates(scale, name) for name in searched},
        "tried": {name: llm_study.tuned(scale, name).table() for name in searched},
        "pair_cost": llm_study.pair_cost(scale),
        "pair_cost_by_the_clock": cell(llm_scores.ratio(*clock)),
        "specialists": {
            "sft": ends(sft).tolist(),
            "preference": ends(pairs).tolist(),
            "training": cost(sft, pairs),
        },
    }


def part(table: pd.DataFrame, method: str, lam: float) -> pd.DataFrame:
    """Rows of one method at one weight."""
    return table[(table["method"] == method) & (table["lam"] == lam)]


def path(runs: pd.DataFrame) -> list[list[float]]:
    """Mean losses at each evaluation."""
    return runs.groupby("mark")[LOSSES].mean().to_numpy().tolist()


def ends(runs: pd.DataFrame) -> np.ndarray:
    """(seeds, 2) final losses, in order of the seed."""
    return finals(runs).sort_values("seed")[LOSSES].to_numpy()


def spent(runs: pd.DataFrame) -> float:
    """Mean share of the budget that the runs spent, with MAXRIGHT's probes."""
    return float(finals(runs)["spent"].mean())


def weighted(table: pd.DataFrame, method: str, lam: float) -> np.ndarray:
    """(seeds,) final weighted losses."""
    return weighted_loss(ends(part(table, method, lam)), lam)


def paired(table: pd.DataFrame, lams: tuple[float, ...]) -> dict[str, Any]:
    """Weighted loss of joint minus sequential training, paired by seed. Negative: joint wins."""
    differences = {
        f"{joint} - {order}": [
            cell(paired_difference(weighted(table, joint, lam), weighted(table, order, lam)))
            for lam in lams
        ]
        for joint in JOINT
        for order in ORDERS
    }
    means = {m: [cell(interval(weighted(table, m, lam))) for lam in lams] for m in METHODS}
    return differences | means


def against_sequential(table: pd.DataFrame, key: str) -> Interval:
    """Weighted loss of rounds minus SFT→DPO at weight 1/2, paired by seed."""
    runs = weighted(table, key, LAM)
    return paired_difference(runs, weighted(table, "sft-dpo", LAM)[: len(runs)])


def draw(ax: Axes, found: dict[str, Any], i: int) -> None:
    """Draw one panel: all methods at one weight."""
    for method in METHODS:
        look = style.look(method)
        line = np.array(found["paths"][method][i])
        ax.plot(*line.T, **look.line_style(markersize=0, label=label(method)))
        ax.plot(*line[-1], **look.dots())
        ax.plot(*np.array(found["ends"][method][i]).T, **look.dots(markersize=2.5, alpha=0.5))
    ax.plot(*found["ideal"], **style.IDEAL, label="ideal point")
    ax.annotate("base", found["start"], fontsize=8, xytext=(-3, 3), textcoords="offset points")
    if found["lambdas"][i] != LAM:
        return
    for key, line in found["rounds"]["paths"].items():
        look, end = style.look(key), np.array(line[-1])
        family, _, count = key.rpartition("-")
        ax.plot(*end, **look.dots(label=label(family) if key == _first(found) else None))
        name = f"K={count}"
        ax.annotate(name, tuple(end), xytext=(5, 3), textcoords="offset points", fontsize=7)


def _first(found: Mapping[str, Any]) -> str:
    return next(iter(found["rounds"]["paths"]))


# ---------------------------------------------------------------------- claims


def stored() -> dict[str, Any]:
    """Numbers of the stored full run."""
    return shown("llm_loss_space")


def losses(found: Mapping[str, Any], method: str, i: int) -> np.ndarray:
    """(seeds,) weighted losses of a stored method at one lambda, given by its position."""
    return weighted_loss(found["ends"][method][i], found["lambdas"][i])


def claim_mix_depends_on_lambda(fast: bool = False, mutation: str | None = None) -> Checked:
    """Mix ends above SFT→DPO at the smallest lambda and below it at the largest (lower).

    ``measured`` holds the lower ends of the 95 % intervals of the paired differences.
    """
    found = stored()
    low = []
    for i, sign in ((0, 1), (-1, -1)):
        pair = losses(found, "mix", i), losses(found, "sft-dpo", i)
        first, second = mutations.mutate(mutation, pair, {SWAPPED: mutations.swapped(pair)})
        low.append(float(paired_difference(sign * first, sign * second).low))
    return Checked(np.array(low), np.zeros(len(low)), "lower", {"n": float(found["few"])}, 0.0)
