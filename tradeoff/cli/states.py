"""The option `--model` of analyse and advise: features of responses from a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tradeoff._terminal import show_line
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.extras import require

if TYPE_CHECKING:
    from tradeoff.llm.pooled import PooledStates

Features = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model whose averaged states take the place of hashed words: folder, GGUF file, hub "
        'name, "smollm2" or "tiny".',
    ),
]
ROWS = 1_000
"""Default number of rows of each set that a model reads."""


def states(
    path: str, sft: Sequence[SftRow], preference: Sequence[PreferenceRow], *, say: bool
) -> PooledStates:
    """Features of responses from a model; first says what reading the responses costs.

    Parameters
    ----------
    path
        The model.
    sft, preference
        Rows whose responses will be read.
    say
        Print the cost and show a bar.
    """
    require("llm")
    import torch

    from tradeoff import tiny
    from tradeoff.llm import models
    from tradeoff.llm.config import ModelConfig
    from tradeoff.llm.pooled import PooledStates, responses

    place = str(tiny.folder(progress=say)) if path == "tiny" else path
    model, tokenizer = models.load(ModelConfig(path=place))
    texts = responses(sft, preference)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = PooledStates(model.to(device), tokenizer, texts, progress=say)
    if say:
        show_line(cost(found, texts, path))
    return found


def cost(found: PooledStates, texts: Sequence[str], path: str) -> str:
    """What reading responses costs."""
    count, tokens = found.unread(texts)
    if not count:
        return f"the states of all responses under {path} are stored: none is read"
    minutes = found.seconds(texts) / 60
    stored = len(set(texts)) - count
    return (
        f"reading about {count:,} responses once with {path}: {tokens:,} tokens, about "
        f"{minutes:.1f} CPU minutes; the states of {max(stored, 0):,} others are stored"
    )
