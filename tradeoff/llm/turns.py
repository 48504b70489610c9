"""What a chat template makes of turns: its headers, what ends a turn, and whether text has them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from tradeoff.data.files import Rows
from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text
from tradeoff.data.spool import held_like
from tradeoff.errors import InputError

_ASKED, _SAID = "Where is it?", "It is here."
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_DATE = "rendered_on"
"""Setting of a tokenizer that keeps the date; it is saved with the tokenizer's other settings."""


@dataclass(frozen=True)
class Turns:
    """How a chat template writes a question and its answer.

    Attributes
    ----------
    headers
        What begins a turn of the user and one of the assistant, without blanks; may be empty.
    end
        Id of the special token that ends the assistant's turn; None if no token does.
    asks
        Whether a generation prompt is more than the turns before it.
    """

    headers: tuple[str, str]
    end: int | None
    asks: bool

    def within(self, text: str) -> bool:
        """Whether a text carries the template already: it holds both headers."""
        known = [header for header in self.headers if header]
        return bool(known) and all(header in text for header in known)


def turns(tokenizer: Any) -> Turns | None:
    """How the chat template of a tokenizer writes turns; None if it has none or refuses them."""
    try:
        tokenizer.get_chat_template()
        question = [{"role": "user", "content": _ASKED}]
        whole = rendered(tokenizer, [*question, {"role": "assistant", "content": _SAID}])
        plain = rendered(tokenizer, question)
        asked = rendered(tokenizer, question, generation_prompt=True)
    except Exception:  # a template is a program, and raises what it likes
        return None
    before, found, rest = whole.partition(_ASKED)
    between, said, tail = rest.rpartition(_SAID)
    if not (found and said):
        return None
    bos = tokenizer.bos_token or ""
    headers = before.removeprefix(bos).strip(), between[len(plain) - len(before) - len(_ASKED) :]
    return Turns((headers[0], headers[1].strip()), _first_special(tokenizer, tail), asked != plain)


def rendered(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    *,
    generation_prompt: bool = False,
    **arguments: Any,
) -> str:
    """A conversation as the chat template writes it, on the date that the tokenizer keeps."""
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
    """Tokens that end a response: EOS, those of the model, and the template's end of a turn."""
    own = getattr(generation_config, "eos_token_id", None)
    found = {int(tokenizer.eos_token_id)}
    found |= set([] if own is None else own if isinstance(own, list) else [own])
    known = turns(tokenizer)
    if known is not None and known.end is not None:
        found.add(known.end)
    return sorted(found)


def keep_date(tokenizer: Any, day: str | None = None) -> str | None:
    """Let a template that writes the date write one and the same from now on.

    Parameters
    ----------
    day
        In ISO form. By default the one that the tokenizer keeps already, else today.

    Returns
    -------
    str or None
        The date; None if the template asks for none.
    """
    template = tokenizer.chat_template
    if "strftime_now" not in str(template):
        return None
    day = day or tokenizer.init_kwargs.get(_DATE) or date.today().isoformat()
    tokenizer.init_kwargs[_DATE] = day
    return day


def as_conversation(prompt: str, response: str) -> tuple[Text, Text]:
    """A plain prompt and its response as a turn of the user and one of the assistant."""
    return (Message("user", prompt.strip()),), (Message("assistant", response.strip()),)


def wrapped(row: Any, known: Turns | None) -> Any:
    """A row of plain text as a conversation.

    Conversations, documents and texts that carry the template already stay as they are.
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
    """Rows of plain text as conversations, see :func:`wrapped`; of `Rows` all else is kept.

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
    """A demonstration for each of the assistant's turns in one, after the turns before it."""
    if isinstance(row.prompt, str) or isinstance(row.completion, str):
        return [row]
    said = (*row.prompt, *row.completion)
    places = [i for i, turn in enumerate(said) if turn.role == "assistant" and i]
    return [replace(row, prompt=said[:i], completion=said[i : i + 1]) for i in places] or [row]


def _first_special(tokenizer: Any, tail: str) -> int | None:
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    return next((int(i) for i in ids if i in special), None)


def _on_its_date(template: str, tokenizer: Any) -> str:
    """The template with the date that the tokenizer keeps in place of today's.

    Formats are texts in every template in use. transformers turns what it is given into plain data,
    so that no other clock can be handed to a template.
    """
    kept = tokenizer.init_kwargs.get(_DATE)
    if kept is None:
        return template
    try:
        day = datetime.fromisoformat(kept)
    except (TypeError, ValueError) as error:
        raise InputError(
            "the date that the tokenizer keeps is none",
            field=_DATE,
            value=kept,
            remedy="Correct it in tokenizer_config.json, such as 2026-01-31, or remove it.",
        ) from error
    return _TODAY.sub(
        lambda found: json.dumps(day.strftime(found[2]), ensure_ascii=False), template
    )
