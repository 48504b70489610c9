"""From rows to token ids with a Hugging Face tokenizer; ids and masks are those of TRL 1.16.

Plain text ends with the end token, a conversation as its chat template has it. The completion
starts where the tokenised prompt and the tokenised whole part (of a pair: at the earlier of both
places); a token merged across the border therefore carries loss. Sequences are cut on the right.
Two deliberate differences: of ``{"messages"}`` rows, TRL trains on every turn, we on the last one,
unless ``loss_on="all"``; and pairs whose sides differ only beyond the cut, whose loss is log 2
whatever is learned, are dropped and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, SupportsIndex, TypeVar, overload

import numpy as np
from jaxtyping import Int

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm.agreement import Finding, findings
from tradeoff.llm.encoding import (
    HubTokenizer,
    Refused,
    Row,
    check_tokenizer,
    encode_prompts,
    encode_wholes,
    prompt_ids,
    require_end,
    require_template,
    row_error,
)

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
    """One demonstration: ``tokens[start:]`` carry the loss, with ``1 <= start < n``."""

    tokens: Int[np.ndarray, " n"]
    start: int

    @property
    def sequences(self) -> tuple[Int[np.ndarray, " n"], ...]:
        """The one sequence."""
        return (self.tokens,)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the sequence."""
        return (len(self.tokens),)

    @property
    def scored(self) -> int:
        """Tokens that carry loss."""
        return len(self.tokens) - self.start


@dataclass(frozen=True, eq=False)
class Pair:
    """One preference pair: both sides share their first `start` tokens, the prompt, and no loss."""

    chosen: Int[np.ndarray, " n"]
    rejected: Int[np.ndarray, " m"]
    start: int

    @property
    def sequences(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """Chosen, then rejected."""
        return (self.chosen, self.rejected)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of both sequences."""
        return (len(self.chosen), len(self.rejected))

    @property
    def scored(self) -> int:
        """Tokens that carry loss, of both."""
        return len(self.chosen) + len(self.rejected) - 2 * self.start


T = TypeVar("T", bound=Example | Pair)


@dataclass(frozen=True, eq=False, repr=False)
class Tokenised(Sequence[T], Generic[T]):
    """The tokenised rows of one source, in its order.

    Attributes
    ----------
    items
        At least one.
    rows
        The place of each item among the rows given, from 0.
    too_long
        How many rows were dropped because their prompt alone fills ``max_length``.
    truncated
        How many of the items lost their end; a pair may have lost one or two.
    fingerprint
        SHA-256 over all token ids and starts, in hexadecimal: names the data in caches.
    identical
        How many pairs were dropped because both sides are the same tokens, once cut.
    cut_equal
        How many of these were cut; the others are the same as the chat template leaves them.
    dropped
        The errors of the rows that template or tokenizer refuse.
    findings
        Where what is trained on is not what will be asked.
    """

    items: tuple[T, ...]
    rows: tuple[int, ...]
    too_long: int
    truncated: int
    fingerprint: str
    identical: int = 0
    cut_equal: int = 0
    dropped: tuple[InputError, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | tuple[T, ...]:
        return self.items[index]

    def __repr__(self) -> str:
        kind = type(self.items[0]).__name__ if self.items else "row"
        counts = f"{self.too_long} too long, {self.truncated} truncated"
        counts += f", {self.identical} identical" if self.identical else ""
        counts += f", {len(self.dropped)} refused" if self.dropped else ""
        return f"<{len(self)} x {kind}, {counts}, {self.fingerprint[:12]}>"

    def summary(self) -> dict[str, Any]:
        """Counts for a log; lengths are in tokens and a pair has two sequences."""
        lengths = [len(ids) for item in self.items for ids in item.sequences]
        starts = [item.start for item in self.items for _ in item.sequences]
        return {
            "rows": len(self),
            "too_long": self.too_long,
            "identical": self.identical,
            "cut_equal": self.cut_equal,
            "refused": len(self.dropped),
            "truncated": self.truncated,
            "tokens": sum(lengths),
            "completion_tokens": sum(lengths) - sum(starts),
            "longest": max(lengths, default=0),
            "fingerprint": self.fingerprint,
        }


def tokenise_sft(
    rows: Sequence[SftRow],
    tokenizer: HubTokenizer,
    max_length: int = 2048,
    *,
    loss_on: Literal["completion", "all"] = "completion",
    skip_bad: bool | None = None,
    plain_is_meant: bool = False,
) -> Tokenised[Example]:
    """Tokenise demonstrations.

    Parameters
    ----------
    rows
        Plain or conversational. A document, whose prompt is empty, and a conversation of one turn
        carry loss from the second token on, as nothing predicts the first.
    tokenizer
        With an end token, and a chat template where a row is a conversation.
    max_length
        Longest sequence in tokens, at least 2.
    loss_on
        ``"all"`` puts loss on every token but the first, as TRL does for ``{"messages"}``.
    skip_bad
        Collect the errors of rows that template or tokenizer refuse in `Tokenised.dropped`; else
        the first one is raised. By default as the rows were read.
    plain_is_meant
        Whether rows of plain text beside a chat template are no finding.

    Raises
    ------
    InputError
        If the tokenizer lacks something, the template refuses a row or leaves nothing of its
        completion, or every prompt fills `max_length`.
    """
    _check(rows, tokenizer, max_length)
    refused = _collector(rows, skip_bad)
    wholes = encode_wholes(rows, "completion", tokenizer, max_length, refused)
    prompts = encode_prompts(rows, tokenizer, max_length, refused)
    starts = [1] * len(rows)
    if loss_on == "completion":
        starts = [max(1, _shared(p, w)) for p, w in zip(prompts.ids, wholes.ids, strict=True)]
    found = _gather(Example, rows, [(ids,) for ids in wholes.ids], starts, max_length, refused)
    options: dict[str, Any] = {
        "max_length": max_length,
        "refused": refused,
        "plain_is_meant": plain_is_meant,
    }
    return replace(found, findings=findings(rows, prompts, [wholes], tokenizer, **options))


def tokenise_preferences(
    rows: Sequence[PreferenceRow],
    tokenizer: HubTokenizer,
    max_length: int = 2048,
    *,
    skip_bad: bool | None = None,
    plain_is_meant: bool = False,
) -> Tokenised[Pair]:
    """Tokenise preference pairs; parameters and errors are as for `tokenise_sft`.

    Raises
    ------
    InputError
        Also if a merge into a prompt of one token leaves a pair without a common first token.
    """
    _check(rows, tokenizer, max_length)
    refused = _collector(rows, skip_bad)
    prompts = encode_prompts(rows, tokenizer, max_length, refused)
    chosen = encode_wholes(rows, "chosen", tokenizer, max_length, refused)
    rejected = encode_wholes(rows, "rejected", tokenizer, max_length, refused)
    pairs = list(zip(chosen.ids, rejected.ids, strict=True))
    starts = [
        max(1, min(_shared(p, c), _shared(p, r)))
        for p, (c, r) in zip(prompts.ids, pairs, strict=True)
    ]
    found = _gather(Pair, rows, pairs, starts, max_length, refused)
    options: dict[str, Any] = {
        "max_length": max_length,
        "refused": refused,
        "plain_is_meant": plain_is_meant,
    }
    return replace(
        found, findings=findings(rows, prompts, [chosen, rejected], tokenizer, **options)
    )


def _collector(rows: Sequence[Row], skip_bad: bool | None) -> Refused | None:
    """Where the errors of refused rows go; None raises the first."""
    return {} if (getattr(rows, "skip_bad", False) if skip_bad is None else skip_bad) else None


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
    kept = tuple(place for place in short if place not in same)
    dropped = tuple((refused or {})[place] for place in sorted(refused or {}))
    cut_equal = sum(any(len(ids) > max_length for ids in sequences[place]) for place in same)
    too_long = len(rows) - len(short) - len(dropped)
    if not kept:
        raise _nothing_left(too_long, len(same), cut_equal, dropped, max_length)
    items = [item(*cut[place], starts[place]) for place in kept]
    truncated = sum(any(len(ids) > max_length for ids in sequences[place]) for place in kept)
    counts = too_long, truncated, fingerprint(items), len(same), cut_equal
    return Tokenised(tuple(items), kept, *counts, dropped)


def _nothing_left(
    too_long: int, same: int, cut_equal: int, dropped: tuple[InputError, ...], max_length: int
) -> InputError:
    """The error of a set without a row that can be learned from, by its causes."""
    where: dict[str, Any] = {"field": "max_length", "value": max_length}
    remedy = "Give a larger one, or shorter prompts."
    if dropped and not too_long and not same:
        problem = f"template or tokenizer refuse every row; the first error is: {dropped[0]}"
        return InputError(problem, remedy="Give another template, or rows that it admits.")
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
    """Whether a pair has nothing to prefer; one demonstration never is."""
    return len(sequences) == 2 and np.array_equal(*sequences)


def _check_tokens(
    rows: Sequence[Row],
    place: int,
    sequences: tuple[Int[np.ndarray, " _"], ...],
    start: int,
    refused: Refused | None,
) -> None:
    """Raise or collect the error of a row that leaves no tokens to learn."""
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
    for item in items:
        digest.update(np.array([item.start, *map(len, item.sequences)], "<i8").tobytes())
        for ids in item.sequences:
            digest.update(ids.astype("<i8").tobytes())
    return digest.hexdigest()
