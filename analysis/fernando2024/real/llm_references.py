"""Which reference should DPO use: the base model, or a model after SFT, and SFT on which rows?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.fernando2024.methods import cell, cost, finals, label
from analysis.fernando2024.real import llm_runs, llm_scores, llm_shown, llm_study
from analysis.fernando2024.real.llm_loss_space import ends, path
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_study import LAM
from tradeoff.scores import interval

COMPARED = ("sft-dpo", "dpo-sft", "alright")
REFERENCES = {
    llm_runs.BASE: "base model",
    "sft": "SFT optimum",
    "chosen": "SFT on chosen responses",
}
CAPTION = (
    f"{llm_shown.about()} λ = {LAM:g}. Preference losses under different "
    "references are not comparable, so gaps are relative to DPO alone under the same "
    "reference. Step sizes were tuned under the SFT optimum; {intervals}. "
    "Command: python -m analysis llm_references"
)
words = llm_shown.words


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = llm_shown.numbers("llm_references", fast, measure)
    with style.figure(1, len(REFERENCES), height=3.2, sharey=True) as (fig, axes):
        for ax, (name, title) in zip(axes, REFERENCES.items(), strict=True):
            draw(ax, found["references"][name])
            ax.set(title=title, xlabel="SFT gap (nats per token)")
        axes[0].set_ylabel("preference gap (nats)")
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
        style.save(fig, out, "llm_references")
    return found


def measure(scale: str) -> dict[str, Any]:
    """Losses, gaps and accuracy of the methods under each reference."""
    found, tables = {}, []
    for name in REFERENCES:
        table = llm_study.run(scale, configurations(scale, name))
        least = llm_study.least(scale, name)
        tables.append(table)
        found[name] = {
            "start": llm_study.start(scale, name),
            "ideal": llm_study.ideal(scale, name),
            "methods": {
                method: under(table[table["method"] == method], least) for method in COMPARED
            },
        }
    return {
        "training": cost(*tables),
        "lambda": LAM,
        "seeds": SCALES[scale].fewest,
        "references": found,
    }


def configurations(scale: str, name: str) -> list[dict[str, Any]]:
    """Runs of the methods at weight 1/2 under one reference."""
    own = name == llm_runs.BASE
    changes: dict[str, Any] = {"reference": name if own else llm_study.reference(scale, name)}
    if name != "sft":  # These are the runs of the comparison.
        changes["marks"] = 2
    return [
        c
        for method in COMPARED
        for c in llm_study.seeded(
            scale, method, llm_study.schedule(method, LAM), SCALES[scale].fewest, **changes
        )
    ]


def under(runs: pd.DataFrame, least: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Results of one method under one reference: means over seeds, and half widths."""
    losses, accuracy = ends(runs), 100 * finals(runs)["preference_accuracy"]
    cells = llm_scores.gaps(losses, least)
    cells["preference_accuracy"] = cell(interval(accuracy.to_numpy()))
    return {
        "path": path(runs),
        "ends": losses.tolist(),
        **{name: one["mean"] for name, one in cells.items()},
        "half_widths": {name: one["half_width"] for name, one in cells.items()},
    }


def draw(ax: Axes, found: dict[str, Any]) -> None:
    """Draw the gaps under one reference."""
    ideal = np.array(found["ideal"])
    for method in COMPARED:
        look, runs = style.look(method), found["methods"][method]
        line = np.array(runs["path"]) - ideal
        ax.plot(*line.T, **look.line_style(markersize=0, label=label(method)))
        half = runs.get("half_widths", {})
        (x, y), shape = line[-1], look.dots(elinewidth=0.8)
        ax.errorbar(x, y, half.get("preference_gap"), half.get("sft_gap"), **shape)
        ax.plot(*(np.array(runs["ends"]) - ideal).T, **look.dots(markersize=2.5, alpha=0.5))
    ax.plot(0, 0, **style.IDEAL, label="no gap")
