"""Form of turns in a chat template: headers and end tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import takewhile
from typing import Any

from tradeoff.data.files import Rows
from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text
from tradeoff.data.spool import held_like
from tradeoff.errors import InputError
from tradeoff.llm._generation_settings import end_ids

_ASKED, _SAID, _AGAIN = "Where is it?", "It is here.", "Are you sure?"
_INSTRUCTION = re.compile(
    r"(?:Below is an instruction[^\n]*\n\n)?### Instruction:\n(.*?)"
    r"(?:\n\n### Input:\n(.*?))?\n\n### Response:\s*",
    re.DOTALL,
)
"""Alpaca's rendering of an instruction, and of an input."""
_CLOCK = "strftime_now"
"""Function of templates that gives the current date in a format of strftime."""
_DIRECTIVES = tuple(
    f"%{sign}{letter}" for letter in "aAbBcdHIjmMpSuUVwWxXyYGZ" for sign in ("", "-")
)
_DATE = "rendered_on"
"""Setting of a tokenizer for the date, which is saved with its other settings."""


@dataclass(frozen=True)
class Turns:
    """The form in which a chat template writes a question and its answer.

    Attributes
    ----------
    headers
        Beginnings of a user's turn and of an assistant's turn, without blanks; may be empty.
    end
        Id of the special token that ends the assistant's turn; None without such a token.
    asks
        Whether a generation prompt adds anything to the turns before it.
    """

    headers: tuple[str, str]
    end: int | None
    asks: bool

    def within(self, text: str) -> bool:
        """Whether a text is already rendered by the template: it contains both headers."""
        known = [header for header in self.headers if header]
        return bool(known) and all(header in text for header in known)


def turns(tokenizer: Any) -> Turns | None:
    """Form of turns in a tokenizer's chat template; None if there is none or it rejects them."""
    question, answer = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    try:
        tokenizer.get_chat_template()
        whole = rendered(tokenizer, [question, answer])
        plain = rendered(tokenizer, [question])
        asked = rendered(tokenizer, [question], generation_prompt=True)
    except Exception:  # a template is a program and can raise any error
        return None
    before, found, rest = whole.partition(_ASKED)
    between, said, tail = rest.rpartition(_SAID)
    if not (found and said):
        return None
    ends = tail, plain.rpartition(_ASKED)[2]
    header = _user_header(tokenizer, before, [question, answer], ends)
    headers = header, _without_end(between, ends[1:]).strip()
    return Turns(headers, _first_special(tokenizer, tail), asked != plain)


def _user_header(
    tokenizer: Any, before: str, said: list[dict[str, Any]], ends: tuple[str, ...]
) -> str:
    """What a template writes at the beginning of each user's turn.

    `before` is what it writes before the first, which may have a system turn that no row asks for.
    """
    bos = tokenizer.bos_token or ""
    first = before.removeprefix(bos).strip()
    try:
        whole = rendered(tokenizer, [*said, {"role": "user", "content": _AGAIN}])
    except Exception:  # a template is a program and can reject a second question
        return first
    between, found, _ = whole.rpartition(_SAID)[2].partition(_AGAIN)
    if not found or between.rstrip().endswith(first):
        return first
    return _without_end(between, ends).strip().removeprefix(bos).strip()


def _without_end(text: str, ends: Sequence[str]) -> str:
    """Remove from the beginning of a text what it shares with one of the ends of a turn."""
    shared = max((_shared(text, end) for end in ends), key=len)
    opened = shared.rfind("<")
    if opened > shared.rfind(">"):  # two special tokens may begin alike
        shared = shared[:opened]
    return text[len(shared) :]


def _shared(text: str, other: str) -> str:
    """The longest beginning that two texts share."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    return "".join(letter for letter, _ in same)


def rendered(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    *,
    generation_prompt: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Render a conversation by the chat template, with the tokenizer's stored date.

    `arguments` are those of the template, such as tools; a row may have any.
    """
    arguments = arguments or {}
    template = tokenizer.get_chat_template(tools=arguments.get("tools"))
    return str(
        tokenizer.apply_chat_template(
            messages,
            chat_template=_on_its_date(template, tokenizer),
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **arguments,
        )
    )


def stop_ids(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """Ids of tokens that end a response: EOS, the model's, and the template's end of a turn."""
    found = {int(tokenizer.eos_token_id), *end_ids(generation_config)}
    known = turns(tokenizer)
    if known is not None and known.end is not None:
        found.add(known.end)
    return sorted(found)


def keep_date(tokenizer: Any, day: str | None = None) -> str | None:
    """Fix the date that a template writes.

    Parameters
    ----------
    day
        The date in ISO form; by default the tokenizer's stored date, or today.

    Returns
    -------
    str or None
        The date; None if the template does not use one.
    """
    template = tokenizer.chat_template
    if _CLOCK not in str(template):
        return None
    day = day or tokenizer.init_kwargs.get(_DATE) or date.today().isoformat()
    tokenizer.init_kwargs[_DATE] = day
    return day


def as_conversation(prompt: str, response: str) -> tuple[Text, Text]:
    """Make a conversation of a plain prompt and its response, without the marks of Alpaca."""
    if found := _INSTRUCTION.fullmatch(prompt):
        prompt = "\n\n".join(filter(None, found.groups()))
    return (Message("user", prompt.strip()),), (Message("assistant", response.strip()),)


def wrapped(row: Any, known: Turns | None) -> Any:
    """Make a conversation of a row of plain text.

    Conversations, documents and texts that are already rendered by the template do not change.
    """
    sides = ("chosen", "rejected") if isinstance(row, PreferenceRow) else ("completion",)
    texts = [getattr(row, side) for side in sides]
    if not isinstance(row.prompt, str) or not row.prompt or known is None:
        return row
    if any(known.within(row.prompt + text) for text in texts):
        return row
    responses = {
        side: as_conversation("", text)[1] for side, text in zip(sides, texts, strict=True)
    }
    return replace(row, prompt=as_conversation(row.prompt, "")[0], **responses)


def in_chat(rows: Sequence[Any], tokenizer: Any) -> Sequence[Any]:
    """Make conversations of rows of plain text, see :func:`wrapped`.

    Raises
    ------
    InputError
        If the tokenizer has no chat template that renders a question and its answer.
    """
    known = turns(tokenizer)
    if known is None:
        raise InputError(
            "no chat template renders a question and its answer",
            field="chat",
            value=True,
            remedy="Name a template (--chat-template), or leave chat out to train on plain text.",
        )
    found = held_like(rows, (wrapped(row, known) for row in rows))
    return replace(rows, rows=found) if isinstance(rows, Rows) else found


def every_turn(row: SftRow) -> list[SftRow]:
    """Split a conversation into a demonstration for each turn of the assistant to train on."""
    if isinstance(row.prompt, str) or isinstance(row.completion, str):
        return [row]
    said = (*row.prompt, *row.completion)
    spoken = [i for i, turn in enumerate(said) if turn.role == "assistant" and i]
    places = [i for i in spoken if said[i].trained_on]
    return [replace(row, prompt=said[:i], completion=said[i : i + 1]) for i in places] or [row]


def _first_special(tokenizer: Any, tail: str) -> int | None:
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    return next((int(i) for i in ids if i in special), None)


def _on_its_date(template: str, tokenizer: Any) -> str:
    """Replace the current date in a template by the tokenizer's stored date.

    transformers converts arguments to plain data, so another clock cannot be passed to a template.
    A macro at its beginning can replace the clock, whatever way a format comes to it.
    """
    kept = tokenizer.init_kwargs.get(_DATE)
    if kept is None or _CLOCK not in template:
        return template
    try:
        day = datetime.fromisoformat(kept)
    except (TypeError, ValueError) as error:
        raise InputError(
            "the date that the tokenizer keeps is not a date",
            field=_DATE,
            value=kept,
            remedy="Correct it in tokenizer_config.json, such as 2026-01-31, or remove it.",
        ) from error
    steps = "".join(
        f" | replace({json.dumps(code)}, {json.dumps(day.strftime(code), ensure_ascii=False)})"
        for code in _DIRECTIVES
    )
    # The line break belongs to the block, as transformers trims blocks.
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{steps} }}}}{{%- endmacro %}}\n{template}"
