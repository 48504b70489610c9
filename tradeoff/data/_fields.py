"""Columns beside the texts of a row: instruction, system turn, tools, label, winner and scores."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tradeoff.data.record import Record
from tradeoff.data.rows import Message, Text

_OWN_ARGUMENTS = frozenset(
    [
        *("self", "conversation", "messages", "tools", "chat_template", "tokenize", "padding"),
        *("add_generation_prompt", "continue_final_message", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    ]
)
"""Arguments of the chat template that a row may not set."""
LABELS = ("label", "kto_tag")
"""Columns that say whether an unpaired response is desired; LLaMA-Factory has the second."""
_NUMBERS: dict[float, bool] = {1: True, 0: False, -1: False}
_WISHES = {"desirable": True, "desired": True, "undesirable": False, "undesired": False}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False, "-1": False}


def with_system(record: Record, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put a system turn from the column ``system`` before the turns."""
    if not record.has("system") or (turns and turns[0].role == "system"):
        return turns
    text = record.string("system", record.get("system"), blank=True)
    return (Message("system", text), *turns) if text.strip() else turns


def instruction(record: Record) -> str:
    """Build a prompt from an instruction and its input."""
    parts = {"Instruction": record.string("instruction", record.require("instruction"))}
    name = "input" if record.has("input") else "context"
    given = record.string(name, record.get(name) or "", blank=True)
    if given.strip():
        parts["Input"] = given
    heads = "".join(f"### {head}:\n{text}\n\n" for head, text in parts.items())
    return f"{heads}### Response:\n"


def extras(record: Record, prompt: Text) -> str:
    """Tools and arguments of the chat template, as JSON."""
    found = {}
    for name, kind in (("tools", list), ("chat_template_kwargs", dict)):
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            value = _loaded(record, name, value)
        if value in (None, "", [], {}):
            continue
        if not isinstance(value, kind):
            remedy = f"Give a {kind.__name__}, or its JSON."
            raise record.error("the field cannot be used", remedy, field=name, value=value)
        found[name] = value
    if found and isinstance(prompt, str):
        name = next(iter(found))
        remedy = "Give the prompt and the response as messages, or remove the column."
        problem = "the row is plain text, and only a chat template reads this field"
        raise record.error(problem, remedy, field=name, value=found[name])
    for name in found.get("chat_template_kwargs", {}):
        if name in _OWN_ARGUMENTS:
            remedy = "Leave it out; training sets it."
            raise record.error(
                "this argument cannot be set", remedy, field="chat_template_kwargs", value=name
            )
    return record.as_json("tools", found) if found else ""


def _loaded(record: Record, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"the field is not JSON: {error}"
        raise record.error(problem, "Give a list, or its JSON.", field=name, value=text) from error


def label_column(record: Record) -> str:
    """The column of labels that the record has, else the first of :data:`LABELS`."""
    return next((name for name in LABELS if record.has(name)), LABELS[0])


def label(record: Record) -> bool | None:
    """Whether an unpaired response is desired, by ``label`` or ``kto_tag``; None without these.

    A Boolean is always a label, and so is a word such as ``"undesirable"``. A number, or a text
    such as ``"true"``, is one only beside a completion: elsewhere it can be the class of a text.
    """
    name = label_column(record)
    value = record.fields[name] if record.has(name) else None
    if isinstance(value, str):
        value = (_WISHES | (_TRUTHS if record.has("completion") else {})).get(value.strip().lower())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = _NUMBERS.get(value) if record.has("completion") else None
    if not isinstance(value, bool):
        return None
    record.used.add(name)
    return value


def winner(record: Record, candidates: Sequence[str]) -> str:
    """Which of two columns holds the better response, by the column ``winner``.

    It has the name of a column, or what that name ends in: ``response_b``, ``b`` and ``model_b``
    are the same, and so is 1 if the column of the source is called ``response_1``.

    Raises
    ------
    InputError
        For a tie, and for a value that names neither or both.
    """
    value = record.require("winner")
    whole = isinstance(value, float) and value.is_integer()  # As tables with nulls hold integers.
    given = str(int(value) if whole else value).strip().casefold()
    where: dict[str, Any] = {"field": "winner", "value": value}
    if {"tie", "both"} & {*re.split("[^a-z]+", given)}:
        remedy = "Remove the row, or leave such rows out: --skip-bad, or skip_bad=True."
        raise record.error("neither response is better", remedy, **where)
    named = {name: {name, record.source_name(name)} for name in candidates}
    found = [name for name, names in named.items() if given in _endings(names)]
    if isinstance(value, bool) or len(found) != 1:
        first, second = (record.source_name(name) for name in candidates)
        remedy = f"Give {first!r} or {second!r}, or what these names end in."
        raise record.error("the field does not name one of the responses", remedy, **where)
    return found[0]


def _endings(names: set[str]) -> set[str]:
    """Names of columns, the last part of each, and ``model_`` before it."""
    whole = {name.casefold() for name in names}
    last = {re.split("[^a-z0-9]+", name)[-1] for name in whole}
    last |= {digits[0] for name in whole if (digits := re.search("[0-9]+$", name))}
    return whole | last | {f"model_{ending}" for ending in last}


def margin(record: Record) -> float | None:
    """The given margin, or the difference of both scores; None without them."""
    if record.has("margin"):
        return _number(record, "margin")
    if record.has("score_chosen") and record.has("score_rejected"):
        return _number(record, "score_chosen") - _number(record, "score_rejected")
    return None


def _number(record: Record, name: str) -> float:
    value = record.get(name)
    try:
        if isinstance(value, bool) or not math.isfinite(found := float(value)):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        remedy = "Give a finite number, or remove the column."
        raise record.error("the score is not a number", remedy, field=name, value=value) from error
    return found
