"""Two data sets in, one answer out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd

from tradeoff import doubts
from tradeoff.advice.page import page
from tradeoff.advice.picture import as_text
from tradeoff.advice.repeated import Repeats, estimate, repeat
from tradeoff.advice.sentences import NUMBERS, Choice, Level, choose, five, level, stable
from tradeoff.conflict import MAX_ROWS
from tradeoff.convex.text import Candidates, Width, text_problem
from tradeoff.data.files import as_preferences, as_sft
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.sample import sampled
from tradeoff.data.sources import Source
from tradeoff.display import Shown
from tradeoff.doubts import Doubt
from tradeoff.progress import tqdm
from tradeoff.settings import Positive, Seed, Within, checked

ROWS = 1_000
"""Rows of each set that one repeat draws, unless asked otherwise."""
PARTS = 5
"""Parts of one repeat that move the progress bar: radius, rows, three anchors."""


@dataclass(frozen=True, repr=False)
class Advice(Shown):
    """The answer to: how much do two data sets conflict, and how are they trained on?

    Attributes
    ----------
    sentences
        The answer in five sentences.
    choice, level
        The schedule and weight, and the place of the conflict between its anchors.
    command
        What trains a model so.
    cautions
        What cannot be seen in the rows, each with a count and a remedy.
    repeats
        The numbers of each repeat, and what a picture shows.
    """

    sentences: tuple[str, ...]
    choice: Choice
    level: Level
    command: str
    cautions: tuple[Doubt, ...]
    repeats: Repeats

    def table(self) -> pd.DataFrame:
        """Every number: mean, 95 % interval, and whether it is stable (data)."""
        numbers = self.repeats.table.drop(columns="certificate")
        found = {name: estimate(numbers[name]) for name in numbers}
        judged = stable(self.repeats.table)
        rows = {
            name: {
                "mean": _two(e.mean),
                "low": _two(e.low),
                "high": _two(e.high),
                "stable (data)": ("yes" if judged[name] else "no") if name in NUMBERS else "",
            }
            for name, e in found.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("number")

    @property
    def certified(self) -> float:
        """Certified (solver): the largest error of any optimum, in nats."""
        return float(self.repeats.table.certificate.max())

    def record(self) -> dict[str, Any]:
        """Everything, for machines."""
        place = self.level
        numbers = self.repeats.table.drop(columns="certificate")
        return {
            "sentences": self.sentences,
            "level": {"name": place.name, "stable": place.stable, "position": vars(place.position)},
            "choice": vars(self.choice),
            "command": self.command,
            "cautions": [doubt.record() for doubt in self.cautions],
            "certified_solver_error": self.certified,
            "stable_data": stable(self.repeats.table),
            "numbers": {name: vars(estimate(numbers[name])) for name in numbers},
            "repeats": self.repeats.table.to_dict("records"),
            "picture": {name: losses.tolist() for name, losses in self.repeats.picture.items()},
        }

    def text(self, width: int = 80) -> str:
        """The loss space in characters, see `tradeoff.advice.picture.as_text`."""
        return as_text(self.repeats.picture, width)

    def page(self, title: str = "Advice") -> str:
        """One self-contained HTML page."""
        tables = {"Numbers": self.table(), "Repeats": self.repeats.table.map(_two)}
        cautions = [str(doubt) for doubt in self.cautions]
        return page(title, self.sentences, self.command, cautions, self.repeats.picture, tables)

    def __repr__(self) -> str:
        sure = "stable" if self.level.stable else "not stable"
        return f"Advice(conflict {self.level.name} ({sure}), {self.choice.schedule})"


@checked
def advise(
    sft: Sequence[SftRow] | Source,
    preference: Sequence[PreferenceRow] | Source,
    *,
    names: tuple[str, str] = ("SFT.jsonl", "PREFERENCE.jsonl"),
    model: str = "tiny",
    repeats: Annotated[int, Within(2, 1000)] = 5,
    rows: Annotated[int, Within(4, 10**6)] = ROWS,
    beta: Positive = 1.0,
    candidates: Candidates = 8,
    n_features: Width = 2**13,
    seed: Seed = 0,
    progress: bool = False,
) -> Advice:
    """Measure two data sets several times, beside anchors, and say what to do.

    Each repeat draws rows and candidates, holds a quarter of the prompts out, and chooses the
    radius of the parameters within the other rows. Reported numbers are of held-out rows.

    Parameters
    ----------
    sft, preference
        Rows of the two objectives, or what `tradeoff.read_sft` and `tradeoff.read_preferences`
        read them from.
    names, model
        Of the files and the model, for the command.
    repeats
        How often everything is measured.
    rows
        Rows of each set that one repeat draws where there are more. `Advice.cautions` says how
        many of how many.
    beta, candidates, n_features
        See `tradeoff.convex.text.text_problem`.
    seed
        Of every draw: the same seed gives the same advice.
    progress
        Show a progress bar.

    Raises
    ------
    InputError
        For rows that cannot be read or held out.
    """
    known = _read(sft, preference, seed)
    shape: dict[str, Any] = {"beta": beta, "candidates": candidates, "n_features": n_features}
    with tqdm(total=PARTS * repeats, desc="repeats", disable=not progress, leave=False) as bar:
        found = repeat(
            *known, repeats=repeats, rows=rows, seed=seed, tick=lambda: bar.update(), **shape
        )
    cautions = _cautions((sft, preference), known, rows, seed, shape)
    choice = choose(found.table)
    sentences = five(found.table, len(cautions))
    command = _command(names, model, choice)
    return Advice(sentences, choice, level(found.table), command, cautions, found)


def _read(sft: Any, preference: Any, seed: int) -> tuple[Any, Any]:
    draw: dict[str, Any] = {"sample": MAX_ROWS, "seed": seed}
    return as_sft(sft, **draw), as_preferences(preference, **draw)


def _cautions(
    given: tuple[Any, Any], known: tuple[Any, Any], rows: int, seed: int, shape: dict[str, Any]
) -> tuple[Doubt, ...]:
    """What the rows lack, and how many of them a repeat draws."""
    found: list[Doubt] = []
    used = [sampled(some, rows, seed) for some in known]
    for name, some, every, source in zip(doubts.NAMES, used, known, given, strict=True):
        left = getattr(every, "left", getattr(source, "left", 0))
        for doubt in doubts.of_sample(name, len(some), len(every) + left):
            found.append(_per_repeat(name, doubt))
    found += doubts.of_rows(*used)
    found += doubts.of_pairs(text_problem(*used, radius=1.0, seed=seed, **shape))
    return tuple(found)


def _per_repeat(name: str, doubt: Doubt) -> Doubt:
    used, seen = doubt.of - doubt.count, doubt.of
    problem = f"each repeat draws {used:,} of {seen:,} {name} rows"
    remedy = f"--rows {min(seen, 10**6)} takes more, with as much more time."
    return Doubt(doubt.kind, doubt.count, seen, problem, remedy)


def _command(names: tuple[str, str], model: str, choice: Choice) -> str:
    words = ["tradeoff", "train", "--model", model, "--sft", names[0], "--preference", names[1]]
    words += ["--schedule", choice.schedule, "--lam", f"{choice.lam:.2g}", "--out", "runs/advised"]
    return shlex.join(words)


def _two(value: float) -> str:
    """Two significant digits."""
    return "" if value != value else f"{value:.2g}"
