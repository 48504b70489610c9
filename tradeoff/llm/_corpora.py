"""The four data sets of a run, tokenised and checked before training starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from tradeoff.data.files import as_preferences, as_sft
from tradeoff.data.overlap import overlaps, repeated
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.sources import check_apart
from tradeoff.data.splits import Split, hold_out, prompts_trained_on
from tradeoff.data.spool import held_like
from tradeoff.errors import InputError
from tradeoff.llm._data import (
    Example,
    Pair,
    Tokenised,
    check_tokenizer,
    tokenise_preferences,
    tokenise_sft,
)
from tradeoff.llm._turns import every_turn, in_chat, stop_ids
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.models import below_adapters, vocabulary
from tradeoff.schedules import PREFERENCE, SFT

R = TypeVar("R", SftRow, PreferenceRow)


@dataclass(frozen=True)
class Corpora:
    """Training and held-out rows of both objectives, as tokens."""

    sft: Tokenised[Example]
    preference: Tokenised[Pair]
    sft_test: Tokenised[Example] | tuple[()]
    preference_test: Tokenised[Pair] | tuple[()]
    overlaps: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Counts of the rows that training sets and held-out sets share."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Sources of the given sets: names of files or of the hub."""

    def training(self, objective: int) -> Tokenised[Any]:
        """Training rows of an objective."""
        return self.sft if objective == SFT else self.preference

    def extent(self, objective: int, rows: Int[np.ndarray, " n"]) -> tuple[list[int], int]:
        """Lengths of all sequences of these training rows, and the number of tokens with loss."""
        items = [self.training(objective)[i] for i in rows]
        lengths = [n for item in items for n in item.lengths]
        return lengths, sum(item.scored for item in items)

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the four sets; empty for an absent set."""
        return {name: getattr(data, "fingerprint", "") for name, data in self.sets().items()}

    def summary(self) -> dict[str, Any]:
        """Numbers of rows that each set has and has lost."""
        return {
            name: {**data.summary(), **self.overlaps.get(name, {})}
            for name, data in self.sets().items()
            if isinstance(data, Tokenised)
        }

    def dropped(self) -> tuple[InputError, ...]:
        """The errors of the rows that the template or tokenizer rejects."""
        sets = self.sets().values()
        return tuple(error for data in sets for error in getattr(data, "dropped", ()))

    def remarks(self) -> list[str]:
        """Disagreements of training sequences and generation prompts, one line each."""
        return [
            f"{name}: {finding}"
            for name, data in self.sets().items()
            if isinstance(data, Tokenised)
            for finding in data.findings
        ]

    def sets(self) -> dict[str, Tokenised[Any] | tuple[()]]:
        """The four sets by their names."""
        names = ("sft", "preference", "sft_test", "preference_test")
        return {name: getattr(self, name) for name in names}


def prepare(
    model: Any,
    tokenizer: Any,
    given: tuple[Any, Any],
    given_test: tuple[Any, Any],
    config: TrainConfig,
) -> Corpora:
    """Tokenise all rows; if no held-out rows are given, they are taken from the training rows.

    Parameters
    ----------
    given, given_test
        Rows of SFT and preferences, or their sources; None for no held-out rows.

    Raises
    ------
    InputError
        If the tokenizer does not fit the model or the rows, or a set is left without rows.
    """
    kept: dict[str, Any] = {"folder": config.row_cache}
    training = as_sft(given[0], **kept), as_preferences(given[1], **kept)
    held_out = (
        None if given_test[0] is None else as_sft(given_test[0], **kept),
        None if given_test[1] is None else as_preferences(given_test[1], **kept),
    )
    sources = _sources(training, held_out)
    if config.chat:
        training = in_chat(training[0], tokenizer), in_chat(training[1], tokenizer)
        held_out = (
            None if held_out[0] is None else in_chat(held_out[0], tokenizer),
            None if held_out[1] is None else in_chat(held_out[1], tokenizer),
        )
    for name, train, test in zip(("sft", "preference"), training, held_out, strict=True):
        check_apart(train, test, f"{name}_test")
    every = (row for rows in (*training, *held_out) if rows is not None for row in rows)
    conversational = any(not isinstance(row.prompt, str) for row in every)
    check_tokenizer(tokenizer, vocabulary(model), conversational)
    # Saving the model needs them, which is too late for an error.
    stop_ids(tokenizer, below_adapters(model).generation_config)
    sft, pairs = _hold_out(training, held_out, config)
    sft = _in_turns(sft, config)
    skip = [bool(getattr(rows, "skip_bad", False)) for rows in training]
    meant: dict[str, Any] = {"plain_is_meant": config.chat is not None, "cache": config.row_cache}
    first, second = (
        {**meant, "max_length": config.longest(objective), "skip_bad": skip[objective]}
        for objective in (SFT, PREFERENCE)
    )
    masked = config.defects.masked
    shown = masked(tokenise_sft(sft.train, tokenizer, **first))
    shown_test = masked(tokenise_sft(sft.test, tokenizer, **first)) if sft.test else ()
    with _length_named(config):
        compared = masked(tokenise_preferences(pairs.train, tokenizer, **second))
        compared_test = (
            masked(tokenise_preferences(pairs.test, tokenizer, **second)) if pairs.test else ()
        )
    found = shown, compared, shown_test, compared_test
    return Corpora(*found, _overlaps(sft, pairs), sources)


@contextmanager
def _length_named(config: TrainConfig) -> Iterator[None]:
    """Name the setting for pairs in errors about their length, where it is given."""
    try:
        yield
    except InputError as error:
        if error.field != "max_length" or config.preference_max_length is None:
            raise
        raise error.at(field="preference_max_length") from None


def _in_turns(split: Split[SftRow], config: TrainConfig) -> Split[SftRow]:
    """Make a row for each turn, where the settings say so; a conversation stays on one side."""
    if config.turns == "last":
        return split
    train, test = (
        held_like(rows, (one for row in rows for one in every_turn(row))) if rows else rows
        for rows in (split.train, split.test)
    )
    return replace(split, train=train, test=test[: config.evaluate_rows])


def _sources(training: Sequence[Any], held_out: Sequence[Any]) -> dict[str, str]:
    names = ("sft", "preference", "sft_test", "preference_test")
    given = zip(names, (*training, *held_out), strict=True)
    return {name: _source(rows) for name, rows in given if rows is not None}


def _source(rows: Sequence[Any]) -> str:
    """Names of sources, without their folders on this machine."""
    places = getattr(rows, "identities", ())
    names = [x.removeprefix("hub:") if x.startswith("hub:") else Path(x).name for x in places]
    return ", ".join(names) or "rows in memory"


def _overlaps(sft: Split[SftRow], pairs: Split[PreferenceRow]) -> dict[str, dict[str, int]]:
    """Counts of repeated rows, and of rows that were removed from training."""
    found: dict[str, dict[str, int]] = {}
    prompts = prompts_trained_on([sft.test, pairs.test], sft.train, pairs.train)
    both = overlaps([sft.test, pairs.test], sft.train, pairs.train)
    removed, again = (sft.removed, pairs.removed), (repeated(sft.train), repeated(pairs.train))
    every = zip(("sft", "preference"), removed, again, prompts, both, strict=True)
    for name, count, repeats, known, counts in every:
        shared = {
            "prompts_trained_on": known,
            "also_trained_on": counts.equal,
            "near_duplicates": counts.near,
        }
        found[f"{name}_test"] = {key: value for key, value in shared.items() if value}
        found[name] = repeats | ({"prompts_tested_on": count} if count else {})
    return found


def _hold_out(
    training: tuple[Sequence[SftRow], Sequence[PreferenceRow]],
    held_out: tuple[Sequence[SftRow] | None, Sequence[PreferenceRow] | None],
    config: TrainConfig,
) -> tuple[Split[SftRow], Split[PreferenceRow]]:
    """Training and held-out rows of both sets; no held-out prompt is trained on in either."""
    for name, rows in zip(("sft", "preference"), training, strict=True):
        if not len(rows):
            raise InputError("there are no rows", field=name, remedy="Give at least two rows.")
    limit = config.evaluate_rows
    sft, pairs = training

    def usual() -> tuple[Split[SftRow], Split[PreferenceRow]]:
        if config.holdout == 0:
            return Split(sft, held_out[0] or ()), Split(pairs, held_out[1] or ())
        return hold_out((sft, held_out[0]), (pairs, held_out[1]), config.holdout, config.seed)

    first, second = config.defects.split(training, usual)
    return replace(first, test=first.test[:limit]), replace(second, test=second.test[:limit])
