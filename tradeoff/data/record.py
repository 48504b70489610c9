"""One row of a source as it was read; its columns are checked one by one."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tradeoff.data.rows import Origin
from tradeoff.errors import InputError

LONGEST = 2**24
"""Largest number of characters in a field and bytes in a line: about four million tokens."""
ALSO = {
    "prompt": (
        "question",
        "query",
        "instruction",
        "inputs",
        "input",
        "problem",
        "history",
        "context",
    ),
    "completion": ("answer", "response", "output", "targets", "target", "solution"),
    "chosen": ("response_j", "chosen_response", "accepted", "preferred", "better", "winner"),
    "rejected": ("response_k", "rejected_response", "dispreferred", "worse", "loser"),
    "messages": ("conversation", "dialogue", "dialog", "chat"),
    "system": ("system_prompt",),
    "response_a": (
        *("response_0", "response_1", "response1", "answer_0", "human_ref_A", "conversation_a"),
    ),
    "response_b": (
        *("response_2", "response_1", "response2", "answer_1", "human_ref_B", "conversation_b"),
    ),
    "winner": ("better_response_id", "preferred", "preference", "choice"),
}
"""Names that data sets give to columns of the layouts. They are proposed, and never read unasked,
as the same names hold other things elsewhere."""
_SEVERAL = ("completions", "responses", "answers", "candidates", "summaries", "generations")
"""Names of columns that hold several responses to one prompt."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Record:
    """The columns of one row as they were read, and its place in the source (from 1).

    Attributes
    ----------
    file, row
        The source, and the line or place in it.
    fields
        Columns that may be used. None and NaN, with which tables mark a missing value, count as
        absent.
    unread
        Names of further columns of a table, which were not read.
    renamed
        Names in the source of the columns that the user named.
    used
        Columns that have been looked at, so that the others can be reported as ignored.
    notes
        Changes that were made to the row, such as removing a repeated prompt.
    """

    file: str
    row: int
    fields: Mapping[str, Any] = field(repr=False)
    unread: tuple[str, ...] = field(default=(), repr=False)
    renamed: Mapping[str, str] = field(default_factory=dict, repr=False)
    used: set[str] = field(default_factory=set, repr=False, compare=False)
    notes: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    @property
    def origin(self) -> Origin:
        """The place in the source, for the row that is made of this record."""
        return Origin(self.file, self.row)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, read or not."""
        return (*map(str, self.fields), *self.unread)

    def source_name(self, name: str) -> str:
        """The name of a column in the source."""
        return self.renamed.get(name, name)

    def has(self, name: str) -> bool:
        """Whether the column is there and not null."""
        return name in self.fields and not is_absent(self.fields[name])

    def filled(self, name: str) -> bool:
        """Whether the column holds something: not null, and neither blank nor empty."""
        value = self.fields.get(name)
        blank = not value.strip() if isinstance(value, str) else value in ([], {})
        return self.has(name) and not blank

    def get(self, name: str) -> Any:
        """Get a column, or None if it is absent; it counts as used from now on."""
        self.used.add(name)
        return self.fields[name] if self.has(name) else None

    def require(self, name: str) -> Any:
        """Get a column, or raise an `InputError` if it is absent."""
        value = self.get(name)
        if value is not None:
            return value
        if name in self.fields:
            raise self.error("the field is empty", "Fill it or remove the row.", field=name)
        remedy = self.renaming([name]) or f"name the column to read: {_naming({name: 'COLUMN'})}."
        raise self.error(
            "the field is missing", f"Add it, or {remedy}", field=name, value=list(self.names)
        )

    def renaming(self, layout: Sequence[str]) -> str:
        """How to name the columns of a layout, if those that are missing have another name here."""
        found = {}
        for name in (*layout, "system"):
            other = next(self._others(name), None)
            if other is not None and not self.has(name):
                found[name] = other
            elif name in layout and not self.has(name):
                return ""
        found = found if set(found) & set(layout) else {}
        return f"name the columns to read: {_naming(found)}." if found else ""

    def _others(self, name: str) -> Iterator[str]:
        """Columns that may hold what a layout calls `name`, the most probable first."""
        known = {other.casefold(): other for other in self.names if other != name}
        for wanted in (name, *ALSO.get(name, ())):
            other = known.get(wanted.casefold())
            if other and (name != "messages" or _has_speakers(self.fields.get(other))):
                yield other

    def _instead(self, pairs: bool) -> str:
        """What to do with columns that no renaming makes a layout."""
        sought = (name for name in ("prompt", "response_a", "response_b") if not self.has(name))
        found = {name: other for name in sought if (other := next(self._others(name), None))}
        if pairs and {"response_a", "response_b"} <= found.keys():
            how = "add a column winner, a or b, that says which response is better, and name"
            return f"{how} the columns to read: {_naming(found)}."
        several = next((name for name in _SEVERAL if name in self.names), None)
        if several is not None:
            kind = "two responses, the better and another," if pairs else "one response"
            return f"make rows of {kind} from the column {several!r}."
        return ""

    def ignored(self) -> tuple[str, ...]:
        """Names of the columns that hold something but were not used."""
        own = (
            str(name)
            for name, value in self.fields.items()
            if name not in self.used and self.has(name) and value not in ("", [], {})
        )
        return (*own, *self.unread)

    def layout(
        self, layouts: Iterable[tuple[str, ...]], telling: Collection[str] | None = None
    ) -> tuple[str, ...]:
        """Find the first layout whose columns are all filled, all present, or present in part.

        In a table that joins several layouts, a row leaves the columns of the other layouts blank.
        Of a layout that is there in part, one of the columns `telling` must be there.
        """
        layouts = tuple(layouts)
        for known in (self.filled, self.has):
            for names in layouts:
                if all(known(name) for name in names):
                    return names
        renaming = next(filter(None, map(self.renaming, layouts)), "")
        how = renaming or self._instead(pairs=telling is not None)
        if not how:
            for partly in (self.has, self.fields.__contains__):
                for names in layouts:
                    if any(partly(name) for name in names if telling is None or name in telling):
                        return names
        listed = " or ".join("{" + ", ".join(names) + "}" for names in _grouped(layouts, telling))
        remedy = (
            f"Give {listed}, or {how or 'say which columns to read: columns={...}, --columns.'}"
        )
        raise self.error("no known layout has these columns", remedy, value=list(self.names))

    def string(self, name: str, value: Any, *, blank: bool = False) -> str:
        """Check a string; `blank` allows one without letters."""
        where = {"field": name, "value": value}
        if is_absent(value) or value == []:
            raise self.error("the field is empty", "Fill it or remove the row.", **where)
        if not isinstance(value, str):
            remedy = "Give a string, or a list of messages whose role and content are strings."
            raise self.error("the field is not text", remedy, **where)
        if not blank and is_blank(value):
            raise self.error("the field is blank", "Fill it or remove the row.", **where)
        if len(value) > LONGEST:
            remedy = f"Split it; at most {LONGEST:,} characters are read."
            raise self.error("the field is too long", remedy, field=name, value=value[:80])
        if not value.isascii() and _HALF_PAIR.search(value):
            remedy = "Repair the escape; a letter beyond \\uffff needs both halves."
            raise self.error("half of a surrogate pair cannot be encoded", remedy, **where)
        return value

    def as_json(self, name: str, value: Mapping[str, Any]) -> str:
        """Arguments of a chat template as JSON without nulls; ``""`` if nothing is left."""
        try:
            kept = {key: _without_nulls(item) for key, item in value.items() if item is not None}
            text = json.dumps(kept, ensure_ascii=False, allow_nan=False) if kept else ""
        except (TypeError, ValueError, RecursionError) as error:
            remedy = "Give strings, finite numbers, lists and mappings, not nested too deeply."
            problem = f"the field cannot be given to a chat template: {error}"
            raise self.error(problem, remedy, field=name) from error
        return self.string(name, text, blank=True)

    def error(self, problem: str, remedy: str, **where: Any) -> InputError:
        """Make an error at this row; `where` may give its field and value."""
        return InputError(problem, remedy=remedy, file=self.file, row=self.row, **where)


def _grouped(
    layouts: Iterable[tuple[str, ...]], telling: Collection[str] | None
) -> Iterator[tuple[str, ...]]:
    """Layouts, with those as one that have the same columns of `telling`."""
    found: dict[tuple[str, ...], list[str]] = {}
    for names in layouts:
        same = tuple(name for name in names if telling is None or name in telling)
        other = ", ".join(name for name in names if name not in same)
        found.setdefault(same, []).append(other)
    for same, others in found.items():
        named = " or ".join(filter(None, others))
        yield (named, *same) if named else same
        if named and "" in others:
            yield same


def _naming(columns: Mapping[str, str]) -> str:
    """Names of columns, as Python and the command line give them."""
    options = " ".join(f"--columns {name}={column}" for name, column in columns.items())
    return f"columns={dict(columns)!r}, {options}"


def _has_speakers(value: Any) -> bool:
    """Whether a value is a list of messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


def is_blank(text: str) -> bool:
    """Whether a text has no letter that can be seen: blanks, and marks of no width or control."""
    return all(letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf") for letter in text)


def is_absent(value: Any) -> bool:
    """Whether a table marks a missing value by this: None, or NaN, which differs from itself."""
    return value is None or (isinstance(value, float) and value != value)


def _without_nulls(value: Any) -> Any:
    """Drop the nulls with which tables fill fields that a row lacks; TRL drops them too."""
    if isinstance(value, Mapping):
        return {str(k): _without_nulls(item) for k, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value
