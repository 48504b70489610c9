"""The advice on two data sets: their conflict, and how to train on them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd

from tradeoff import doubts, trust
from tradeoff.advice.page import page
from tradeoff.advice.picture import as_text
from tradeoff.advice.repeated import TEST_SHARE, Repeats, alike, estimate, repeat
from tradeoff.advice.sentences import NUMBERS, Choice, Level, choose, five, level, stable
from tradeoff.conflict import MAX_ROWS, shown
from tradeoff.convex.text import Candidates, Features, Width, text_problem
from tradeoff.data.files import as_preferences, as_sft
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.sample import sampled
from tradeoff.data.sources import Source
from tradeoff.display import Shown
from tradeoff.doubts import Doubt
from tradeoff.errors import InputError
from tradeoff.progress import tqdm
from tradeoff.settings import Positive, Seed, Within, checked

ROWS = 1_000
"""Default number of rows of each set that one repeat draws."""
FEWEST = 4
"""Rows of a set from which a split can be held out twice: to measure, and to choose the radius."""
FEW = 10
"""Held-out rows of a repeat below which there is a caution."""
PARTS = 5
"""Steps of one repeat on the progress bar: radius, rows, three anchors."""


@dataclass(frozen=True, repr=False)
class Advice(Shown):
    """Advice on two data sets: how much they conflict, and how to train on them.

    Attributes
    ----------
    sentences
        The advice in five sentences.
    choice, level
        The schedule and weight, and the place of the conflict between the anchors.
    command
        The command that trains a model in this way.
    cautions
        Limits of the advice for these rows, each with a count and a remedy.
    repeats
        The numbers of each repeat, and the data of a picture.
    trust
        How far the features may be trusted, in one sentence.
    """

    sentences: tuple[str, ...]
    choice: Choice
    level: Level
    command: str
    cautions: tuple[Doubt, ...]
    repeats: Repeats
    trust: str = ""

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
        """All results as a mapping for JSON."""
        place = self.level
        numbers = self.repeats.table.drop(columns="certificate")
        return {
            "sentences": self.sentences,
            "level": {"name": place.name, "stable": place.stable, "position": vars(place.position)},
            "choice": vars(self.choice),
            "command": self.command,
            "trust": self.trust,
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

    def page(self, title: str = "Advice", remarks: Sequence[str] = ()) -> str:
        """One self-contained HTML page; `remarks` on the rows follow the cautions."""
        tables = {"Numbers": self.table(), "Repeats": self.repeats.table.map(_two)}
        cautions = [self.trust, *map(str, self.cautions), *remarks]
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
    flags: Sequence[str] = (),
    repeats: Annotated[int, Within(2, 1000)] = 5,
    rows: Annotated[int, Within(4, 10**6)] = ROWS,
    beta: Positive = 1.0,
    candidates: Candidates = 8,
    n_features: Width = 2**13,
    features: Features | None = None,
    seed: Seed = 0,
    progress: bool = False,
) -> Advice:
    """Measure two data sets and their anchors several times, and give advice.

    Each repeat draws rows and candidates, holds out a quarter of the prompts, and chooses the
    radius of the parameters on the other rows. Reported numbers are of held-out rows.

    Parameters
    ----------
    sft, preference
        Rows of the two objectives, or sources for `tradeoff.read_sft` and
        `tradeoff.read_preferences`.
    names, model, flags
        Names of the files and of the model, and how the rows are read, such as ``("--columns",
        "completion=answer")``, for the command.
    repeats
        Number of repeats.
    rows
        Largest number of rows of each set that one repeat draws. If there are more rows,
        `Advice.cautions` gives both numbers.
    beta, candidates, n_features, features
        See `tradeoff.convex.text.text_problem`.
    seed
        Seed of every draw; the same seed gives the same advice.
    progress
        Show a progress bar.

    Raises
    ------
    InputError
        If rows cannot be read or held out.
    """
    known = _read(sft, preference, seed)
    _check_enough(*known)
    shape: dict[str, Any] = {"beta": beta, "candidates": candidates, "n_features": n_features}
    shape["features"] = features
    with tqdm(total=PARTS * repeats, desc="repeats", disable=not progress, leave=False) as bar:
        draws: dict[str, Any] = {"repeats": repeats, "rows": rows, "seed": seed, **shape}
        try:
            found = repeat(known[0], known[1], tick=lambda: bar.update(), **draws)
        except InputError as error:
            raise (_of_split(error, known[0]) if error.field == "sft_rows" else error) from error
    cautions = _cautions((sft, preference), known, rows, seed, shape)
    choice = choose(found.table)
    kind = trust.kind_of(features)
    sentences = five(found.table, len(cautions), trust.name(kind))
    command = _command(names, model, flags, choice)
    trusted = trust.sentence(kind)
    return Advice(sentences, choice, level(found.table), command, cautions, found, trusted)


def _read(sft: Any, preference: Any, seed: int) -> tuple[Any, Any]:
    draw: dict[str, Any] = {"sample": MAX_ROWS, "seed": seed}
    return as_sft(sft, **draw), as_preferences(preference, **draw)


def _check_enough(sft: Sequence[SftRow], preference: Sequence[PreferenceRow]) -> None:
    """Raise an `InputError` if no split of a set can be measured."""
    for field, name, rows in zip(
        ("sft", "preference"), doubts.NAMES, (sft, preference), strict=True
    ):
        file = getattr(rows, "source", None)
        if len(rows) < FEWEST:
            raise InputError(
                f"{len(rows)} {name} {'row is' if len(rows) == 1 else 'rows are'} too few to "
                "measure on some and train on the others",
                file=file,
                field=None if file else field,
                remedy=f"Give at least {FEWEST}; intervals are narrow from some hundred on.",
            )
    if alike(sft):
        file = getattr(sft, "source", None)
        raise InputError(
            f"all {len(sft):,} completions are the same, so there is nothing to choose among",
            file=file,
            field=None if file else "sft",
            value=sft[0].completion,
            remedy="Give rows with different completions.",
        )


def _of_split(error: InputError, sft: Sequence[SftRow]) -> InputError:
    """The error for a split in which the demonstrations that are left are too few or too alike."""
    return InputError(
        f"with some of {len(sft):,} SFT rows held out, {error.problem}",
        file=getattr(sft, "source", None),
        remedy="Give more rows with different completions.",
    )


def _cautions(
    given: tuple[Any, Any], known: tuple[Any, Any], rows: int, seed: int, shape: dict[str, Any]
) -> tuple[Doubt, ...]:
    """Cautions: faults of the rows, and the number of rows that a repeat draws."""
    found: list[Doubt] = []
    used = [sampled(some, rows, seed) for some in known]
    for name, some, every, source in zip(doubts.NAMES, used, known, given, strict=True):
        left = getattr(every, "left", getattr(source, "left", 0))
        for doubt in doubts.of_sample(name, len(some), len(every) + left):
            found.append(_per_repeat(name, doubt))
        held = max(1, round(TEST_SHARE * len(some)))
        if held < FEW:
            measured = f"each repeat measures on about {held} of {len(some)} {name} rows"
            remedy = "Give more rows: so few do not show how others would differ."
            found.append(Doubt("few_rows", held, len(some), measured, remedy))
    found += doubts.of_rows(*used)
    problem = text_problem(*used, radius=1.0, seed=seed, **shape)
    found += doubts.of_pairs(problem, shown(shape["features"]))
    return tuple(found)


def _per_repeat(name: str, doubt: Doubt) -> Doubt:
    used, seen = doubt.of - doubt.count, doubt.of
    problem = f"each repeat draws {used:,} of {seen:,} {name} rows"
    remedy = f"--rows {min(seen, 10**6)} takes more, with as much more time."
    return Doubt(doubt.kind, doubt.count, seen, problem, remedy)


def _command(names: tuple[str, str], model: str, flags: Sequence[str], choice: Choice) -> str:
    words = ["tradeoff", "train", "--model", model, "--sft", names[0], "--preference", names[1]]
    words += [*flags, "--schedule", choice.schedule, "--lam", f"{choice.lam:.2g}"]
    words += ["--out", "runs/advised"]
    return shlex.join(words)


def _two(value: float) -> str:
    """Round to two significant digits."""
    return "" if value != value else f"{value:.2g}"
