"""What the board answers, as numbers for the templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.arena.boards.matched import MARGIN, SCORES, TERMS, interval_of, less_mix
from analysis.arena.stored import PAPER, differences, means, of_slot, wins
from analysis.dossier import ledger
from analysis.dossier.evidence import equivalent
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
        "terms": on_terms(results),
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


def on_terms(results: Mapping[str, Any]) -> dict[str, Any]:
    """How losses of pairs compare with DPO with their own settings, and on equal terms."""
    if "matched" not in results:
        return {}
    numbers = results["matched"]
    names: list[str] = list(numbers["losses"])
    boards: dict[str, Any] = {"own": results["board"], **{terms: numbers[terms] for terms in TERMS}}
    last = {score: interval_of(numbers["weight"], score).drop("mix") for score in SCORES}
    return {
        "losses": len(names),
        "without_beta": [n for n, about in numbers["losses"].items() if not about["has_beta"]],
        "betas": sorted({problem_of(name).beta for name in numbers["weight"]["problems"]}),
        "terms": {terms: of_losses(found, names) for terms, found in boards.items()},
        "margin": MARGIN,
        "close": {score: within(numbers["weight"], score) for score in SCORES},
        "best": {
            score: {"name": best, **{key: float(found[key][best]) for key in found.columns}}
            for score, found in last.items()
            for best in [str(found["mean"].idxmin())]
        },
    }


def of_losses(numbers: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """How many losses are ahead of Mix, which trains DPO, and how far apart they are."""
    found: dict[str, Any] = {}
    for score in SCORES:
        counts = wins(numbers, "mix", score).loc[names]
        apart = means(numbers, score).mean(axis=1)
        apart = apart.loc[names] - apart["mix"]
        low, middle, high = np.quantile(apart, (0.25, 0.5, 0.75))
        found[score] = {
            "ahead": int((counts["better"] > counts["worse"]).sum()),
            "behind": int((counts["worse"] > counts["better"]).sum()),
            "median": float(middle),
            "quartiles": [float(low), float(high)],
            "most_wins": int(counts["better"].max()),
            "winner": str(counts["better"].idxmax()),
        }
    return found


def within(numbers: Mapping[str, Any], score: str) -> list[str]:
    """Losses whose mean difference to Mix is shown to be within the margin, problems as units."""
    table = less_mix(numbers, score).drop("mix")
    return [str(name) for name, row in table.iterrows() if equivalent(row, MARGIN).holds]


def of_kind(numbers: Mapping[str, Any], slot: str) -> dict[str, Any]:
    """How the methods of one slot compare with Mix: in regret, and in distance to the front."""
    names, found = of_slot(numbers, slot), {}
    for score in ("regret", "front_gap"):
        counts = wins(numbers, "mix", score).loc[names]
        apart = interval_of(numbers, score).loc[names]
        best = str(apart["mean"].idxmin())
        found[score] = {
            "best": best,
            "less_mix": float(apart["mean"][best]),
            "half": float(apart["half"][best]),
            "most_wins": int(counts["better"].max()),
            "winner": str(counts["better"].idxmax()),
            "ahead": int((counts["better"] > counts["worse"]).sum()),
            "behind": int((counts["worse"] > counts["better"]).sum()),
        }
    return {"methods": len(names), **found}


def evidence() -> dict[str, str]:
    """On how many problems each prediction holds, by its id, with the interval of their share."""
    found = {}
    for claim in ledger.claims(PAPER / ledger.LEDGER):
        known = claim.check().constants
        if "of units" in known:
            share = f"{100 * known['low']:.0f} to {100 * known['high']:.0f} %"
            found[claim.id] = f"{known['units']:.0f} of {known['of units']:.0f} ({share})"
    return found
