"""Tables of the arena's dossier; each cell is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.arena.boards.matched import SCORES, interval_of
from analysis.arena.boards.scenarios import skill
from analysis.arena.stored import array, differences, means, wins
from tradeoff.arena import ranks
from tradeoff.display import cell
from tradeoff.scores import interval

AGAINST = ("mix", "alright", "maxright")
SKILLS = {"skills": "scenarios", "skills_networks": "scenarios_networks"}
"""Tables of skills by name, and the figures that store them."""


def all_tables(results: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The board, what beats the methods of the paper, and what has no place on the board."""
    if "board" not in results:
        return {}
    numbers = results["board"]
    return {
        "board": board(numbers),
        "winners": winners(numbers),
        **({"losses": losses(results["matched"], numbers)} if "matched" in results else {}),
        **{table: skills(results[name]) for table, name in SKILLS.items() if name in results},
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
    # Of the mean over these problems. They share draws, so that their errors may add up.
    spread = array(numbers["half_width"]).mean(axis=1)
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


def losses(matched: Mapping[str, Any], numbers: Mapping[str, Any]) -> pd.DataFrame:
    """Losses of pairs with their own settings, with the problem's beta, and at equal pull."""
    boards = {"own": numbers, "β": matched["beta"], "β, pull": matched["weight"]}
    about: Mapping[str, Any] = matched["losses"]
    apart = {
        (terms, score): interval_of(found, score)
        for terms, found in boards.items()
        for score in SCORES
    }
    order = apart["β, pull", "front_gap"]["mean"].drop("mix").sort_values(kind="stable").index
    rows = []
    for name in map(str, order):
        row = {"loss": about[name]["label"], "name": name, "takes": _taken(about[name])}
        row["weight for 1/2"] = cell(about[name]["weight"])
        for (terms, score), found in apart.items():
            title = score.replace("_", " ")
            row[f"{title}: {terms}"] = f"{_signed(found['mean'][name])}"
            if terms == "β, pull":
                row[f"{title}: {terms}"] += f" ± {cell(float(found['half'][name]))}"
                row[f"{title}: better/worse"] = _both(
                    pd.Series(wins(boards[terms], "mix", score).loc[name])
                )
        rows.append(row)
    return pd.DataFrame(rows)


def _taken(about: Mapping[str, Any]) -> str:
    """What of a loss follows the problem's beta."""
    (name,) = about["has_beta"][:1] or ("",)
    return {"beta": "β", "tau": "τ = 1/β", "temperature": "temperature β"}.get(name, "nothing")


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{cell(float(value))}"


def skills(numbers: Mapping[str, Any]) -> pd.DataFrame:
    """What is left of each skill, by method; means over instances with their 95 % intervals."""
    rows = []
    for kind, found in numbers["skills"].items():
        for name in found:
            before, after = skill(numbers, kind, name)
            spread = interval(after.to_numpy(), axis=1)
            ends = zip(after.index, spread.mean, spread.high - spread.mean, strict=True)
            row = {"scenario": kind, "skill": name, "before": f"{before.mean():.2f}"}
            rows.append(row | {str(n): f"{mean:.2f} ± {half:.2f}" for n, mean, half in ends})
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
