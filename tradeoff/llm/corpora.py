"""The four data sets of a run, tokenised and checked before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from tradeoff import draws
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.data import (
    Example,
    Pair,
    Tokenised,
    check_tokenizer,
    fingerprint,
    tokenise_preferences,
    tokenise_sft,
)
from tradeoff.schedules import SFT

R = TypeVar("R", SftRow, PreferenceRow)


@dataclass(frozen=True)
class Corpora:
    """Training and held-out rows of both objectives, as tokens."""

    sft: Tokenised[Example]
    preference: Tokenised[Pair]
    sft_test: Tokenised[Example] | tuple[()]
    preference_test: Tokenised[Pair] | tuple[()]

    def training(self, objective: int) -> Tokenised[Any]:
        """Training rows of an objective."""
        return self.sft if objective == SFT else self.preference

    def extent(self, objective: int, rows: Int[np.ndarray, " n"]) -> tuple[list[int], int]:
        """Lengths of all sequences of these training rows, and how many of their tokens count."""
        items = [self.training(objective)[i] for i in rows]
        lengths = [n for item in items for n in item.lengths]
        return lengths, sum(item.scored for item in items)

    def fingerprints(self) -> dict[str, str]:
        """Names of the four sets, empty where there is none."""
        return {name: getattr(data, "fingerprint", "") for name, data in vars(self).items()}

    def summary(self) -> dict[str, Any]:
        """How many rows each set has and lost."""
        return {
            name: data.summary() for name, data in vars(self).items() if isinstance(data, Tokenised)
        }


def prepare(
    model: Any,
    tokenizer: Any,
    training: tuple[Sequence[SftRow], Sequence[PreferenceRow]],
    held_out: tuple[Sequence[SftRow] | None, Sequence[PreferenceRow] | None],
    config: TrainConfig,
) -> Corpora:
    """Tokenise all rows; rows that are held out come from the training rows if not given.

    Raises
    ------
    InputError
        If the tokenizer does not fit the model or the rows, or a set is left without rows.
    """
    given = [rows for rows in (*training, *held_out) if rows is not None]
    for rows, kind in zip((*training, *held_out), (SftRow, PreferenceRow) * 2, strict=True):
        _check_kind(rows, kind)
    conversational = any(not isinstance(rows[0].prompt, str) for rows in given if len(rows))
    check_tokenizer(tokenizer, model.get_input_embeddings().num_embeddings, conversational)
    sft, sft_test = _hold_out(training[0], held_out[0], config, "sft")
    pairs, pairs_test = _hold_out(training[1], held_out[1], config, "preference")
    found = Corpora(
        tokenise_sft(sft, tokenizer, config.max_length),
        tokenise_preferences(pairs, tokenizer, config.max_length),
        tokenise_sft(sft_test, tokenizer, config.max_length) if sft_test else (),
        tokenise_preferences(pairs_test, tokenizer, config.max_length) if pairs_test else (),
    )
    return _without_first_tokens(found) if config.defects.mask_first_token else found


def _check_kind(rows: Sequence[Any] | None, kind: type) -> None:
    for place, row in enumerate(rows or ()):
        if not isinstance(row, kind):
            raise InputError(
                f"this is not a {kind.__name__}",
                row=place + 1,
                value=row,
                remedy="Read rows by tradeoff.read_sft and tradeoff.read_preferences.",
            )


def _hold_out(
    rows: Sequence[R], test: Sequence[R] | None, config: TrainConfig, name: str
) -> tuple[Sequence[R], Sequence[R]]:
    """Training and held-out rows; all rows of one prompt fall on one side.

    Where all rows have one prompt, as plain documents have, they are split by their order.
    """
    if not len(rows):
        raise InputError("there are no rows", field=name, remedy="Give at least two rows.")
    limit = config.evaluate_rows
    if config.defects.evaluate_on_training_rows:
        return rows, rows[: max(1, round(0.03 * len(rows)))][:limit]
    if test is not None or config.holdout == 0:
        return rows, (test or ())[:limit]
    prompts = list(dict.fromkeys(as_text(row.prompt) for row in rows))
    u = draws.uniform(draws.keys(config.seed, 0, draws.SFT_NOISE), np.arange(len(prompts)))
    if len(rows) == 1:
        raise InputError(
            f"of one row, none can be held out (holdout is {config.holdout:g})",
            field=name,
            value=rows[0],
            remedy=f"Give more rows, {name}_test, or holdout = 0.",
        )
    if len(prompts) == 1:
        border = len(rows) - _share(config.holdout, len(rows))
        return rows[:border], rows[border:][:limit]
    out = {prompts[i] for i in np.argsort(u, kind="stable")[: _share(config.holdout, len(prompts))]}
    kept = [row for row in rows if as_text(row.prompt) not in out]
    return kept, [row for row in rows if as_text(row.prompt) in out][:limit]


def _share(holdout: float, size: int) -> int:
    """How many of `size`, at least 2, are held out: one at least, and not all."""
    return min(max(1, round(holdout * size)), size - 1)


def _without_first_tokens(data: Corpora) -> Corpora:
    """The official code's masks: the first token of each response carries no loss."""
    parts = {}
    for name, part in vars(data).items():
        if isinstance(part, Tokenised):
            items = tuple(_shifted(item) for item in part.items)
            # Caches of log-probabilities go by this name, and these are other ones.
            parts[name] = replace(part, items=items, fingerprint=fingerprint(items))
    return replace(data, **parts)


def _shifted(item: Example | Pair) -> Example | Pair:
    longest = min(item.lengths) - 1
    return replace(item, start=min(item.start + 1, longest))
