"""Methods that change more than the schedule: compiled samples compared with the numpy engine.

One method of each kind at five weights, 256 replicas of each, all simulated together.
Rates are updates of one run per second of processor time, on one thread; the arena uses a process
for each core. On a busy machine they are lower, too: see the stored load.
"""

from __future__ import annotations

from time import process_time
from typing import Any

import numpy as np

from benchmarks.measure import interleave, summary
from tradeoff.arena.board import LAMS
from tradeoff.convex import random_log_linear, trajectories
from tradeoff.methods import find
from tradeoff.study.engines import few_threads

METHODS = ("pcgrad", "famo", "simpo", "orpo", "dft", "l2_sp", "ema", "ties")
REPLICAS = 256
BAR = 1.4
"""Million updates per second that two cores should reach."""
STEPS = {"auto": 50, "numpy": 50}


def main(repetitions: int = 5) -> dict[str, Any]:
    with few_threads(1):
        return _measured(repetitions)


def _measured(repetitions: int) -> dict[str, Any]:
    problem = random_log_linear(0)
    rates: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        methods = [find(name, lam) for lam in LAMS]

        def run(engine: Any, methods: Any = methods) -> None:
            trajectories(
                problem, methods, steps=STEPS[engine], step_size=0.5, engine=engine,
                replicas=REPLICAS, checkpoints=[STEPS[engine]],
            )  # fmt: skip

        contenders = {"auto": lambda: run("auto"), "numpy": lambda: run("numpy")}
        contenders["auto"]()  # compiles
        contenders["numpy"]()
        runs = len(LAMS) * REPLICAS
        for engine, seconds in interleave(contenders, repetitions, process_time).items():
            rate = runs * STEPS[engine] / np.array(seconds) / 1e6
            rates.setdefault(engine, {})[name] = rate
    every = {engine: np.mean(list(found.values()), axis=0) for engine, found in rates.items()}
    return {
        "million_updates_per_second": {
            engine: {name: summary(rate) for name, rate in found.items()}
            for engine, found in rates.items()
        },
        "mean_million_updates_per_second": {e: summary(rate) for e, rate in every.items()},
        "on_two_cores": summary(2 * every["auto"]),
        "bar_met": bool(np.median(2 * every["auto"]) >= BAR),
        "compiled_over_numpy": summary(every["auto"] / every["numpy"]),
    }
