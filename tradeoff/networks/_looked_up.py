"""Demonstrations of a language model as a method that looks some up writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int

from tradeoff.methods.transforms import Retrieved
from tradeoff.methods.transforms.retrieved import Expanded, InContext
from tradeoff.networks.batches import Batch

Tokens = Int[np.ndarray, " _"]


def looked_up(rows: Batch, transform: Retrieved, context: int, padding: int) -> Batch:
    """The demonstrations that a method trains on.

    Parameters
    ----------
    rows
        The demonstrations as they are given.
    transform
        What is looked up: examples before each row, or answers to new prompts.
    context
        Tokens of the longest row that examples may bring about; rows are never cut.
    padding
        The token after the end of a row.

    Returns
    -------
    Batch
        The same rows with examples before them, or these rows and new ones after them. Only tokens
        of responses carry loss. New rows are kept from no given row, -1.
    """
    parts = _parts(rows)
    if isinstance(transform, InContext):
        prompts = [
            np.concatenate([*(np.concatenate(parts[place]) for place in shown), parts[row][0]])
            for row, shown in enumerate(_that_fit(parts, transform, context))
        ]
        laid = [(prompt, answer) for prompt, (_, answer) in zip(prompts, parts, strict=True)]
        return _batch(rows, laid, rows.kept, padding)
    assert isinstance(transform, Expanded), "there is no other"
    new = transform.written(*zip(*parts, strict=True))
    of = torch.cat([rows.kept, rows.kept.new_full((len(new),), -1)])
    return _batch(rows, [*parts, *new], of, padding)


def _parts(rows: Batch) -> list[tuple[Tokens, Tokens]]:
    """The tokens of each prompt and of each response."""
    tokens, mask = rows.tokens.cpu().numpy(), rows.mask.cpu().numpy()
    return [(line[: own.argmax()], line[own]) for line, own in zip(tokens, mask, strict=True)]


def _that_fit(
    parts: Sequence[tuple[Tokens, Tokens]], transform: InContext, context: int
) -> list[list[int]]:
    """Places of the examples of each row: the nearest ones, until one does not fit."""
    lengths = [len(prompt) + len(answer) for prompt, answer in parts]
    found = []
    for row, places in enumerate(transform.shown([prompt for prompt, _ in parts])):
        room, kept = context - lengths[row], 0
        for place in reversed(places):
            room -= lengths[place]
            if room < 0:
                break
            kept += 1
        found.append(places[len(places) - kept :])
    return found


def _batch(
    like: Batch, parts: Sequence[tuple[Tokens, Tokens]], kept: torch.Tensor, padding: int
) -> Batch:
    """Rows of prompts and responses, padded on the right."""
    longest = max(len(prompt) + len(answer) for prompt, answer in parts)
    tokens = np.full((len(parts), max(longest, like.tokens.shape[-1])), padding)
    mask = np.zeros(tokens.shape, dtype=bool)
    for row, (prompt, answer) in enumerate(parts):
        end = len(prompt) + len(answer)
        tokens[row, :end] = np.concatenate([prompt, answer])
        mask[row, len(prompt) : end] = True
    device = like.tokens.device
    return replace(
        like,
        tokens=torch.from_numpy(tokens).to(like.tokens),
        mask=torch.from_numpy(mask).to(device),
        kept=kept,
    )
