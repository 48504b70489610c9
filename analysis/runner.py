"""Run figures, keep their numbers with provenance, and skip what is up to date.

A figure is up to date when the stamp of an earlier run, kept beside the checkout's other
scratch output and never committed, names the same sources and the same form. So a fresh clone
recomputes everything and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import platform
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "papers" / "fernando2024"
STAMPS = ROOT / "out" / "stamps"
FIGURES = (
    "toy_trajectories",
    "loss_space",
    "sequential_gap",
    "budget_splits",
    "beta_sweep",
    "convergence",
    "stale_refresh",
    "value_error",
    "equal_compute",
    "quadratic_exact",
    "certified_front",
    "scores",
    "text_front",
)
"""In the order in which a reader meets them."""


@dataclass(frozen=True)
class Outcome:
    """What became of one figure."""

    name: str
    numbers: dict[str, Any]
    seconds: float
    fresh: bool


def run(name: str, out: Path = PAPER, *, fast: bool = False, force: bool = False) -> Outcome:
    """Draw one figure and store its numbers, unless they are up to date.

    Parameters
    ----------
    name
        One of :data:`FIGURES`.
    out
        Folder that receives ``figures/`` and ``results/``.
    fast
        The reduced form that the tests run: fewer replicas and steps, same code.
    force
        Recompute even what is up to date.
    """
    stored = out / "results" / f"{name}.json"
    stamp = STAMPS / f"{name}{'-fast' if fast else ''}.json"
    key = {"sources": fingerprint(name), "out": str(out.resolve()), "fast": fast}
    if not force and stored.exists() and stamp.exists() and _read(stamp) == key:
        record = _read(stored)
        return Outcome(name, record["numbers"], record["provenance"]["seconds"], fresh=False)
    started = time.perf_counter()
    numbers = plain(importlib.import_module(f"analysis.{name}").main(out, fast=fast))
    seconds = round(time.perf_counter() - started, 1)
    write_json(stored, {"figure": name, "numbers": numbers, "provenance": _origin(name, fast, seconds)})
    write_json(stamp, key)
    return Outcome(name, numbers, seconds, fresh=True)


@cache
def fingerprint(name: str) -> str:
    """Hash of a figure's source and of every file of the library it may use."""
    files = [ROOT / "analysis" / f"{name}.py", ROOT / "analysis" / "style.py"]
    digest = hashlib.sha256()
    for path in [*files, *sorted((ROOT / "tradeoff").rglob("*.py"))]:
        # The syntax tree, so that a comment or a line break does not ask for a new run.
        digest.update(ast.dump(ast.parse(path.read_text("utf-8"))).encode())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    partial.replace(path)


def plain(value: Any) -> Any:
    """Numbers, lists and dictionaries JSON knows, floats rounded to six significant digits."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def _origin(name: str, fast: bool, seconds: float) -> dict[str, Any]:
    packages = ("tradeoff", "numpy", "scipy", "numba", "pandas")
    return {
        "command": f"python -m analysis {name}{' --fast' if fast else ''}",
        "form": "fast" if fast else "full",
        "seconds": seconds,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "sources": fingerprint(name)[:16],
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
