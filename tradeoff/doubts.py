"""Limits of an analysis of two datasets, and the numbers that each of them affects.

The analysis fits a linear model to features of responses, such as hashed words. Its numbers say
little about a language model if rows have no prompts, pairs differ only in what features do not
show, or a fit is no better than chance. Each such limit is a :class:`Doubt` with a count and a
remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from tradeoff.convex.front import Front
from tradeoff.convex.log_linear import LogLinear
from tradeoff.data.overlap import repeated
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.words import is_unspaced
from tradeoff.schedules import PREFERENCE, SFT
from tradeoff.scores import wilson

NAMES = ("SFT", "preference")
SEEN = 0.01
"""Least distance between the features of two responses that counts as different; at most 3."""
NO_RANGE = 1e-3
"""Share of the training gain below which a range of the front, or a gain, counts as zero."""
MANY = 10
"""Numbers are in doubt if at least one in so many pairs is."""
_AT_ONCE = 4096
_COMPARED = ("conflict", "suggested_lam", "suggested_share")
_FORGOTTEN = ("sft_forgotten", "preference_forgotten")
_READ = "Train a model on the rows and use `tradeoff evaluate`."


@dataclass(frozen=True)
class Doubt:
    """One limit of the analysis for these data.

    Attributes
    ----------
    kind
        Identifier for programs.
    count, of
        Number of affected rows or objectives, and of all.
    problem
        Description of the limit, which includes `count`.
    remedy
        What the user can do about it.
    affects
        Numbers of the summary that are in doubt.
    """

    kind: str
    count: int
    of: int
    problem: str
    remedy: str
    affects: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}"

    def record(self) -> dict[str, Any]:
        """The attributes and the text as a dict, for programs."""
        return {**asdict(self), "text": str(self)}


def of_sample(name: str, used: int, seen: int) -> Iterator[Doubt]:
    """Rows that were left out of a set to bound memory and time."""
    if used < seen:
        yield Doubt(
            "sampled",
            seen - used,
            seen,
            f"{used:,} of {seen:,} {name} rows were drawn; the others were checked and left out",
            f"--rows {seen} (max_rows) uses all, and takes as much more memory and time.",
        )


def of_rows(sft: Sequence[SftRow], preference: Sequence[PreferenceRow]) -> Iterator[Doubt]:
    """Rows without prompts, with one prompt, without blanks between words, or stated both ways."""
    both: tuple[Sequence[Any], Sequence[Any]] = (sft, preference)
    for name, rows, number in zip(NAMES, both, _FORGOTTEN, strict=True):
        alone = sum(not as_text(row.prompt).strip() for row in rows)
        if alone:
            yield Doubt(
                "documents",
                alone,
                len(rows),
                f"{alone:,} of {len(rows):,} {name} rows are documents, without a prompt: the loss "
                "only measures how well the model tells one document from others",
                "Give rows with a prompt, or take these numbers to describe style and topic alone.",
                ("conflict", number),
            )
        first: Any = rows[0].prompt
        if len(rows) > 1 and as_text(first).strip() and all(row.prompt == first for row in rows):
            yield Doubt(
                "one_prompt",
                len(rows),
                len(rows),
                f"all {len(rows):,} {name} rows have the same prompt: features of the prompt carry "
                "no information, and held-out rows may nearly repeat training rows",
                f"Give rows of several prompts, or held-out rows (--{name.lower()}-test).",
                ("conflict", number),
            )
        unspaced = sum(is_unspaced(_whole(row)) for row in rows)
        if unspaced:
            yield Doubt(
                "no_blanks",
                unspaced,
                len(rows),
                f"{unspaced:,} of {len(rows):,} {name} rows are in a script without blanks between "
                "words: each letter counts as a word, in features and in lengths",
                "Scale cost_ratio by the lengths that your tokenizer gives.",
                ("cost_ratio", "suggested_share"),
            )
    turned, total = repeated(preference).get("contradicted_pairs", 0), len(preference)
    if turned:
        yield Doubt(
            "contradicted_pairs",
            turned,
            total,
            f"{turned:,} of {total:,} pairs are stated by other pairs the other way round",
            "Keep one of each two.",
            (*_COMPARED, "preference_forgotten") if MANY * turned >= total else (),
        )


WORDS = "words without case, word pairs, groups of three letters, length"
"""What features of hashed words show of a response."""
OTHERS = "the given features, length"
"""What other features show, unless they have an attribute ``shown``."""


def of_pairs(problem: LogLinear, shown: str = WORDS) -> Iterator[Doubt]:
    """Pairs whose two responses have nearly the same features, which show :data:`WORDS`."""
    count, total = 0, len(problem.chosen)
    for first in range(0, len(problem.chosen), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        apart = problem.rows(problem.chosen[some]) - problem.rows(problem.rejected[some])
        count += int(np.sum(apart.power(2).sum(axis=1) < SEEN**2))
    if count:
        yield Doubt(
            "invisible_pairs",
            count,
            total,
            f"{count:,} of {total:,} pairs have two responses with the same features ({shown})",
            "A preference about case, line breaks, order or tools needs a model: train one on the "
            "pairs and use `tradeoff evaluate`; or leave these pairs out.",
            (*_COMPARED, "preference_forgotten") if MANY * count >= total else (),
        )


def flat(problem: LogLinear, front: Front) -> tuple[bool, bool]:
    """For each objective, whether training hardly lowers its loss."""
    start = problem.losses(np.zeros(problem.dimension))
    gain = start - front.ideal
    return bool(gain[SFT] <= NO_RANGE * start[SFT]), bool(gain[1] <= NO_RANGE * start[1])


def without_range(problem: LogLinear, front: Front) -> tuple[bool, bool]:
    """For each objective, whether the front's range of its loss is zero within its error."""
    start = problem.losses(np.zeros(problem.dimension))
    doubt = 2 * max(front.minima[0].certificate, front.minima[-1].certificate)
    zero = front.nadir - front.ideal <= NO_RANGE * np.abs(start - front.ideal) + doubt
    return bool(zero[SFT]), bool(zero[PREFERENCE])


def of_front(problem: LogLinear, front: Front) -> Iterator[Doubt]:
    """Objectives that cannot be trained, and fronts that are a point."""
    useless, zero = flat(problem, front), without_range(problem, front)
    for name, alone in zip(NAMES, useless, strict=True):
        if alone:
            yield Doubt(
                "flat_objective",
                1,
                2,
                f"no parameters lower the {name} loss: the features do not predict these rows",
                "Numbers that compare both objectives are left empty. " + _READ,
                (*_COMPARED, *_FORGOTTEN, "gradient_cosine"),
            )
    if any(zero) and not any(useless):
        yield Doubt(
            "no_range",
            sum(zero),
            2,
            f"{sum(zero)} of 2 ranges of the front are zero within the error: one policy is best "
            "for both objectives, so there is no trade-off",
            "All weights are equally good, and none is suggested. If you expected a conflict, the "
            f"features do not show it. {_READ}",
            _COMPARED,
        )


def of_accuracy(
    accuracy: Float[np.ndarray, " 2"], rows: tuple[int, int], candidates: float
) -> Iterator[Doubt]:
    """Objectives whose own optimum is not better than chance on held-out rows.

    Parameters
    ----------
    accuracy
        Held-out share of demonstrations ranked first and of pairs ranked right, of the policy
        trained on SFT alone and of the one trained on pairs alone.
    rows
        Held-out rows of both sets.
    candidates
        Number of responses among which a demonstration is ranked.
    """
    for k, (name, chance) in enumerate(zip(NAMES, (1 / candidates, 0.5), strict=True)):
        hits = float(np.clip(accuracy[k] * rows[k], 0, rows[k]))
        found = wilson(hits, rows[k])
        low, high = float(found.low.item()), float(found.high.item())
        if low <= chance:
            yield Doubt(
                "near_chance",
                round(hits),
                rows[k],
                f"the model of the {name} rows is right on {hits:.3g} of {rows[k]:,} held-out rows "
                f"(95 % interval {low:.2f} to {high:.2f}, chance {chance:.2f}): it may not "
                "generalise at all",
                f"Give more {name} rows or more held-out ones (--{name.lower()}-test). If this "
                "does not help, the features do not show what these rows teach.",
                (*_COMPARED, *_FORGOTTEN),
            )


def _whole(row: SftRow | PreferenceRow) -> str:
    answer = row.completion if isinstance(row, SftRow) else row.chosen
    return f"{as_text(row.prompt)} {as_text(answer)}"
