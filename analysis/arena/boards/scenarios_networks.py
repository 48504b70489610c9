"""What does a small network keep of skills that it had before, by method?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from analysis.arena.boards import scenarios
from tradeoff.arena.network_board import network_board, network_left_out
from tradeoff.arena.networks import network
from tradeoff.arena.scenarios import SCENARIOS
from tradeoff.checkout import WORK

CAPTION = (
    "Probability of the answers that show a skill, before training (line) and after it, by method, "
    "at weight {lam}, for networks with one hidden layer that were trained on the skill first: "
    "means with 95 % t-intervals over {seeds} instances of each scenario, each with {replicas} "
    "runs of {budget} gradients of {batch} rows, whose rates are tuned. SFT alone is SFT→DPO at "
    "weight 0. What varies is the instance. Command: python -m analysis scenarios_networks --paper "
    "arena."
)
FOLDER = WORK / "arena" / "scenarios_networks"
METHODS = tuple(name for name in scenarios.METHODS if network_left_out(name, "policies") is None)
FULL: dict[str, Any] = {"replicas": 4, "progress": True}
FAST: dict[str, Any] = {"replicas": 2, "budget": 16.0, "backend": "sequential", "jobs": 1}
FAST_METHODS, FAST_SCENARIOS = ("sft-dpo", "mix"), ("third-skill", "facts")
SEEDS = 10


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    settings, seeds = (FAST, 2) if fast else (FULL, SEEDS)
    kinds, names = (FAST_SCENARIOS, FAST_METHODS) if fast else (tuple(SCENARIOS), METHODS)
    run = partial(network_board, scale="policies", **settings)
    numbers = scenarios.ran(run, FOLDER / ("fast" if fast else "full"), kinds, names, seeds)
    like = network(kinds[0])
    numbers |= {
        "budget": settings.get("budget", like.budget),
        "batch": like.batch,
        "replicas": settings["replicas"],
    }
    scenarios.draw(numbers, out, "scenarios_networks")
    return numbers


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    return {**scenarios.words(numbers), "batch": f"{numbers['batch']:g}"}
