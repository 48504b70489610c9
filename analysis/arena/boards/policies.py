"""Which methods come nearest to the best known trade-off when small networks are trained?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.arena import scales
from tradeoff.arena.network_board import network_board, network_left_out
from tradeoff.arena.networks import network
from tradeoff.checkout import WORK
from tradeoff.methods import names

CAPTION = (
    "Networks with one hidden layer that choose among 8 responses, trained by AdamW on {problems} "
    "levels of conflict. Mean rank by regret on held-out rows, with 95 % t-intervals over levels "
    "(1 is best of {methods} methods); the bar is Nemenyi's critical difference at 5 % for all "
    "pairs, {difference}. Friedman's test that all methods are level: p {p}. Every run costs "
    "{budget} gradients of {batch} rows, rates are tuned for each method, level and weight λ = "
    "{lams}; n = {replicas} seeds, of initial weights and draws. Command: python -m analysis "
    "policies --paper arena."
)
FOLDER = WORK / "arena" / "policies"
FULL: dict[str, Any] = {"replicas": 12, "progress": True}
FAST: dict[str, Any] = {
    "replicas": 2, "budget": 16.0, "lams": (0.5,), "backend": "sequential", "jobs": 1,
}  # fmt: skip
FAST_METHODS = ("alright", "pcgrad", "ipo", "soup")
FAST_PROBLEMS = ("policies-strong", "policies-opposed")


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    if fast:
        found = network_board(
            FAST_METHODS, FAST_PROBLEMS, scale="policies", folder=FOLDER / "fast", **FAST
        )
    else:
        found = network_board(scale="policies", folder=FOLDER / "full", **FULL)
    problems = [network(name) for name in found.regret.columns]
    numbers = scales.kept(found, [each.varies for each in problems], "rows_regret")
    numbers |= {
        "budget": FAST["budget"] if fast else problems[0].budget,
        "batch": problems[0].batch,
        "left_out": {
            name: why for name in names() if (why := network_left_out(name, "policies")) is not None
        },
    }
    scales.draw(numbers, out, "policies")
    return numbers


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    own = {key: f"{numbers[key]:g}" for key in ("budget", "batch")}
    return {**scales.words(numbers), **own}
