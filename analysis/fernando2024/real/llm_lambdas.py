"""The paper's sweep of five lambdas on real text: gaps of each method, and costs of an update."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.fernando2024.methods import METHODS, ORDERS, cost, finals, label
from analysis.fernando2024.real import llm_scores, llm_shown, llm_study
from analysis.fernando2024.real.llm_loss_space import ends, part
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.stored import shown
from tradeoff.schedules import Schedule, Sequential

EPOCHS = {0.01: (1, 5), 0.25: (2, 4), 0.5: (3, 3), 0.75: (4, 2), 0.99: (5, 1)}
"""The paper's epochs of (DPO, SFT) in the sequential run that belongs to each lambda."""
SHAPE = "pythia-tiny"
"""The measured shape that is most similar to the paper's."""
MEASURES = {
    "preference_gap": "preference gap (nats)",
    "sft_gap": "SFT gap (nats)",
    "ideal_distance": "distance to ideal (nats)",
    "runtime_percent": "time of an update (%)",
    "memory_percent": "peak memory (%)",
}
CAPTION = (
    f"{llm_shown.about()} Sequential runs split updates as in the paper, DPO to "
    "SFT from 1:5 to 5:1. Step sizes were tuned at λ = 0.5; {intervals}. Time and memory: beyond "
    "those of SFT→DPO, from llm_resources. "
    "Command: python -m analysis llm_lambdas"
)
words = llm_shown.words


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_shown.numbers("llm_lambdas", fast, measure)
    with style.figure(2, 3, height=5.0) as (fig, axes):
        for ax, (name, title) in zip(axes.flat, MEASURES.items(), strict=False):
            draw(ax, found, name)
            ax.set(title=title, xlabel="λ")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        axes.flat[-1].axis("off")
        axes.flat[-1].legend(handles, labels, loc="center", handlelength=3.2)
        style.save(fig, out, "llm_lambdas")
    return found


def schedule(method: str, lam: float) -> Schedule:
    """A method at a weight. Sequential methods have the paper's split."""
    if method not in ORDERS:
        return llm_study.schedule(method, lam)
    preference, sft = EPOCHS[lam]
    share = preference / (preference + sft)
    if method == "dpo-sft":
        return Sequential(lam=lam, first="preference", share=share)
    return Sequential(lam=lam, share=1 - share)


def configurations(scale: str) -> list[dict[str, Any]]:
    """Every method at every weight of the sweep."""
    size = SCALES[scale]
    runs = []
    for method in METHODS:
        for lam in size.sweep:
            rule = schedule(method, lam)
            # Runs of the comparison are shared. Of other runs only the ends are shown.
            own = lam not in size.lams or rule != llm_study.schedule(method, lam)
            changes = {"marks": 1} if own else {}
            runs += llm_study.seeded(scale, method, rule, size.fewest, **changes)
    return runs


def measure(scale: str) -> dict[str, Any]:
    """Gaps by method and in order of lambda; time and memory relative to SFT→DPO."""
    size = SCALES[scale]
    table = llm_study.run(scale, configurations(scale))
    least, resources = llm_study.least(scale), stored_costs()
    runs = {m: [part(table, m, lam) for lam in size.sweep] for m in METHODS}
    return {
        "training": cost(table),
        "lambdas": size.sweep,
        "splits": [list(EPOCHS[lam]) for lam in size.sweep],
        "seeds": size.fewest,
        "ideal": llm_study.ideal(scale),
        "ends": {m: [ends(one).tolist() for one in found] for m, found in runs.items()},
        "methods": {
            m: gaps(found, least) | relative(m, found, runs["sft-dpo"], resources)
            for m, found in runs.items()
        },
    }


def gaps(runs: list[pd.DataFrame], least: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Means and half widths over seeds of both gaps and of the distance, in order of lambda."""
    cells = [llm_scores.gaps(ends(one), least) for one in runs]
    means = {name: [cell[name]["mean"] for cell in cells] for name in cells[0]}
    halves = {name: [cell[name]["half_width"] for cell in cells] for name in cells[0]}
    return {**means, "half_widths": halves}


# ---------------------------------------------------------------------- costs that are stored


def stored_costs() -> dict[str, Any]:
    """Medians of seconds and bytes of an update by method, from the stored run of llm_resources."""
    shapes = shown("llm_resources")["devices"]["cpu"]
    return {
        method: {name: float(np.median(run[name])) for name in ("seconds_per_update", "memory")}
        for method, run in shapes["shapes"][SHAPE].items()
    }


def seconds(method: str, share: float, stored: Mapping[str, Any]) -> float:
    """Time of an update if ``share`` of the updates follow pairs."""
    time = {name: values["seconds_per_update"] for name, values in stored.items()}
    if method == "mix":
        return time["mix"]
    probes = time["maxright"] - (time["sft-only"] + time["preference-only"]) / 2
    followed = (1 - share) * time["sft-only"] + share * time["preference-only"]
    return followed + (max(0.0, probes) if method == "maxright" else 0.0)


def relative(
    method: str, runs: list[pd.DataFrame], base: list[pd.DataFrame], stored: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Time of an update and memory beyond SFT→DPO, in percent and in order of lambda."""
    own = stored.get(method, stored["sft-dpo"])["memory"]
    memory = 100 * (own / stored["sft-dpo"]["memory"] - 1)
    times = [
        100 * (seconds(method, pairs(one), stored) / seconds("sft-dpo", pairs(b), stored) - 1)
        for one, b in zip(runs, base, strict=True)
    ]
    return {"runtime_percent": times, "memory_percent": [memory] * len(runs)}


def pairs(runs: pd.DataFrame) -> float:
    """Share of the updates that followed the preference objective."""
    last = finals(runs)
    followed = last[["sft_updates", "preference_updates"]].sum()
    return float(followed["preference_updates"] / followed.sum())


# ---------------------------------------------------------------------- drawing


def draw(ax: Axes, found: dict[str, Any], name: str) -> None:
    """Draw one measure of all methods by lambda, with methods side by side at each lambda."""
    lams = found["lambdas"]
    for i, method in enumerate(METHODS):
        look, x = style.look(method), np.arange(len(lams)) + 0.07 * (i - 2)
        line, values = look.line_style(markersize=4, label=label(method)), found["methods"][method]
        # Costs, and results of one seed, have no interval.
        half = values.get("half_widths", {}).get(name)
        ax.errorbar(x, values[name], yerr=half, elinewidth=0.8, capsize=2, **line)
    ax.axhline(0, **style.BOUND)
    ax.set_xticks(range(len(lams)), [f"{lam:g}" for lam in lams])
