"""What the board answers, as numbers for the templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.arena.stored import differences, means, of_slot, wins
from tradeoff.arena import ranks
from tradeoff.arena.instances import problem_of

BASELINES = ("alright", "maxright", "mix", "sft-dpo")
SLOTS = ("gradient", "preference", "sft", "merge", "after", "anchor", "parameters", "data")


def answers(results: Mapping[str, Any]) -> dict[str, Any]:
    """Counts and names that the sentences of the dossier show; empty before the first run."""
    if "board" not in results:
        return {}
    numbers = results["board"]
    return {
        "first": leaders(numbers),
        "beat": {name: beaten(numbers, name) for name in BASELINES},
        "control": control(numbers),
        "slots": {slot: of_kind(numbers, slot) for slot in SLOTS if of_slot(numbers, slot)},
    }


def leaders(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The five methods of least mean rank."""
    table = ranks.rank_table(means(numbers, "regret")).sort_values("rank", kind="stable").head(5)
    return [
        {"name": str(name), **{str(k): v for k, v in row.items()}} for name, row in table.iterrows()
    ]


def beaten(numbers: Mapping[str, Any], baseline: str) -> dict[str, Any]:
    """Who is significantly better than a baseline on more than half of the problems."""
    half = len(numbers["problems"]) / 2
    tests = differences(numbers, baseline)
    counts = ranks.wins(tests, numbers["level"])
    ahead = counts[counts["better"] > half].sort_values("better", ascending=False, kind="stable")
    gains = tests.groupby("name")["difference"].mean()
    return {
        "number": len(ahead),
        "best": [
            {"name": name, "better": int(row["better"]), "by": -float(gains[str(name)])}
            for name, row in ahead.head(6).iterrows()
        ],
        "sometimes": int(((counts["better"] > 0) & (counts["better"] <= half)).sum()),
    }


def control(numbers: Mapping[str, Any]) -> dict[str, float]:
    """How far DPO's own formula at its default beta ends from Mix, which trains the problem's."""
    if "sigmoid" not in numbers["methods"]:
        return {}
    found = {score: means(numbers, score).mean(axis=1) for score in ("regret", "front_gap")}
    apart = {score: float(mean["sigmoid"] - mean["mix"]) for score, mean in found.items()}
    return {"beta": problem_of(numbers["problems"][0]).beta, **apart}


def of_kind(numbers: Mapping[str, Any], slot: str) -> dict[str, Any]:
    """How the methods of one slot compare with Mix: in regret, and in distance to the front."""
    names, found = of_slot(numbers, slot), {}
    for score in ("regret", "front_gap"):
        counts = wins(numbers, "mix", score).loc[names]
        gap = means(numbers, score).mean(axis=1)
        best = str(gap.loc[names].idxmin())
        found[score] = {
            "best": best,
            "less_mix": float(gap[best] - gap["mix"]),
            "most_wins": int(counts["better"].max()),
            "winner": str(counts["better"].idxmax()),
            "ahead": int((counts["better"] > counts["worse"]).sum()),
            "behind": int((counts["worse"] > counts["better"]).sum()),
        }
    return {"methods": len(names), **found}
