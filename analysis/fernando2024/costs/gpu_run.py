"""What did a GPU measure: tokens per second, utilisation, memory, and the ratio to TRL?

``analysis.gpu`` measures and writes one small file for each method. This figure shows all files
that exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.dossier import lookup, style
from analysis.fernando2024 import methods
from analysis.fernando2024.stored import PAPER
from analysis.gpu import results

NONE = "no GPU run yet"
PANELS = {
    "tokens_per_second": "tokens per second",
    "model_flops_utilisation": "MFU (%)",
    "peak_memory_bytes": "peak memory (GiB)",
}
UNITS = {"tokens_per_second": 1.0, "model_flops_utilisation": 100.0, "peak_memory_bytes": 2.0**-30}
BARS = {"tokens_per_second": 1.3, "peak_memory_bytes": 0.7}
"""Target ratios to TRL's DPO on the same rows."""
CAPTION = (
    "{said} Models of published shapes with random weights and adapters in bf16; times are of "
    "whole updates after the first ones. Both responses of a pair count as tokens, padding does "
    "not. MFU counts frozen weights in the backward pass once. What varies is the round, n = "
    "{rounds}. Command: python -m analysis gpu_run"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields: devices and rounds."""
    devices = ", ".join(numbers["devices"])
    said = f"Measured on {devices}." if devices else "There is no GPU run yet."
    rounds = sorted({len(m["rounds"]) for s in numbers["steps"].values() for m in s.values()})
    return {"said": said, "rounds": " or ".join(map(str, rounds)) or "0"}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    found = measured(every())
    rows = [(step, method) for step, each in found["steps"].items() for method in each]
    with style.figure(1, len(PANELS), height=1.4 + 0.22 * len(rows), sharey=True) as (fig, axes):
        for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
            draw(ax, found["steps"], rows, name)
            ax.set_xlabel(title)
        style.save(fig, out, "gpu_run")
    return found


def every() -> dict[str, Any]:
    """Results of the paper's folder; results in the folder of the drawing replace them."""
    found: dict[str, Any] = {}
    for folder in lookup.folders(PAPER):
        found |= results.read(results.folder(folder))
    return found


def measured(read: Mapping[str, Any]) -> dict[str, Any]:
    """Results of GPUs by step and method, and ratios of our DPO to TRL's.

    Results of a rehearsal on a CPU are left out.
    """
    steps: dict[str, dict[str, Any]] = {}
    devices: dict[str, None] = {}
    for one in read.values():
        if one["machine"]["device"] == "cpu" or one["step"] == results.STUDY:
            continue
        devices[one["machine"]["device"]] = None
        step = f"{one['step']}, {one['machine']['device']}"
        given = one["setting"]
        steps.setdefault(step, {})[one["method"]] = {
            "rounds": one["rounds"],
            "text": given["text"],
            "shape": given["setting"]["shape"],
            "kept": not given["setting"]["checkpointing"],
            "packages": one["machine"],
        }
    return {"devices": list(devices), "steps": steps, "to_trl": ratios(steps)}


def ratios(steps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ratios of every DPO of ours to every one of TRL's on the same device, shape and rows.

    ``kept`` says whether (ours, TRL's) keep activations; otherwise they are computed again.
    """
    ours, theirs = (
        {step: each[name] for step, each in steps.items() if name in each}
        for name in ("preference-only", "trl-dpo")
    )
    return [
        {"step": step, "trl": other, "kept": (one["kept"], its["kept"]), **found}
        for step, one in ours.items()
        for other, its in theirs.items()
        if all(one[key] == its[key] for key in ("shape", "text"))
        and one["packages"]["device"] == its["packages"]["device"]
        and (found := ratio(one["rounds"], its["rounds"]))
    ]


def ratio(ours: list[Any], theirs: list[Any]) -> dict[str, float]:
    """Ratios of medians over rounds; empty where memory did not suffice."""
    found = {}
    for name in BARS:
        pair = values(ours, name), values(theirs, name)
        if all(map(len, pair)):
            found[name] = float(np.median(pair[0]) / np.median(pair[1]))
    return found


def values(rounds: list[Any], name: str) -> np.ndarray:
    """Values of one quantity in the figure's unit; rounds without a memory value are left out."""
    found = [one.get(name) for one in rounds]
    return np.array([UNITS[name] * value for value in found if value is not None])


def draw(ax: Any, steps: Mapping[str, Any], rows: list[tuple[str, str]], name: str) -> None:
    """Draw one quantity, with one row per method."""
    if not rows:
        ax.text(0.5, 0.5, NONE, ha="center", va="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return
    for row, (step, method) in enumerate(rows):
        found = values(steps[step][method]["rounds"], name)
        look = style.look(method)
        if len(found):
            ax.plot(found, np.full(len(found), row), **look.dots(markersize=3, alpha=0.5))
            ax.plot(np.median(found), row, **look.dots(markersize=6))
    shown = [f"{methods.label(method)}, {step.partition(',')[0]}" for step, method in rows]
    ax.set_yticks(range(len(rows)), shown, fontsize=7)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, 1.06 * ax.get_xlim()[1])
