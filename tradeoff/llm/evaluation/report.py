"""The report of an evaluation: results and cost of each part."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tradeoff.display import Shown
from tradeoff.errors import InputError
from tradeoff.llm.evaluation import score
from tradeoff.llm.evaluation.score import Score
from tradeoff.records import load_json, replacing, write_json


@dataclass(frozen=True)
class Section:
    """One kind of evaluation.

    Attributes
    ----------
    name
        What was evaluated.
    scores
        The results.
    notes
        Counts of dropped rows and shortened prompts.
    seconds, peak_memory_bytes
        Time and memory; without CUDA the memory is the peak of the process so far.
    dropped
        Errors of the rows that could not be read.
    remarks
        Disagreements of training sequences and generation prompts, see `tradeoff.llm.agreement`.
    lines
        Every prompt with its generated response.
    """

    name: str
    scores: tuple[Score, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    dropped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    lines: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """All parts of the evaluation of one model.

    Attributes
    ----------
    model, reference
        The evaluated model, and the reference, if any.
    parts
        The parts, in the order in which they ran.
    settings
        What decides the scores beside model and rows: losses, lengths, precision, how questions are
        put and responses drawn.
    """

    model: str
    reference: str | None
    parts: tuple[Section, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One row for each score: part, name, group, value, low, high, n."""
        tables = [score.table(part.scores) for part in self.parts]
        for part, found in zip(self.parts, tables, strict=True):
            found.insert(0, "part", part.name)
        return pd.concat(tables, ignore_index=True)

    def costs(self) -> pd.DataFrame:
        """One row for each part: seconds and peak memory in GiB."""
        rows = [(p.name, p.seconds, p.peak_memory_bytes / 2**30) for p in self.parts]
        return pd.DataFrame(rows, columns=["part", "seconds", "peak_gib"])

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as a mapping for JSON, without texts."""
        return {
            "model": self.model,
            "reference": self.reference,
            "settings": dict(self.settings),
            "parts": [
                {
                    "name": part.name,
                    "scores": [vars(found) for found in part.scores],
                    "notes": dict(part.notes),
                    "dropped": list(part.dropped),
                    "remarks": list(part.remarks),
                    "seconds": part.seconds,
                    "peak_memory_bytes": part.peak_memory_bytes,
                }
                for part in self.parts
            ],
        }

    def files(self, folder: Path) -> list[Path]:
        """Files of `write`: ``evaluation.json``, and a JSONL file of each part with texts."""
        texts = [folder / f"{part.name}.jsonl" for part in self.parts if part.lines]
        return [folder / "evaluation.json", *texts]

    @staticmethod
    def check_folder(folder: Path, model: str, parts: Collection[str]) -> None:
        """Refuse a folder whose evaluation `write` would lose.

        Raises
        ------
        InputError
            If the folder has the evaluation of another model, or of other parts than `parts`.
        """
        file = folder / "evaluation.json"
        if not file.is_file():
            return
        remedy = "Give another folder, or remove this file."
        stored = load_json(file, remedy=remedy)
        others = [part["name"] for part in stored["parts"] if part["name"] not in parts]
        if stored["model"] != model:
            problem = "the evaluation of another model is there"
            raise InputError(problem, file=file, value=stored["model"], remedy=remedy)
        if others:
            problem = "the evaluation that is there has other parts, which would be lost"
            raise InputError(problem, file=file, value=others, remedy=remedy)

    def write(self, folder: Path) -> list[Path]:
        """Write `files`; each appears only when it is complete."""
        written, *texts = self.files(folder)
        write_json(written, self.to_dict())
        for path, part in zip(texts, (p for p in self.parts if p.lines), strict=True):
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in part.lines)
            with replacing(path) as partial:
                partial.write_text("".join(lines), encoding="utf-8")
        return [written, *texts]

    def __repr__(self) -> str:
        return f"<evaluation of {self.model}: {', '.join(part.name for part in self.parts)}>"


def terminal_table(evaluation: Evaluation, groups: bool) -> pd.DataFrame:
    """Scores with their intervals as text, narrow enough for a terminal."""
    found = evaluation.table()
    tasks = found["part"] == "harness"
    if not groups:
        found = found[(found["group"] == "all") | tasks]
    ends = zip(found["low"], found["high"], strict=True)
    return pd.DataFrame(
        {
            "part": found["part"],
            "score": found["name"],
            **({"group": found["group"]} if groups or tasks.any() else {}),
            "value": found["value"],
            "95 % interval": ["" if np.isnan(a) else f"{a:.4g} to {b:.4g}" for a, b in ends],
            "n": found["n"],
        }
    )
