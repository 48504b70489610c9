"""Rows that a command reads: both sets by the same options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

from tradeoff.data.columns import TRAINED, Set, columns_of, parsed

Objective = Literal["sft", "preference"]


@dataclass
class RowReader:
    """Reads sets of rows by the options of a command line, and remembers what it read.

    Attributes
    ----------
    columns
        Texts ``NAME=COLUMN`` of ``--columns``, which are checked at once.
    min_margin
        Smallest margin of the scores of a pair.
    options
        Further arguments of `tradeoff.read_sft` and `tradeoff.read_preferences`.
    sets
        The kinds of rows that are read, which `columns` may name.
    read
        The sets that were read from files or hubs.
    """

    columns: Sequence[str] | None
    min_margin: float | None
    options: dict[str, Any]
    sets: Sequence[Set] = TRAINED
    read: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._names = parsed(self.columns or ())

    def rows(self, source: str, objective: Objective, **options: Any) -> Any:
        """Read one set; `options` come before those of all sets.

        Raises
        ------
        InputError
            If rows cannot be used.
        """
        from tradeoff.data import files

        given = {
            **self.options,
            "columns": columns_of(self._names, objective, self.sets),
            **options,
        }
        if objective == "sft":
            found: Any = files.read_sft(source, **given)
        else:
            found = files.read_preferences(source, min_margin=self.min_margin, **given)
        self.read.append(found)
        return found

    def questions(self, source: str | PathLike[str], **options: Any) -> Any:
        """Read multiple-choice rows."""
        from tradeoff.data.choices import read_choices

        columns = columns_of(self._names, "choices", self.sets)
        return read_choices(source, columns=columns, **options)

    def held_out(self, source: str | None, objective: Objective) -> Any:
        """Read rows to test on, whose split has to be named; None if there is no source."""
        return None if source is None else self.rows(source, objective, default_split=None)

    @property
    def words(self) -> list[str]:
        """The same options as words of another command, which then reads the same rows."""
        found = [word for text in self.columns or () for word in ("--columns", text)]
        if self.min_margin is not None:
            found += ["--min-margin", f"{self.min_margin:g}"]
        return found + [
            f"--{name.replace('_', '-')}"
            for name in ("use_labels", "skip_bad")
            if self.options.get(name)
        ]

    @property
    def dropped(self) -> list[str]:
        """What was wrong with each row that was dropped."""
        return [str(error) for part in self.read for error in part.dropped]

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of the rows."""
        return [text for part in self.read for text in part.remarks()]
