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


def unlike(path: str, *sets: Sequence[SftRow] | Sequence[PreferenceRow]) -> list[str]:
    """A remark where a training would not read rows as its model was taught, or not at all."""
    from tradeoff import tiny
    from tradeoff.llm import models

    rows = [row for some in sets for row in some]
    plain = sum(isinstance(row.prompt, str) for row in rows)
    place = str(tiny.folder(progress=False)) if path == "tiny" else path
    _, tokenizer = models.without_weights(place)
    if tokenizer.chat_template and plain:
        return [
            f"{plain:,} of {len(rows):,} rows are plain text, though the tokenizer of {path} has a "
            "chat template: add --chat to the command to train through it, or --plain"
        ]
    if not tokenizer.chat_template and plain < len(rows):
        return [
            f"{len(rows) - plain:,} of {len(rows):,} rows are conversations, but the tokenizer of "
            f"{path} has no chat template: add the file of one to the command, --chat-template"
        ]
    return []


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
