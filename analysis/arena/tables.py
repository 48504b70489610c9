"""Tables of the arena's dossier; each cell is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.arena.stored import array, differences, means, wins
from tradeoff.arena import ranks
from tradeoff.display import cell

AGAINST = ("mix", "alright", "maxright")


def all_tables(results: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The board, what beats the methods of the paper, and what has no place on the board."""
    if "board" not in results:
        return {}
    numbers = results["board"]
    return {
        "board": board(numbers),
        "winners": winners(numbers),
        "absent": pd.DataFrame(
            {"name": list(numbers["left_out"]), "reason": list(numbers["left_out"].values())}
        ),
    }


def board(numbers: Mapping[str, Any]) -> pd.DataFrame:
    """One row a method, the best first."""
    places = ranks.rank_table(means(numbers, "regret"))
    scores = ("regret", "front_gap", "coverage", "law_regret", "kl", "flips", "calibration")
    kept = {score: means(numbers, score).mean(axis=1) for score in scores}
    counts = {name: wins(numbers, name).apply(_both, axis=1) for name in AGAINST}
    # Of the mean over these problems, each with draws of its own.
    spread = np.linalg.norm(array(numbers["half_width"]), axis=1) / len(numbers["problems"])
    rows = []
    about = dict(zip(numbers["methods"], range(len(numbers["methods"])), strict=True))
    for name, place in places.sort_values("rank", kind="stable").iterrows():
        at = about[str(name)]
        rows.append(
            {
                "method": numbers["labels"][at],
                "name": str(name),
                "fills": numbers["slots"][at],
                "rank": f"{place['rank']:.1f}",
                "interval": f"{place['rank_low']:.1f} to {place['rank_high']:.1f}",
                "regret": f"{cell(float(kept['regret'][str(name)]))} ± {cell(float(spread[at]))}",
                **{s.replace("_", " "): cell(float(kept[s][str(name)])) for s in scores[1:]},
                **{f"better/worse than {k}": t[str(name)] for k, t in counts.items()},
                "gradients an update": cell(numbers["gradients_per_update"][at]),
                "at edge": str(numbers["at_edge"][at]),
            }
        )
    return pd.DataFrame(rows)


def winners(numbers: Mapping[str, Any]) -> pd.DataFrame:
    """Methods that beat ALRIGHT or MAXRIGHT on more problems than they lose to it."""
    rows = []
    for baseline in ("alright", "maxright"):
        tests = differences(numbers, baseline)
        counts = ranks.wins(tests, numbers["level"])
        clear = tests[(tests["p"] <= numbers["level"]) & (tests["difference"] < 0)]
        by = clear.groupby("name")["difference"]
        ahead = counts[counts["better"] > counts["worse"]].sort_values("better", ascending=False)
        for name, count in ahead.iterrows():
            where = clear.loc[clear["name"] == name, "problem"]
            rows.append(
                {
                    "method": str(name),
                    "beats": baseline,
                    "better/worse": _both(count),
                    "by": cell(-float(by.mean()[name])),
                    "where": ", ".join(where),
                }
            )
    return pd.DataFrame(rows)


def _both(counts: pd.Series) -> str:
    return f"{counts['better']}/{counts['worse']}"
