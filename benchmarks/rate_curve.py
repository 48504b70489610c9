"""Time of a whole convergence curve: 256 replicas of 100,000 updates, as a table of gaps."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import interleave, summary
from tradeoff.convex.instances import random_log_linear
from tradeoff.convex.simulate import StepSize, simulate
from tradeoff.schedules import Alright

BAR_SECONDS = 2.0


def main(repetitions: int = 5) -> dict[str, Any]:
    problem = random_log_linear(0)

    def curve(steps: int) -> Any:
        return simulate(
            problem, Alright(), steps=steps, step_size=StepSize(1.0, 0.5), replicas=256, seed=1
        )

    curve(10)  # compiles
    seconds = summary(interleave({"curve": lambda: curve(100_000)}, repetitions)["curve"])
    return {
        "replicas": 256,
        "updates": 100_000,
        "seconds": seconds,
        "bar": BAR_SECONDS,
        "bar_met": seconds["median"] < BAR_SECONDS,
    }
