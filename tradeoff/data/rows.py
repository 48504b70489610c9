"""The layouts of data rows, those of TRL 1.16, and the checks each row must pass.

SFT rows are ``{"prompt", "completion"}``, ``{"messages"}`` or ``{"text"}``. Preference rows are
``{"prompt", "chosen", "rejected"}``, or ``{"chosen", "rejected"}`` holding whole conversations,
whose shared leading messages are then the prompt. Each field is a string or a list of
``{"role", "content"}`` messages; other columns are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tradeoff.errors import InputError

_SFT_LAYOUTS = (("prompt", "completion"), ("messages",), ("text",))
_PREFERENCE_LAYOUTS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
COLUMNS = frozenset(
    name for layouts in (_SFT_LAYOUTS, _PREFERENCE_LAYOUTS) for names in layouts for name in names
)
"""Every column that some layout reads."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Text = str | tuple[Message, ...]
"""A field as it was given: plain text or a conversation."""


@dataclass(frozen=True)
class SftRow:
    """A prompt and its demonstration. The prompt of a ``{"text"}`` row is the empty string."""

    prompt: Text
    completion: Text


@dataclass(frozen=True)
class PreferenceRow:
    """A prompt and two different responses to it, of which `chosen` is preferred."""

    prompt: Text
    chosen: Text
    rejected: Text


def as_text(text: Text) -> str:
    """Render a field as plain text: a conversation becomes one ``role: content`` line per turn."""
    if isinstance(text, str):
        return text
    return "\n".join(f"{message.role}: {message.content}" for message in text)


@dataclass(frozen=True)
class Record:
    """The columns of one row as found, and where it stands (rows count from 1)."""

    file: str
    row: int
    fields: Mapping[str, Any] = field(repr=False)

    def error(self, problem: str, remedy: str, **where: Any) -> InputError:
        """An error at this row; `where` may give its field and value."""
        return InputError(problem, remedy=remedy, file=self.file, row=self.row, **where)

    def layout(self, layouts: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
        """The first layout whose columns are all here, else the first with one of its columns."""
        for enough in (all, any):
            for names in layouts:
                if enough(name in self.fields for name in names):
                    return names
        known = " or ".join("{" + ", ".join(names) + "}" for names in layouts)
        remedy = f"Rename the columns to {known}."
        raise self.error("no known layout has these columns", remedy, value=list(self.fields))

    def text(self, name: str) -> Text:
        """The checked content of column `name`."""
        if name not in self.fields:
            remedy = "Add or rename a column; the value is the list of those found."
            raise self.error("the field is missing", remedy, field=name, value=list(self.fields))
        value = self.fields[name]
        if isinstance(value, list) and value:
            return tuple(self._message(name, turn) for turn in value)
        return self._string(name, value)

    def _message(self, name: str, turn: Any) -> Message:
        where = {"field": name, "value": turn}
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            remedy = 'Each message must be {"role": ..., "content": ...}.'
            raise self.error("a message lacks its role or content", remedy, **where)
        if turn.get("tool_calls"):
            remedy = "Write the call into the content, or remove the row."
            raise self.error("tool calls are not supported", remedy, **where)
        return Message(self._string(name, turn["role"]), self._string(name, turn["content"]))

    def _string(self, name: str, value: Any) -> str:
        where = {"field": name, "value": value}
        # NaN, with which tables mark a missing value, is the one that differs from itself.
        if value is None or value == [] or (isinstance(value, float) and value != value):
            raise self.error("the field is empty", "Fill it or remove the row.", **where)
        if not isinstance(value, str):
            remedy = "Give a string, or a list of messages whose role and content are strings."
            raise self.error("the field is not text", remedy, **where)
        if not value.strip():
            raise self.error("the field is blank", "Fill it or remove the row.", **where)
        if _HALF_PAIR.search(value):
            remedy = "Repair the escape; a letter beyond \\uffff needs both halves."
            raise self.error("half of a surrogate pair cannot be encoded", remedy, **where)
        return value


def sft_row(record: Record) -> SftRow:
    """Check a row of any SFT layout; the last turn of ``{"messages"}`` is the completion."""
    layout = record.layout(_SFT_LAYOUTS)
    if layout == ("text",):
        return _document(record)
    if layout == ("messages",):
        return _conversation(record)
    prompt, completion = record.text("prompt"), record.text("completion")
    _check_same_kind(record, prompt=prompt, completion=completion)
    return SftRow(prompt, completion)


def preference_row(record: Record) -> PreferenceRow:
    """Check a row of either preference layout; shared leading messages are an implicit prompt."""
    layout = record.layout(_PREFERENCE_LAYOUTS)
    prompt = {"prompt": record.text("prompt")} if "prompt" in layout else {}
    chosen, rejected = record.text("chosen"), record.text("rejected")
    if chosen == rejected:
        remedy = "Remove the row: it states no preference."
        raise record.error("chosen and rejected are the same", remedy, field="chosen", value=chosen)
    _check_same_kind(record, **prompt, chosen=chosen, rejected=rejected)
    if prompt:
        return PreferenceRow(prompt["prompt"], chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        remedy = "Add it; only lists of messages can share their prompt."
        raise record.error("the field is missing", remedy, field="prompt")
    return _split_conversations(record, chosen, rejected)


def _document(record: Record) -> SftRow:
    text = record.text("text")
    if not isinstance(text, str):
        remedy = "Name the column messages."
        raise record.error("the field is not a string", remedy, field="text", value=text)
    return SftRow("", text)


def _conversation(record: Record) -> SftRow:
    turns = record.text("messages")
    if isinstance(turns, str) or turns[-1].role != "assistant":
        problem = "the conversation does not end with a message of the assistant"
        remedy = 'Give a list of messages whose last one has the role "assistant".'
        raise record.error(problem, remedy, field="messages", value=turns)
    return SftRow(turns[:-1], turns[-1:])


def _split_conversations(
    record: Record, chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> PreferenceRow:
    shorter = min(len(chosen), len(rejected))
    shared = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    if not 0 < shared < shorter:
        problem = "one conversation begins the other" if shared else "no message is shared"
        remedy = "Begin both with the messages of the prompt, then give each its own response."
        raise record.error(problem, remedy, field="chosen", value=chosen)
    return PreferenceRow(chosen[:shared], chosen[shared:], rejected[shared:])


def _check_same_kind(record: Record, **texts: Text) -> None:
    kinds = {name: "text" if isinstance(text, str) else "messages" for name, text in texts.items()}
    if len(set(kinds.values())) > 1:
        remedy = (
            "Make them all text or all messages; a prompt beside whole conversations can be "
            "removed, as the messages they share are the prompt."
        )
        raise record.error("text and messages are mixed", remedy, value=kinds)
