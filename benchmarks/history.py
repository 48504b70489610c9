"""History of the benchmarks' ratios: one JSON line for each benchmark that was run.

A ratio compares with a reference that is timed in the same run, so a slow or busy machine changes
it little. Ratios are compared only between machines with the same processor and number of cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.measure import cpu

FILE = Path(__file__).parent / "results" / "history.jsonl"
RATIOS: dict[str, tuple[str, ...]] = {
    "simulate": ("kernels_over_numpy", "kernels_over_c"),
    "rules": ("compiled_over_numpy",),
    "front": ("ratios.cvxpy_fresh_models", "ratios.cvxpy_compiled_once"),
    "ensemble": ("policy.ensemble_over_plain", "language_model.ensemble_over_plain"),
    "llm": ("speed.sft_over_trl", "speed.preference_over_trl"),
    "imports": ("numpy_over_simulate",),
}
"""Paths of the ratios in the numbers of a benchmark; larger ratios are better."""
LAST = 5
"""Number of earlier runs to compare with, by their median."""


def ratios(name: str, numbers: Mapping[str, Any]) -> dict[str, float]:
    """Medians of the ratios that a benchmark measured, without those of absent references."""
    found = {}
    for path in RATIOS.get(name, ()):
        value: Any = numbers
        for part in path.split("."):
            value = value.get(part, {})
        if value:
            found[path] = float(value["median"])
    return found


def entry(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the history: ratios, commit and machine."""
    return {
        "benchmark": name,
        "commit": commit(),
        "date": date.today().isoformat(),
        "machine": machine(),
        "ratios": {path: round(value, 4) for path, value in ratios(name, numbers).items()},
    }


def read(file: Path = FILE) -> list[dict[str, Any]]:
    """All lines, the oldest first."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def append(line: Mapping[str, Any], file: Path = FILE) -> None:
    """Add a line at the end."""
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(line, ensure_ascii=False) + "\n")


def worse(
    line: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], factor: float
) -> list[str]:
    """List the ratios that are worse by more than the factor than in the last runs."""
    found = []
    like = ("benchmark", "machine")
    known = [old["ratios"] for old in earlier if all(old[key] == line[key] for key in like)]
    for path, value in line["ratios"].items():
        stored = [old[path] for old in known if path in old][-LAST:]
        if stored and value * factor < statistics.median(stored):
            median = statistics.median(stored)
            found.append(f"{line['benchmark']}: {path} is {value:.4g}, and was {median:.4g}")
    return found


def machine() -> str:
    """Processor and number of cores of this machine."""
    return f"{cpu()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit that is checked out, with a plus if files differ from it; empty without git."""
    folder = Path(__file__).parent
    words = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
