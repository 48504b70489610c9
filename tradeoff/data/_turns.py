"""Messages of a conversation, in the forms that data sets use.

A message is ``{"role", "content"}``, or ``{"from", "value"}`` as ShareGPT has it. The content is
text, or a list of parts of text. A list of messages may be stored as text: JSON, or as Python
prints it.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from tradeoff.data.record import Record, is_absent, is_blank
from tradeoff.data.rows import Message, Text

SPEAKERS = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function": "function",
}
"""The known roles, by the names that data sets use for them."""
_STORED = re.compile(rf"""['"](?:role|from)['"]\s*:\s*['"](?:{"|".join(SPEAKERS)})['"]""")
_PARTS = re.compile(r"""\s*\[\s*\{.{0,200}?['"]type['"]\s*:""", re.DOTALL)
_ROW = re.compile(r"""\s*\{\s*"(messages|conversations)"\s*:\s*\[\s*\{""")
_PART_KINDS = {"text", "image", "image_url", "audio", "video"}
_PRINTED = 2**20
_MAY_BE_EMPTY = ("system", "developer", "tool", "function")
_CONTENT = ("tool_calls", "reasoning_content", "reasoning", "thinking")
"""Fields that make a turn of the assistant valid without text."""


def read_text(record: Record, name: str) -> Text:
    """Read the content of a column: plain text, or messages in any of their forms."""
    value = record.require(name)
    if isinstance(value, str):
        text = record.string(name, value)
        stored = _stored_messages(record, name, text)
        if stored is None:
            return text
        record.notes["messages read from text"] += 1
        value = stored
    if isinstance(value, Mapping):
        value = _rows_of(value) or [value]
    if isinstance(value, list | tuple) and value:
        return tuple(_message(record, name, turn) for turn in value)
    return record.string(name, value)


def _rows_of(columns: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Messages that are stored by column, as ``Sequence`` of datasets does; else nothing."""
    lists = list(columns.values())
    if not lists or not all(isinstance(column, list) for column in lists):
        return []
    if len({len(column) for column in lists}) > 1:
        return []
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*lists, strict=True)]


def read_messages(record: Record, name: str) -> tuple[Message, ...]:
    """Read a column that must be a conversation."""
    turns = read_text(record, name)
    if isinstance(turns, str):
        remedy = 'Give a list of messages, whose last one has the role "assistant".'
        raise record.error("this is not a conversation", remedy, field=name, value=turns)
    return turns


def same(first: Message, second: Message) -> bool:
    """Whether two turns are the same, apart from blanks around the text."""
    if first == second:
        return True
    says = first.role == second.role and first.content.strip() == second.content.strip()
    return says and first.as_dict().get("tool_calls") == second.as_dict().get("tool_calls")


def shared(first: tuple[Message, ...], second: tuple[Message, ...]) -> int:
    """Number of leading turns that are equal."""
    both = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(first), len(second)))


def _stored_messages(record: Record, name: str, text: str) -> list[Any] | None:
    """Parse messages that are stored as text, in JSON or Python form; None for any other text."""
    if _ROW.match(text):
        remedy = "Unpack it, so that messages are a column of their own."
        raise record.error("the text is a row in JSON", remedy, field=name, value=text)
    start = text.lstrip()[:2000]
    if not start.startswith("[") or not start[1:].lstrip().startswith("{"):
        return None
    if not _STORED.search(start):
        return None
    readers = (json.loads, ast.literal_eval) if len(text) <= _PRINTED else (json.loads,)
    for read in readers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of unknown escapes
                found = read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, list) else None
    problem = "the text looks like a list of messages, but is neither JSON nor Python"
    remedy = "Store the messages as a list, or as text by json.dumps."
    raise record.error(problem, remedy, field=name, value=text)


def _message(record: Record, name: str, turn: Any) -> Message:
    where = {"field": name, "value": turn}
    if not isinstance(turn, Mapping):
        remedy = 'Each message must be {"role": ..., "content": ...}.'
        raise record.error("a message lacks its role or content", remedy, **where)
    turn = {key: value for key, value in turn.items() if not is_absent(value)}
    keys = ("role", "content") if "role" in turn else ("from", "value")
    more = {k: v for k, v in turn.items() if k not in keys and v not in ([], {}, "")}
    if keys[0] not in turn or (keys[1] not in turn and not _may_be_empty(turn[keys[0]], more)):
        remedy = 'Each message must be {"role": ..., "content": ...}.'
        raise record.error("a message lacks its role or content", remedy, **where)
    role = record.string(name, turn[keys[0]])
    if role == "function_call":
        return _call(record, name, turn.get(keys[1]))
    known = SPEAKERS.get(role.strip().lower())
    if known is None and keys[0] == "from":
        remedy = f"Give one of {', '.join(SPEAKERS)}."
        raise record.error("this speaker is not known", remedy, **where)
    if known is None:
        record.notes["messages with a role that not every chat template knows"] += 1
    role = known or role
    content = _content(record, name, turn.get(keys[1], ""))
    if is_blank(content) and not _may_be_empty(role, more):
        raise record.error("the field is blank", "Fill it or remove the row.", **where)
    extras = record.as_json(name, more)
    if keys[1] not in turn and role not in _MAY_BE_EMPTY:
        extras = json.dumps({"content": None} | json.loads(extras or "{}"), ensure_ascii=False)
    return Message(role, content, extras)


def _may_be_empty(role: Any, more: Mapping[str, Any]) -> bool:
    return role in _MAY_BE_EMPTY or any(more.get(name) for name in _CONTENT)


def _content(record: Record, name: str, value: Any) -> str:
    """Text, or the joined texts of a list of parts."""
    if isinstance(value, str) and (stored := _stored_parts(value)) is not None:
        record.notes["contents read from parts that were stored as text"] += 1
        value = stored
    if not isinstance(value, list | tuple):
        return record.string(name, value, blank=True)
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text":
            remedy = "Only parts of text are trained on: remove the row, or the part."
            raise record.error(f"a part is of the type {kind!r}", remedy, field=name, value=part)
        text = part.get("text") if isinstance(part, Mapping) else part
        texts.append(record.string(name, text, blank=True))
    return "".join(texts)


def _stored_parts(text: str) -> list[Any] | None:
    """Parse a list of parts that is stored as JSON; None for any other text."""
    if not _PARTS.match(text):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in found]
    known = all(isinstance(kind, str) and kind in _PART_KINDS for kind in kinds)
    return found if isinstance(found, list) and known else None


def _call(record: Record, name: str, value: Any) -> Message:
    """Convert a function call of ShareGPT, the JSON of its name and arguments, to a message."""
    try:
        call = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, Mapping) or not {"name", "arguments"} <= call.keys():
        remedy = 'Give the JSON of {"name": ..., "arguments": ...}, or tool_calls.'
        raise record.error("this is not a call of a function", remedy, field=name, value=value)
    calls = [{"type": "function", "function": dict(call)}]
    return Message("assistant", "", record.as_json(name, {"tool_calls": calls}))
