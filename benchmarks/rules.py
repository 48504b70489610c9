"""Methods that change more than the schedule: compiled samples compared with the numpy engine.

One method of each kind at five weights and eight step sizes, 16 replicas, as the arena tunes them.
Rates are updates of one run per second, on one thread; the arena uses a process for each core.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measure import interleave, summary
from tradeoff.arena.board import LAMS
from tradeoff.arena.runs import SCALES, TUNING_REPLICAS
from tradeoff.convex import random_log_linear, trajectories
from tradeoff.methods import find

METHODS = ("pcgrad", "famo", "simpo", "orpo", "dft", "l2_sp", "ema", "ties")
STEPS = {"auto": 100, "numpy": 50}


def main(repetitions: int = 5) -> dict[str, Any]:
    problem = random_log_linear(0)
    rates: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        methods = [find(name, lam) for lam in LAMS]

        def run(engine: Any, methods: Any = methods) -> None:
            trajectories(
                problem, methods, steps=STEPS[engine], step_size=SCALES, engine=engine,
                replicas=TUNING_REPLICAS, checkpoints=[STEPS[engine]],
            )  # fmt: skip

        contenders = {"auto": lambda: run("auto"), "numpy": lambda: run("numpy")}
        contenders["auto"]()  # compiles
        runs = len(LAMS) * len(SCALES) * TUNING_REPLICAS
        for engine, seconds in interleave(contenders, repetitions).items():
            rate = runs * STEPS[engine] / np.array(seconds) / 1e6
            rates.setdefault(engine, {})[name] = rate
    every = {engine: np.mean(list(found.values()), axis=0) for engine, found in rates.items()}
    return {
        "million_updates_per_second": {
            engine: {name: summary(rate) for name, rate in found.items()}
            for engine, found in rates.items()
        },
        "mean_million_updates_per_second": {e: summary(rate) for e, rate in every.items()},
        "compiled_over_numpy": summary(every["auto"] / every["numpy"]),
    }
