"""Which methods come nearest to the best known trade-off when a tiny language model is trained?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.arena import scales
from tradeoff.arena.network_board import network_board, network_left_out
from tradeoff.arena.networks import network
from tradeoff.arena.tiny_language import base
from tradeoff.checkout import WORK
from tradeoff.methods import names

CAPTION = (
    "A language model of {parameters} parameters, pretrained on a generated language and trained "
    "by AdamW on {problems} levels of conflict. Mean rank by regret on held-out rows, with 95 % "
    "t-intervals over levels (1 is best of {methods} methods, a subset that was fixed before the "
    "run); the bar is Nemenyi's critical difference at 5 % for all pairs, {difference}. Friedman's "
    "test that all methods are level: p {p}. Every run costs {budget} gradients of {batch} "
    "demonstrations, where a pair counts by its tokens; rates are tuned for each method, level and "
    "weight λ = {lams}; n = {replicas} seeds; what varies is the data drawn. Command: python -m "
    "analysis language --paper arena."
)
FOLDER = WORK / "arena" / "language"
FULL: dict[str, Any] = {"replicas": 10, "lams": (0.25, 0.75), "progress": True}
FAST: dict[str, Any] = {
    "replicas": 2, "budget": 6.0, "lams": (0.25,), "backend": "sequential", "jobs": 1,
}  # fmt: skip
FAST_METHODS, FAST_PROBLEMS = ("alright",), ("language-strong",)
SCHEDULES = (
    *("evenly", "alright", "rounds", "evenly_budget", "alternation", "mix", "replay", "sft-dpo"),
    *("dpo-sft", "moving_mix", "cyclic", "maxright", "smooth_maxright", "rewind", "constrained"),
)
MERGES = (
    *("wise_ft", "slerp", "soup", "graft", "fisher_merge", "task_arithmetic", "half_reset"),
    *("paft", "ties", "dare"),
)
OTHERS = (
    *("tracked", "sam", "subspace"),
    *("ema", "tail_average", "bema"),
    *("by_margin", "lowest_perplexity", "subsample"),
    *("excess_mtl", "dualproj", "pcgrad", "nash_mtl", "mgda"),
    *("adpo", "slic", "simpo", "rpo_reg", "ipo"),
    *("iw_sft", "poft", "otr"),
    *("l2_sp", "si", "ewc"),
)
"""Of each other slot: its leaders and its median on the convex board, and methods much in use.

All schedules and merges of the convex board are there. The list is fixed, so that a later convex
board does not change who takes part.
"""
TOKENS = (
    *("mft", "rationale_sft", "tl_training", "uds"),
    *("ld_dpo", "ift", "prefix_rft", "uft_rl", "lta"),
)
"""Methods that look at the tokens of responses, most of which have no other scale."""
WRITING = (
    *("online_dpo", "xpo", "bolt", "grpo", "egpo", "semantic_reward"),
    *("srft", "srft_own", "srft_demonstrations"),
    *("self_distillation", "s3ft", "own_samples", "spin"),
)
"""Methods that train on responses of a policy, under the exact judge of the generated language."""
ADDING = (
    *("search_instruct", "in_context", "dr_tune", "view_consistency", "lora_moe", "levi"),
    *("kl_base", "lwf"),
)
"""Methods that look rows up, add to the model, or hold it to the base model's states and laws."""
CHOSEN = (*SCHEDULES, *MERGES, *OTHERS, *TOKENS, *WRITING, *ADDING)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    if fast:
        found = network_board(
            FAST_METHODS, FAST_PROBLEMS, scale="language", folder=FOLDER / "fast", **FAST
        )
    else:
        found = network_board(CHOSEN, scale="language", folder=FOLDER / "full", **FULL)
    problems = [network(name) for name in found.regret.columns]
    numbers = scales.kept(found, [each.varies for each in problems], "rows_regret")
    numbers |= {
        "budget": FAST["budget"] if fast else problems[0].budget,
        "batch": problems[0].batch,
        "parameters": sum(weight.numel() for weight in base().parameters()),
        "left_out": {
            name: why for name in names() if (why := network_left_out(name, "language")) is not None
        },
    }
    scales.draw(numbers, out, "language")
    return numbers


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    own = {key: f"{numbers[key]:g}" for key in ("budget", "batch")}
    return {**scales.words(numbers), **own, "parameters": f"{numbers['parameters']:,}"}
