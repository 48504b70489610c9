"""Tables and answers about all scales: who leads on each, and whether ranks transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.arena import transfer
from analysis.arena.stored import array, means, of_slot, wins
from analysis.arena.transfer import BOARDS, TITLES
from tradeoff.arena.board import THIRD
from tradeoff.arena.ranks import kendall
from tradeoff.display import cell

Results = Mapping[str, Any]
SCALES = {
    "board": "convex",
    "text": "real text",
    "policies": "small networks",
    "language": "language model",
}
"""Scales by the figure that stores their board."""
MEAN = "mean of all"
"""What stands for a problem in rows of means over the problems of a scale."""
LEADERS = 5
KNOWN = ("mix", "sft-dpo", "alright", "maxright")
"""Methods of the paper, whose scores are shown on every scale."""
KINDS = {"gradient": "gradient rules", "preference": "preference losses", "merge": "merges"}


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """Sizes of the boards, ranks of each method on every scale, and agreement of scales."""
    found = {name: results[name] for name in BOARDS if name in results}
    if len(found) < 2:
        return {}
    made = {"scales": sizes(found), "places": places(found), "third": third(found)}
    return made | ({"transfer": agreements(results["transfer"])} if "transfer" in results else {})


def sizes(found: Results) -> pd.DataFrame:
    """What ran on each scale."""
    return pd.DataFrame(
        [
            {
                "scale": SCALES[name],
                "methods": str(len(numbers["methods"])),
                "problems": ", ".join(numbers["problems"]),
                "λ": ", ".join(f"{lam:g}" for lam in numbers["lams"]),
                "replicas": str(numbers["replicas"]),
                "runs that score": f"{numbers['runs']:,}",
                "cells with a step at an edge": f"{sum(numbers['at_edge'])} of {_cells(numbers)}",
            }
            for name, numbers in found.items()
        ]
    )


def places(found: Results) -> pd.DataFrame:
    """Rank of each method by its mean regret on each scale, in the order of the law's ranks."""
    regrets = transfer.regrets(found)
    ranks = pd.DataFrame({scale: table.mean(axis=1).rank() for scale, table in regrets.items()})
    about = {name: slot for each in found.values() for name, slot in _slots(each)}
    order = [str(name) for name in ranks.sort_values(list(regrets)[1:]).index]
    rows = [
        {"method": name, "fills": about[name]}
        | {TITLES[scale]: _rank(float(ranks[scale][name])) for scale in regrets}
        for name in order
    ]
    return pd.DataFrame(rows)


def third(found: Results) -> pd.DataFrame:
    """Third measures on every scale that has them, of well-known methods and against the regret."""
    rows = []
    for name, numbers in found.items():
        regret = means(numbers, "regret").mean(axis=1)
        for score in (each for each in THIRD if each in numbers["means"]):
            values = means(numbers, score).mean(axis=1)
            known = {method: cell(float(values[method])) for method in KNOWN}
            tau = kendall(regret, values)
            rows.append(
                {"scale": SCALES[name], "measure": score.replace("_", " "), **known}
                | {"median": cell(float(values.median())), "tau with regret": f"{tau:.2f}"}
            )
    return pd.DataFrame(rows)


def agreements(numbers: Mapping[str, Any]) -> pd.DataFrame:
    """Kendall's tau of each two scales."""
    kinds = (numbers[key] for key in ("between", "everywhere", "without_preference"))
    return pd.DataFrame(
        [
            {
                "scales": f"{TITLES[each['first']]} – {TITLES[each['second']]}",
                "tau": f"{each['tau']:.2f}",
                "interval": f"{each['low']:.2f} to {each['high']:.2f}",
                "methods": str(each["n"]),
                f"tau of the {common['n']} methods on all scales": _tau(common),
                "tau without preference losses": _tau(other),
            }
            for each, common, other in zip(*kinds, strict=True)
        ]
    )


def answers(results: Results) -> dict[str, Any]:
    """What the sentences on scales show; empty before their first run."""
    found = {name: results[name] for name in BOARDS if name in results}
    if len(found) < 2 or "transfer" not in results:
        return {}
    pairs = {(each["first"], each["second"]): each for each in results["transfer"]["between"]}
    everywhere = results["transfer"]["everywhere"]
    return {
        "everywhere": [
            {**each, "titles": [TITLES[each["first"]], TITLES[each["second"]]]}
            for each in everywhere
            if each["first"] == "law"
        ],
        "pairs": [
            {**each, "titles": [TITLES[each["first"]], TITLES[each["second"]]]}
            for key, each in pairs.items()
            if "law" in key or key == ("rows", "text")
        ],
        "within": {TITLES[s]: tau for s, tau in results["transfer"]["within"].items()},
        "boards": [of_board(SCALES[name], each) for name, each in found.items() if name != "board"],
    }


def of_board(scale: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Leaders of a board, and how kinds of methods compare with Mix on it."""
    regret = means(numbers, "regret").mean(axis=1).sort_values(kind="stable")
    counts = wins(numbers, "mix")
    half = len(numbers["problems"]) / 2
    kinds = {}
    for slot, title in KINDS.items():
        if not (names := of_slot(numbers, slot)):
            continue
        kinds[title] = {
            "methods": len(names),
            "wins": int((counts.loc[names, "better"] > half).sum()),
            "best": str(regret.loc[names].idxmin()),
            "less_mix": float(regret.loc[names].min() - regret["mix"]),
        }
    return {
        "scale": scale,
        "first": [{"name": str(n), "regret": float(v)} for n, v in regret.head(LEADERS).items()],
        "known": {name: float(regret[name]) for name in KNOWN},
        "kinds": kinds,
        "problems": len(numbers["problems"]),
    }


def rows(results: Results) -> list[dict[str, Any]]:
    """Rows of the page's table of all scales: what each was made for, and its cells.

    Each method has a row for every problem of a scale, and one for their mean.
    """
    found = ((SCALES[name], results[name]) for name in BOARDS if name in results)
    return [row for scale, numbers in found for row in _of_scale(scale, numbers)]


def _of_scale(scale: str, numbers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    regret, gap = (means(numbers, score) for score in ("regret", "front_gap"))
    half = pd.DataFrame(array(numbers["half_width"]), index=regret.index, columns=regret.columns)
    slots = dict(_slots(numbers))
    labels = dict(zip(numbers["methods"], numbers["labels"], strict=True))
    for problem in (MEAN, *numbers["problems"]):
        own = regret.mean(axis=1) if problem == MEAN else regret[problem]
        behind = gap.mean(axis=1) if problem == MEAN else gap[problem]
        rank = own.rank()
        for name in own.sort_values(kind="stable").index:
            spread = "" if problem == MEAN else f" ± {cell(float(half.loc[name, problem]))}"
            yield {
                "made": {"scale": scale, "problem": problem, "kind": slots[name]},
                "shown": problem == MEAN,
                "cells": [
                    labels[name], name, slots[name], scale, problem, _rank(rank[name]),
                    f"{cell(float(own[name]))}{spread}", cell(float(behind[name])),
                ],
            }  # fmt: skip


def _tau(found: Mapping[str, Any]) -> str:
    return f"{found['tau']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _slots(numbers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return zip(numbers["methods"], numbers["slots"], strict=True)


def _rank(value: float) -> str:
    return "" if pd.isna(value) else f"{value:g}"


def _cells(numbers: Mapping[str, Any]) -> int:
    return len(numbers["methods"]) * len(numbers["problems"]) * len(numbers["lams"])
