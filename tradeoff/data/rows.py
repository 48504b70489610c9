"""The rows that both objectives need: prompts with demonstrations, and prompts with pairs.

`tradeoff.data.layouts` makes them from the columns of a source.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes
    ----------
    role, content
        The speaker and the text; the text may be empty, for instance beside tool calls.
    extras
        The other fields of the message, such as ``tool_calls``, ``name`` or
        ``reasoning_content``, as a JSON object, or ``""``. ``{"content": null}`` says that there
        was no content.
    """

    role: str
    content: str
    extras: str = field(default="", repr=False)

    @property
    def trained_on(self) -> bool:
        """Whether the turn may be trained on: a ``weight`` of 0, or ``"train": false``, forbids it.

        Data sets of chat services weigh turns; others name the field ``training``.
        """
        turn = self.as_dict()
        return all(turn.get(name, 1) not in (0, False) for name in ("weight", "train", "training"))

    def as_dict(self) -> dict[str, Any]:
        """The message as a chat template reads it."""
        more = json.loads(self.extras) if self.extras else {}
        return {"role": self.role, "content": self.content, **more}


Text = str | tuple[Message, ...]
"""A field as it was given: plain text or a conversation."""


class Origin(NamedTuple):
    """Where a row was read: its source, and its line or place there, from 1."""

    file: str
    row: int


@dataclass(frozen=True)
class _Row:
    """Fields that all rows have beside their texts; the origin does not count in comparisons.

    Attributes
    ----------
    extras
        Arguments of the chat template beside the messages: a JSON object with ``tools`` and
        ``chat_template_kwargs``, or ``""``.
    origin
        Where the row was read; None for a row made in Python.
    """

    extras: str = field(default="", kw_only=True, repr=False)
    origin: Origin | None = field(default=None, kw_only=True, compare=False, repr=False)

    def template_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the chat template: tools, and those of the row."""
        more = json.loads(self.extras) if self.extras else {}
        return {"tools": more.get("tools"), **more.get("chat_template_kwargs", {})}


@dataclass(frozen=True)
class SftRow(_Row):
    """A prompt and its demonstration. The prompt of a ``{"text"}`` row is the empty string."""

    prompt: Text
    completion: Text


@dataclass(frozen=True)
class PreferenceRow(_Row):
    """A prompt and two different responses to it, of which `chosen` is preferred.

    Attributes
    ----------
    margin
        How much higher the chosen response was scored, where the source has scores.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    margin: float | None = field(default=None, kw_only=True, repr=False)


def as_text(text: Text) -> str:
    """Render a field as plain text: a conversation becomes one ``role: content`` line per turn."""
    if isinstance(text, str):
        return text
    return "\n".join(
        f"{message.role}: {message.content}{message.extras and ' '}{message.extras}"
        for message in text
    )
