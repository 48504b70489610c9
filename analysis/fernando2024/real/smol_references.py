"""Which reference should DPO on SmolLM2 have: the base model, or a model after SFT?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.dossier import style
from analysis.fernando2024.real import smol_extra, smol_shown
from analysis.fernando2024.real.smol_scores import LOSSES, cell_of

CAPTION = (
    "SmolLM2-135M-Instruct, dequantised from 4 bits (scores are not comparable with published "
    "ones), with three references of DPO: the base model, the model after SFT, and that after SFT "
    "on chosen responses. The policy starts from the base model. Preference losses count from "
    "their own reference, so only SFT losses compare. What varies is the seed, n = {seeds}; held "
    "out. {intervals} Command: python -m analysis smol_references"
)
words = smol_shown.words
BASE = "base"


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = smol_shown.numbers("smol_references", fast, "references")
    pairs = smol_shown.beyond(found, "references")
    with style.figure(max(1, len(pairs)), 2, height=0.4 + 2.2 * max(1, len(pairs)),
                      squeeze=False, sharey="row") as (fig, axes):  # fmt: skip
        if not pairs:
            smol_shown.empty(axes[0])
        for row, (pair, one) in zip(axes, pairs.items(), strict=False):
            values = one["values"] | {BASE: of_base(found["pairs"][pair], one["seeds"])}
            draw(row, one | {"values": values})
            row[0].set(title=pair, xlabel="SFT loss (nats per token)")
            row[1].set_xlabel("preference loss (nats)")
        style.save(fig, out, "smol_references")
    return found


def of_base(one: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    """Ends of the comparison on so many seeds; its reference is the base model."""
    found = {}
    for name in smol_extra.AGAINST:
        if name in one["methods"]:
            ends = np.array(one["methods"][name]["ends"])[:seeds]
            found[name] = {loss: cell_of(ends[:, k]) for k, loss in enumerate(LOSSES)}
    return found


def draw(axes: Any, one: Mapping[str, Any]) -> None:
    """Both losses by method and reference."""
    values, seeds = one["values"], one["seeds"]
    kinds = (BASE, *smol_extra.REFERENCES)
    rows = [(name, kind) for name in smol_extra.AGAINST for kind in kinds]
    for place, (name, kind) in enumerate(rows):
        if (end := values.get(kind, {}).get(name)) is None:
            continue
        for ax, loss in zip(axes, LOSSES, strict=True):
            half = smol_shown.reach(end[loss], seeds)
            ax.errorbar(end[loss]["mean"], place, xerr=half, capsize=2, **style.look(name).dots())
    shown = [f"{smol_shown.label(one, name)}, {kind}" for name, kind in rows]
    axes[0].set_yticks(range(len(rows)), shown, fontsize=7)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
