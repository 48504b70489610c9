"""Conversion of numbers to a level of conflict, a schedule, and five sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from tradeoff.advice.repeated import Estimate, estimate
from tradeoff.conflict import EQUAL_STAGES
from tradeoff.errors import InputError
from tradeoff.trust import NAMES as TRUSTED

LOW, HIGH = 1 / 3, 2 / 3
"""Conflict is low up to a third of the way from the anchor `same` to the anchor `reversed`, and
high from two thirds on."""
_ENDS = ("conflict_same", "conflict_reversed")
WORDS = TRUSTED["words"]
FORGETS_LITTLE = 0.1
"""Largest share of forgotten progress at which one order is enough."""
Name = Literal["low", "middle", "high", "unknown"]


@dataclass(frozen=True)
class Level:
    """Position of the conflict between the anchors.

    Attributes
    ----------
    name
        low, middle or high; unknown if the anchors cannot be distinguished.
    position
        0 at the anchor `same`, 1 at `reversed`; below 0 if the rows conflict less than pairs with
        their own chosen responses.
    stable
        Whether the whole interval has the same name.
    """

    name: Name
    position: Estimate
    stable: bool


def level(table: pd.DataFrame) -> Level:
    """Name the conflict by its position between the anchors, from the repeats' table.

    The position is divided by the mean distance of the anchors. If the interval of that distance
    includes zero, only rows that are certainly below or above both anchors have a level.
    """
    apart = estimate(table.conflict_reversed - table.conflict_same)
    if not apart.low > 0:
        nothing = float("nan")
        place = Estimate(nothing, nothing, nothing, 0)
        ends = table[[*_ENDS]]
        if estimate(table.conflict - ends.min(axis=1, skipna=False)).high <= 0:
            return Level("low", place, stable=True)
        if estimate(table.conflict - ends.max(axis=1, skipna=False)).low >= 0:
            return Level("high", place, stable=True)
        return Level("unknown", place, stable=False)
    position = estimate((table.conflict - table.conflict_same) / apart.mean)
    return Level(_name(position.mean), position, _name(position.low) == _name(position.high))


def _name(position: float) -> Name:
    return "low" if position <= LOW else "middle" if position < HIGH else "high"


@dataclass(frozen=True)
class Choice:
    """The recommended training.

    Attributes
    ----------
    schedule
        Name of the schedule for `tradeoff train`.
    lam
        Weight of the preference objective, to two digits. One order has 0.5, as its two
        stages were measured at equal length.
    rounds
        Number of alternations of two ordinary trainers that does nearly as well as training on both
        at once; ``None`` if no number did so in every repeat.
    """

    schedule: str
    lam: float
    rounds: int | None


def choose(table: pd.DataFrame) -> Choice:
    """Choose one order if it certainly forgets little, otherwise both objectives at once."""
    lam = estimate(table.lam)
    weight = 0.5 if not lam.n else float(np.clip(round(lam.mean, 2), 0.05, 0.95))
    known = table.alternations.notna().all()
    rounds = int(table.alternations.max()) if known else None
    ends = {
        name: estimate(table[f"{first}_forgotten"]).high
        for name, first in (("sft-dpo", "sft"), ("dpo-sft", "preference"))
    }
    order = min(ends, key=lambda name: np.inf if np.isnan(ends[name]) else ends[name])
    if ends[order] <= FORGETS_LITTLE:
        return Choice(order, EQUAL_STAGES, rounds)
    return Choice("alright", weight, rounds)


def five(table: pd.DataFrame, cautions: int, features: str = WORDS) -> tuple[str, ...]:
    """The advice in five sentences.

    Parameters
    ----------
    table
        The repeats' table.
    cautions
        Number of cautions.
    features
        What the measure sees of a response.

    Raises
    ------
    InputError
        If the table has no repeats.
    """
    if not len(table):
        raise InputError("there are no repeats", field="table", remedy="Ask for at least two.")
    return (_conflict(table), _forgetting(table), _schedule(table), _stability(table),
            _unknown(table, cautions, features))  # fmt: skip


def _conflict(table: pd.DataFrame) -> str:
    found, place = estimate(table.conflict), level(table)
    found = replace(found, high=min(found.high, 1.0))
    given = f"to have both, {share(found)} of what each would gain alone has to be given up"
    same, opposite = estimate(table.conflict_same), estimate(table.conflict_reversed)
    scale = (
        f"with your pairs' own chosen responses as demonstrations it is {_per_cent(same.mean)}, "
        f"with their rejected ones {_per_cent(opposite.mean)}"
    )
    if place.name == "unknown":
        return (
            f"How much the two sets conflict cannot be told from these rows: {given}, but {scale}, "
            "and these two anchors are not reliably apart."
        )
    sure = "" if place.stable else ", but another sample of rows might change the word"
    word = {"low": "low", "middle": "in the middle", "high": "high"}[place.name]
    return f"The conflict is {word}{sure}: {given}; {scale}."


def _forgetting(table: pd.DataFrame) -> str:
    sft, pairs = estimate(table.sft_forgotten), estimate(table.preference_forgotten)
    worse = max(sft.mean, pairs.mean) > 1
    remark = " (above 100 %: worse than untrained)" if worse else ""
    return (
        f"With two stages of equal length, preference training after SFT forgets "
        f"{share(sft)} of what SFT learned, and SFT after preference training forgets "
        f"{share(pairs)} of what the pairs taught{remark}."
    )


def share(found: Estimate) -> str:
    """An estimated share in per cent; above 100 if the end is worse than the start.

    It is none if its interval does not go above zero, as what follows may even help.
    """
    if not found.n:
        return "a share that is not known (nothing was learned on held-out rows)"
    if found.high <= 0:
        return "none"
    low, high = (_per_cent(v) for v in (found.low, found.high))
    interval = f"({low} to {high})" if found.n > 1 else "(no interval: known in one repeat)"
    if found.low <= 0 and found.high >= 1:
        return f"an unknown share {interval}"
    return f"{'all' if found.mean > 0.995 else _per_cent(found.mean)} {interval}"


def _per_cent(value: float) -> str:
    if np.isnan(value):
        return "unknown"
    return f"{float(f'{100 * max(value, 0.0):.2g}'):,.0f} %"


def _schedule(table: pd.DataFrame) -> str:
    choice, lam = choose(table), estimate(table.lam)
    if choice.schedule != "alright":
        first = {"sft-dpo": "SFT, then preference training,", "dpo-sft": "Pairs first, then SFT,"}
        return f"{first[choice.schedule]} is enough: that order forgets at most 10 %."
    # The weight is kept off the ends, and so may be outside of the interval of the best one.
    low, high = np.clip([min(lam.low, choice.lam), max(lam.high, choice.lam)], 0, 1).tolist()
    weight = (
        f"a weight of {choice.lam:.2g} on the preference objective"
        + (f" ({low:.2g} to {high:.2g})" if lam.n > 1 else "")
        if lam.n
        else "equal weights, as no better weight is known"
    )
    turns = (
        "; no number of alternations up to 16 matches it for certain"
        if choice.rounds is None
        else f"; two separate trainers match it with {choice.rounds} "
        f"{'alternation' if choice.rounds == 1 else 'alternations'}"
    )
    return f"Train on both sets at once (ALRIGHT) with {weight}{turns}."


NUMBERS = {
    "conflict": "conflict",
    "lam": "weight",
    "sft_forgotten": "forgetting of SFT",
    "preference_forgotten": "forgetting of preferences",
}
"""Names of the numbers in the sentences, by column."""


def stable(table: pd.DataFrame) -> dict[str, bool]:
    """Whether the interval of each number in the sentences is narrow over the repeats."""
    return {column: estimate(table[column]).stable for column in NUMBERS}


def _stability(table: pd.DataFrame) -> str:
    found = stable(table)
    good = [NUMBERS[name] for name, yes in found.items() if yes]
    bad = [NUMBERS[name] for name, yes in found.items() if not yes]
    radii = " to ".join(dict.fromkeys(f"{r:.2g}" for r in (table.radius.min(), table.radius.max())))
    how = f"over {len(table)} splits and candidate draws (radius {radii})"
    if not bad:
        return f"All these numbers are stable (data) {how}."
    kept = f"Stable (data) {how}: {', '.join(good)}. " if good else ""
    return f"{kept}Not stable{'' if good else f' {how}'}: {', '.join(bad)}."


TRIED = (
    "; in tries on other rows, such a weight served the objective that keeps less better than 0.5 "
    "did, but it is a first value to try, not an optimum"
)
"""What `python -m analysis.advised_checked` found of advised weights; a test compares it."""
NEAR_HALF = 0.1
"""Largest distance to 1/2 of a weight to which those tries say nothing."""


def teaches(table: pd.DataFrame) -> bool:
    """Whether pairs lower the held-out loss more than pairs with shuffled labels do."""
    return estimate(table.preference_gain - table.preference_gain_shuffled).low > 0


def _unknown(table: pd.DataFrame, cautions: int, features: str) -> str:
    words = "meaning, skills or your model's weights"
    unseen = words if features == WORDS else "skills, or how training changes the model"
    seen = (
        f"These rows cannot tell how your model will behave: the measure sees {features}, not "
        f"{unseen}"
    )
    weak = (
        ""
        if teaches(table)
        else "; nor whether the pairs teach anything, as shuffled labels do as well"
    )
    choice = choose(table)
    told = choice.schedule == "alright" and abs(choice.lam - 0.5) > NEAR_HALF
    tried = TRIED if told and not weak else ""
    more = f"; read the {cautions} cautions below" if cautions > 1 else ""
    more = "; read the caution below" if cautions == 1 else more
    return f"{seen}{weak}{tried}{more}."
