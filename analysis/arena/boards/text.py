"""Which methods come nearest to the best trade-off on real text, whose fronts are certified?

The data are in a folder beside the project, not in it. Where they are absent the figure is drawn
from the numbers of the stored run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.arena import scales
from tradeoff.arena.board import board
from tradeoff.arena.instances import instance
from tradeoff.checkout import DATA, WORK
from tradeoff.errors import InputError

CAPTION = (
    "Real prompts whose responses are hashed words, on {problems} pairs of data sets. Mean rank by "
    "regret, with 95 % t-intervals over pairs of data sets (1 is best of {methods} methods); the "
    "bar is Nemenyi's critical difference at 5 % for all pairs of methods, {difference}. "
    "Friedman's test that all methods are level: p {p}. Every run costs {budget} gradients, steps "
    "are tuned for each method, data and weight λ = {lams}; n = {replicas} replicas; what varies "
    "is the data drawn. Command: python -m analysis text --paper arena."
)
FOLDER = WORK / "arena" / "text"
SOURCES = {
    "rasbt": ("sft_rasbt", "pref_rasbt"),
    "dolly-harmless": ("sft_dolly15k", "pref_hh_harmless_base"),
}
VARIES = (
    "rasbt instructions, polite over rude answers",
    "Dolly instructions, harmless answers of HH",
)
FULL: dict[str, Any] = {"budget": 500.0, "replicas": 20, "lams": (0.25, 0.5, 0.75)}
FAST: dict[str, Any] = {
    "budget": 40.0, "replicas": 2, "lams": (0.5,), "backend": "sequential", "jobs": 1,
}  # fmt: skip
FAST_METHODS = ("alright", "ipo")


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    numbers = measured(fast) if have_data() else stored()
    scales.draw(numbers, out, "text")
    return numbers


def stored() -> dict[str, Any]:
    """Numbers of the stored run, marked as stored."""
    numbers = scales.shown("text")
    if numbers is None:
        remedy = f"Put the files that shared/data/README.md names into {DATA.name}/ and run again."
        raise InputError("no real text and no stored run", field="text", remedy=remedy)
    return {**numbers, "source": "stored run"}


def measured(fast: bool) -> dict[str, Any]:
    """Numbers of a run, on the problems by their short names."""
    places = {name_of(*names): short for short, names in SOURCES.items()}
    if fast:
        found = board(FAST_METHODS, list(places)[:1], folder=FOLDER / "fast", **FAST)
    else:
        found = board(problems=list(places), folder=FOLDER / "full", progress=True, **FULL)
    numbers = scales.kept(found, VARIES[: found.regret.shape[1]], "law_regret")
    rows = [instance(str(name)).varies for name in found.regret.columns]
    return numbers | {
        "problems": [places[name] for name in numbers["problems"]],
        "rows": [each.removeprefix("your rows: ") for each in rows],
        "budget": (FAST if fast else FULL)["budget"],
    }


def have_data() -> bool:
    """Whether every file exists."""
    every = [path for names in SOURCES.values() for path in name_of(*names).split(",")]
    return all(Path(path).exists() for path in every)


def name_of(sft: str, preferences: str) -> str:
    """The problem of two data sets, with held-out rows."""
    parts = [
        DATA / f"{name}_{part}.jsonl.gz"
        for part in ("train", "test")
        for name in (sft, preferences)
    ]
    return ",".join(map(str, parts))


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    return {**scales.words(numbers), "budget": f"{numbers['budget']:g}"}
