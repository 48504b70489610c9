"""Tokenisation of rows with a Hugging Face tokenizer; ids and masks are those of TRL 1.16.

Plain text ends with the end token; a conversation ends as its chat template writes it. The
completion starts at the first token in which the tokenised prompt and the tokenised prompt with
completion differ (for a pair: at the earlier of both places). So a token that is merged across the
border carries loss. Sequences are cut on the right. There are three deliberate differences. In
``{"messages"}`` rows, TRL trains on every turn; here only the last turn carries loss, unless
``loss_on="all"``. Plain text that ends in the end token and blanks gets no second one. And pairs
whose sides differ only after the cut are dropped and counted, as their loss is log 2 for every
policy.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any, Generic, Literal, SupportsIndex, TypeVar, overload

import numpy as np
from jaxtyping import Int

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm._encoding import (
    Encoded,
    HubTokenizer,
    Refused,
    Row,
    check_tokenizer,
    encode_prompts,
    encode_wholes,
    in_parts,
    prompt_ids,
    require_end,
    require_template,
    row_error,
)
from tradeoff.llm.agreement import Disagreement, findings, together

__all__ = [
    "Example",
    "Pair",
    "Tokenised",
    "check_tokenizer",
    "fingerprint",
    "prompt_ids",
    "tokenise_preferences",
    "tokenise_sft",
]


@dataclass(frozen=True, eq=False)
class Example:
    """One demonstration: ``tokens[start:]`` carry loss, with ``1 <= start < n``."""

    tokens: Int[np.ndarray, " n"]
    start: int

    @property
    def sequences(self) -> tuple[Int[np.ndarray, " n"], ...]:
        """The one sequence."""
        return (self.tokens,)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of the sequence."""
        return (len(self.tokens),)

    @property
    def scored(self) -> int:
        """Number of tokens that carry loss."""
        return len(self.tokens) - self.start


@dataclass(frozen=True, eq=False)
class Pair:
    """One preference pair; its first `start` tokens, the prompt, are shared and carry no loss."""

    chosen: Int[np.ndarray, " n"]
    rejected: Int[np.ndarray, " m"]
    start: int

    @property
    def sequences(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """Chosen, then rejected."""
        return (self.chosen, self.rejected)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of tokens of both sequences."""
        return (len(self.chosen), len(self.rejected))

    @property
    def scored(self) -> int:
        """Number of tokens that carry loss, in both sequences."""
        return len(self.chosen) + len(self.rejected) - 2 * self.start


T = TypeVar("T", bound=Example | Pair)


@dataclass(frozen=True, eq=False, repr=False)
class Tokenised(Sequence[T], Generic[T]):
    """The tokenised rows of one source, in its order.

    Attributes
    ----------
    items
        The tokenised rows, at least one: a tuple, or `tradeoff.llm._stored.Stored` on disk.
    rows
        Index of each item among the rows given, from 0.
    too_long
        Number of rows that were dropped because their prompt alone fills ``max_length``.
    truncated
        Number of items that were cut; in a pair one or both sides were cut.
    fingerprint
        SHA-256 over all token ids and starts, in hexadecimal; it identifies the data in caches.
    identical
        Number of pairs that were dropped because both sides have the same tokens after the cut.
    cut_equal
        Number of these that were cut; the other pairs are equal after the chat template.
    dropped
        The errors of the rows that template or tokenizer refuse.
    findings
        Disagreements of training sequences and generation prompts.
    """

    items: Sequence[T]
    rows: Sequence[int] | Int[np.ndarray, " _"]
    too_long: int
    truncated: int
    fingerprint: str
    identical: int = 0
    cut_equal: int = 0
    dropped: tuple[InputError, ...] = ()
    findings: tuple[Disagreement, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self.items[index])
        return self.items[index.__index__()]

    @cached_property
    def extents(self) -> tuple[Int[np.ndarray, "n sides"], Int[np.ndarray, " n"]]:
        """Number of tokens of each sequence of each item, and the start of the loss."""
        if not isinstance(self.items, tuple):
            found: Any = self.items
            return found.extents()
        lengths = np.array([item.lengths for item in self.items])
        return lengths, np.array([item.start for item in self.items])

    def __repr__(self) -> str:
        kind = type(self.items[0]).__name__ if self.items else "row"
        counts = f"{self.too_long} too long, {self.truncated} truncated"
        counts += f", {self.identical} identical" if self.identical else ""
        counts += f", {len(self.dropped)} refused" if self.dropped else ""
        return f"<{len(self)} x {kind}, {counts}, {self.fingerprint[:12]}>"

    def summary(self) -> dict[str, Any]:
        """Counts for a log; lengths are in tokens and a pair has two sequences."""
        lengths, starts = self.extents
        return {
            "rows": len(self),
            "too_long": self.too_long,
            "identical": self.identical,
            "cut_equal": self.cut_equal,
            "refused": len(self.dropped),
            "truncated": self.truncated,
            "tokens": int(lengths.sum()),
            "completion_tokens": int((lengths - starts[:, None]).sum()),
            "longest": int(lengths.max(initial=0)),
            "fingerprint": self.fingerprint,
        }


def sizes(items: Sequence[Example] | Sequence[Pair]) -> Int[np.ndarray, " n"]:
    """Number of tokens of each item; for a pair, of both sides."""
    if isinstance(items, Tokenised):
        return np.asarray(items.extents[0].sum(axis=1))
    return np.array([sum(item.lengths) for item in items])


def tokenise_sft(
    rows: Sequence[SftRow],
    tokenizer: HubTokenizer,
    max_length: int = 2048,
    *,
    loss_on: Literal["completion", "all"] = "completion",
    skip_bad: bool | None = None,
    plain_is_meant: bool = False,
    cache: str | PathLike[str] | None = None,
) -> Tokenised[Example]:
    """Tokenise demonstrations.

    Parameters
    ----------
    rows
        Plain text or conversations. A document, whose prompt is empty, and a conversation of one
        turn carry loss from the second token on, as nothing predicts the first.
    tokenizer
        A tokenizer with an end token, and with a chat template if a row is a conversation.
    max_length
        Longest sequence in tokens, at least 2.
    loss_on
        ``"all"`` puts loss on every token but the first, as TRL does for ``{"messages"}``.
    skip_bad
        Collect the errors of rows that the template or tokenizer rejects in `Tokenised.dropped`;
        otherwise the first one is raised. By default this is as for the reading of the rows.
    plain_is_meant
        Do not report rows of plain text beside a chat template.
    cache
        Folder where the tokens are kept on disk, for sets larger than memory and for later runs
        with the same rows, tokenizer and settings (`tradeoff.llm._stored`); otherwise in memory.

    Raises
    ------
    InputError
        If the tokenizer lacks something, the template rejects a row or leaves nothing of its
        completion, or every prompt fills `max_length`.
    """
    own = _Way(Example, ("completion",), tokenizer, max_length, plain_is_meant, loss_on)
    return _tokenised(rows, own, skip_bad, cache)


def tokenise_preferences(
    rows: Sequence[PreferenceRow],
    tokenizer: HubTokenizer,
    max_length: int = 2048,
    *,
    skip_bad: bool | None = None,
    plain_is_meant: bool = False,
    cache: str | PathLike[str] | None = None,
) -> Tokenised[Pair]:
    """Tokenise preference pairs; parameters and errors are as for `tokenise_sft`.

    Raises
    ------
    InputError
        Also if a merge into a prompt of one token leaves a pair without a common first token.
    """
    own = _Way(Pair, ("chosen", "rejected"), tokenizer, max_length, plain_is_meant)
    return _tokenised(rows, own, skip_bad, cache)


@dataclass(frozen=True)
class _Way:
    """Method of tokenisation for rows of one kind."""

    item: type[Any]
    sides: tuple[str, ...]
    tokenizer: HubTokenizer
    max_length: int
    plain_is_meant: bool
    loss_on: str = "completion"


def _tokenised(
    rows: Sequence[Any], way: _Way, skip_bad: bool | None, cache: str | PathLike[str] | None
) -> Tokenised[Any]:
    """Tokenise all rows, some at a time, into memory or into a cache."""
    _check(rows, way.tokenizer, way.max_length)
    skip = getattr(rows, "skip_bad", False) if skip_bad is None else skip_bad
    if cache is None:
        found: list[Any] = []
        return replace(_gathered(rows, way, skip, found.extend), items=tuple(found))
    from tradeoff.llm import _stored  # datasets is imported only where it is used

    settings = {
        "kind": way.item.__name__,
        "max_length": way.max_length,
        "plain_is_meant": way.plain_is_meant,
        "loss_on": way.loss_on,
        "skip_bad": skip,
    }
    folder = _stored.place(cache, rows, way.tokenizer, settings)
    return _stored.kept(folder, way.item, lambda keep: _gathered(rows, way, skip, keep))


def _gathered(
    rows: Sequence[Any], way: _Way, skip_bad: bool, keep: Callable[[Sequence[Any]], object]
) -> Tokenised[Any]:
    """Pass all items to `keep`, and return the counts and findings without the items."""
    counts, dropped, places = Counter[str](), list[InputError](), list[int]()
    found: list[tuple[Disagreement, ...]] = []
    digest = hashlib.sha256(way.item.__name__.encode())
    for part in in_parts(rows):
        refused: Refused | None = {} if skip_bad else None
        wholes, prompts, starts = _encoded(part, way, refused)
        sequences = list(zip(*(whole.ids for whole in wholes), strict=True))
        own = _gather(way.item, part, sequences, starts, way.max_length, refused)
        keep(own.items)
        _add_to(digest, own.items)
        places += own.rows
        dropped += own.dropped
        counts.update({name: getattr(own, name) for name in _COUNTS})
        options: dict[str, Any] = {"max_length": way.max_length, "refused": refused}
        options["plain_is_meant"] = way.plain_is_meant
        found.append(findings(part, prompts, wholes, way.tokenizer, **options))
    if not places:
        lost = counts["too_long"], counts["identical"], counts["cut_equal"]
        raise _nothing_left(*lost, tuple(dropped), way.max_length)
    known = together(found, len(rows))
    numbers = {name: counts[name] for name in _COUNTS}
    fields: dict[str, Any] = {"dropped": tuple(dropped), "findings": known, **numbers}
    return Tokenised((), tuple(places), fingerprint=digest.hexdigest(), **fields)


_COUNTS = ("too_long", "truncated", "identical", "cut_equal")


def _encoded(
    rows: Sequence[Any], way: _Way, refused: Refused | None
) -> tuple[list[Encoded], Encoded, list[int]]:
    """Encode whole sequences of each side and prompts, and find the start of each row's loss."""
    where = way.tokenizer, way.max_length, refused
    # For demonstrations, an error of the whole sequence is raised before an error of the prompt.
    first = way.item is Example
    wholes = [encode_wholes(rows, side, *where) for side in way.sides] if first else []
    prompts = encode_prompts(rows, *where)
    wholes = wholes or [encode_wholes(rows, side, *where) for side in way.sides]
    if way.loss_on == "all":
        return wholes, prompts, [1] * len(rows)
    return (
        wholes,
        prompts,
        [
            max(1, min(_shared(prompt, ids) for ids in sides))
            for prompt, *sides in zip(prompts.ids, *(whole.ids for whole in wholes), strict=True)
        ],
    )


def _check(rows: Sequence[Row], tokenizer: HubTokenizer, max_length: int) -> None:
    if not rows:
        raise InputError("there are no rows", remedy="Give at least one.")
    if max_length < 2:
        remedy = "Give at least 2: a token of the prompt and one of the completion."
        raise InputError("no loss is left", field="max_length", value=max_length, remedy=remedy)
    require_end(tokenizer)
    if any(not isinstance(row.prompt, str) for row in rows):
        require_template(tokenizer)


def _shared(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " m"]) -> int:
    """Number of leading tokens that two sequences share."""
    shorter = min(len(first), len(second))
    differing = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _gather(
    item: Callable[..., T],
    rows: Sequence[Row],
    sequences: Sequence[tuple[Int[np.ndarray, " _"], ...]],
    starts: Sequence[int],
    max_length: int,
    refused: Refused | None,
) -> Tokenised[T]:
    short = [place for place, start in enumerate(starts) if start < max_length]
    for place in short:
        _check_tokens(rows, place, sequences[place], starts[place], refused)
    short = [place for place in short if not refused or place not in refused]
    cut = {place: tuple(ids[:max_length] for ids in sequences[place]) for place in short}
    same = {place for place, parts in cut.items() if _same(parts)}
    kept = [place for place in short if place not in same]
    dropped = tuple((refused or {})[place] for place in sorted(refused or {}))
    cut_equal = sum(any(len(ids) > max_length for ids in sequences[place]) for place in same)
    too_long = len(rows) - len(short) - len(dropped)
    items = tuple(item(*cut[place], starts[place]) for place in kept)
    truncated = sum(any(len(ids) > max_length for ids in sequences[place]) for place in kept)
    before = getattr(rows, "before", 0)
    places = tuple(before + place for place in kept)
    return Tokenised(items, places, too_long, truncated, "", len(same), cut_equal, dropped)


def _nothing_left(
    too_long: int, same: int, cut_equal: int, dropped: tuple[InputError, ...], max_length: int
) -> InputError:
    """The error of a set without usable rows, by its causes."""
    where: dict[str, Any] = {"field": "max_length", "value": max_length}
    remedy = "Give a larger one, or shorter prompts."
    if dropped and not too_long and not same:
        first = str(dropped[0]).removesuffix(".")
        problem = f"template or tokenizer refuse every row; the first error is: {first}"
        return InputError(problem, remedy="Give another template, or rows that it accepts.")
    if too_long and not same and not dropped:
        problem = "every prompt alone fills the longest sequence"
        return InputError(problem, remedy=remedy, **where)
    if same and not too_long and not dropped:
        problem = "chosen and rejected are the same tokens in every pair, once they are cut"
        if not cut_equal:
            problem = "chosen and rejected are the same tokens in every pair"
            remedy = "Check what the chat template leaves of them."
        return InputError(problem, remedy=remedy, **where)
    problem = (
        f"no row is left: of {too_long} the prompt alone fills the longest sequence, {same} pairs "
        f"are the same tokens on both sides, {len(dropped)} rows are refused"
    )
    return InputError(problem, remedy=remedy, **where)


def _same(sequences: tuple[Int[np.ndarray, " _"], ...]) -> bool:
    """Whether both sides of a pair are equal; False for a demonstration."""
    return len(sequences) == 2 and np.array_equal(*sequences)


def _check_tokens(
    rows: Sequence[Row],
    place: int,
    sequences: tuple[Int[np.ndarray, " _"], ...],
    start: int,
    refused: Refused | None,
) -> None:
    """Raise or collect the error of a row without tokens that carry loss."""
    if refused and place in refused:
        return
    error = _unusable(rows, place, sequences, start)
    if error is not None and refused is None:
        raise error
    if error is not None and refused is not None:
        refused[place] = error


def _unusable(
    rows: Sequence[Row], place: int, sequences: tuple[Int[np.ndarray, " _"], ...], start: int
) -> InputError | None:
    if any(len(ids) <= start for ids in sequences):
        problem = "the tokens of the row hold nothing of a completion"
        remedy = "Check that the chat template writes the contents of its role, or remove the row."
        return row_error(rows, place, problem, remedy, value=rows[place])
    if any(ids[0] != sequences[0][0] for ids in sequences):
        problem = "chosen and rejected share no token: each merges with the whole prompt"
        remedy = "End the prompt with a space or a line break, or remove the row."
        return row_error(rows, place, problem, remedy, field="prompt", value=rows[place].prompt)
    return None


def fingerprint(items: Sequence[Example | Pair]) -> str:
    """SHA-256 over all token ids and starts, in hexadecimal."""
    digest = hashlib.sha256(type(items[0]).__name__.encode())
    _add_to(digest, items)
    return digest.hexdigest()


def _add_to(digest: Any, items: Sequence[Any]) -> None:
    for item in items:
        digest.update(np.array([item.start, *map(len, item.sequences)], "<i8").tobytes())
        for ids in item.sequences:
            digest.update(ids.astype("<i8").tobytes())
