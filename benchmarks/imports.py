"""Import time of the convex laboratory, compared with numpy's, each in its own processes."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.measure import summary

STATEMENTS = {"numpy": "import numpy", "simulate": "from tradeoff import simulate"}


def main(repetitions: int = 9) -> dict[str, Any]:
    for statement in STATEMENTS.values():
        _seconds(statement)  # compiles the modules
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(repetitions):
        for name, statement in STATEMENTS.items():
            seconds[name].append(_seconds(statement))
    ratio = np.array(seconds["numpy"]) / np.array(seconds["simulate"])
    found = {name: summary(values) for name, values in seconds.items()}
    return {"processor_seconds": found, "numpy_over_simulate": summary(ratio)}


def _seconds(statement: str) -> float:
    """Processor time in seconds, which does not include waiting."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = used()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return used() - before
