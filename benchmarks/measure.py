"""Interleaved timings, with their provenance."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "cvxpy",
    "clarabel",
    "torch",
    "transformers",
    "trl",
)


def interleave(
    contenders: dict[str, Callable[[], Any]],
    repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, with all contenders in turn, so that a busy time affects all.

    Work on one thread can be timed by ``time.process_time``, which others affect less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, call in contenders.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def summary(values: Any) -> dict[str, float]:
    return {
        "min": float(np.min(values)),
        "median": float(np.median(values)),
        "max": float(np.max(values)),
    }


def write(name: str, numbers: dict[str, Any]) -> Path:
    """Store numbers with their provenance as results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"benchmark": name, **numbers, "provenance": _provenance(name)}
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _provenance(name: str) -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": f"python -m benchmarks {name}",
        "date": date.today().isoformat(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def cpu() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
