"""Separation of prompts from responses that repeat them or hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tradeoff.data._turns import same, shared
from tradeoff.data.record import Record
from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.data.spool import held_like
from tradeoff.errors import InputError

R = TypeVar("R", SftRow, PreferenceRow)

_ANSWER = "\n\nAssistant:"
_QUESTION = "\n\nHuman:"
_SHARED = "give lists of messages, which can share it."
_WORDS = 4
"""Least number of words in a repeated prompt; fewer, such as "Hello", can be there by chance."""
_REPEATED = "responses whose repeated prompt was removed"


def separate_turns(
    record: Record, prompt: tuple[Message, ...], sides: dict[str, tuple[Message, ...]]
) -> tuple[tuple[Message, ...], tuple[tuple[Message, ...], ...]]:
    """Split prompt and responses, where each response may repeat the prompt before it answers.

    Parameters
    ----------
    sides
        Responses by their column.

    Returns
    -------
    prompt, responses
        Turns after a repeated prompt belong to the prompt as long as all responses share them. In a
        single response these are all turns but the last.

    Raises
    ------
    InputError
        If a response holds nothing but the prompt, or the responses repeat different prompts.
    """
    ends = {name: end_of_prompt(prompt, turns) for name, turns in sides.items()}
    if not any(ends.values()):
        return prompt, tuple(sides.values())
    record.notes[_REPEATED] += 1
    for name, turns in sides.items():
        if ends[name] >= len(turns):
            problem, remedy = "the response is only the prompt", "Add what answers it."
            raise record.error(problem, remedy, field=name, value=turns)
    first, *others = sides.values()
    end = ends[next(iter(sides))]
    if len(set(ends.values())) > 1:  # one holds the whole conversation, the other the response
        if max(ends.values()) > len(prompt):
            problem = "the responses repeat different prompts"
            raise record.error(problem, "Begin both with the same messages.", value=ends)
        return prompt, tuple(turns[ends[name] :] for name, turns in sides.items())
    known = min([shared(first, other) for other in others], default=len(first) - 1)
    known = max(end, min(known, *(len(turns) - 1 for turns in sides.values())))
    before = first[:end] if end >= len(prompt) else prompt
    return before + first[end:known], tuple(turns[known:] for turns in sides.values())


def responses_alone(
    rows: Sequence[R],
) -> tuple[Sequence[R], Counter[str], list[InputError]]:
    """Remove the prompt from responses of plain text, if most rows repeat it.

    One row does not show whether "Hello" begins the response or is the repeated prompt. So rows are
    changed only if the responses of at least half of them begin with a whole prompt of several
    words.

    Returns
    -------
    Sequence of rows
        The rows that are left, on disk if the given rows are on disk.
    Counter
        What was changed or kept, with the number of rows.
    list of InputError
        The errors of the responses that hold nothing but the prompt.
    """
    plain = repeating = 0
    for row in rows:
        if isinstance(row.prompt, str) and row.prompt.strip():
            plain += 1
            repeating += _repeats(row)
    if not repeating:
        return rows, Counter(), []
    if 2 * repeating < plain:
        return rows, Counter({"responses that begin with their prompt, kept": repeating}), []
    errors: list[InputError] = []
    notes: Counter[str] = Counter()
    return held_like(rows, _alone(rows, notes, errors)), notes, errors


def _alone(rows: Sequence[R], notes: Counter[str], errors: list[InputError]) -> Iterator[R]:
    """Remove the prompts that responses repeat."""
    for row in rows:
        if not _begins(row):
            yield row
            continue
        rest = {name: getattr(row, name)[len(row.prompt) :] for name in _responses(row)}
        if empty := [name for name, text in rest.items() if not text.strip()]:
            errors.append(_only_the_prompt(row, empty[0]))
            continue
        notes[_REPEATED] += 1
        yield replace(row, **rest)


def _only_the_prompt(row: SftRow | PreferenceRow, name: str) -> InputError:
    file, place = row.origin or (None, None)
    return InputError(
        "the response is only the prompt",
        file=file,
        row=place,
        field=name,
        value=getattr(row, name),
        remedy="Add what answers it.",
    )


def _responses(row: SftRow | PreferenceRow) -> tuple[str, ...]:
    return ("completion",) if isinstance(row, SftRow) else ("chosen", "rejected")


def _begins(row: SftRow | PreferenceRow) -> bool:
    """Whether every response of plain text begins with the prompt, as whole words."""
    prompt = row.prompt
    if not isinstance(prompt, str) or not prompt.strip():
        return False
    for name in _responses(row):
        text = getattr(row, name)
        if not isinstance(text, str) or not text.startswith(prompt):
            return False
        if prompt[-1].isalnum() and text[len(prompt) : len(prompt) + 1].isalnum():
            return False
    return True


def _repeats(row: SftRow | PreferenceRow) -> bool:
    """Whether every response begins with a prompt that is too long to be there by chance."""
    if not _begins(row):
        return False
    prompt = str(row.prompt).strip()
    return prompt.endswith(":") or "\n" in prompt or len(prompt.split()) >= _WORDS


def end_of_prompt(prompt: tuple[Message, ...], turns: tuple[Message, ...]) -> int:
    """Number of leading messages of a response that repeat the prompt, or the end of it."""
    if not prompt:
        return 0
    for lead in range(len(turns)):
        if all(map(same, prompt, turns[lead:])) and lead + len(prompt) <= len(turns):
            return lead + len(prompt)
        if turns[lead].role != "system":
            break
    for left_out in range(1, len(prompt)):
        kept = prompt[left_out:]
        if kept[0].role == "user" and len(kept) <= len(turns) and all(map(same, kept, turns)):
            return len(kept)
    return 0


def split_dialogue(record: Record, chosen: str, rejected: str) -> tuple[str, tuple[str, str]]:
    r"""Split dialogues stored as text, as in HH, at the last shared ``\n\nAssistant:``.

    Raises
    ------
    InputError
        If there is no such place, or the dialogues differ before the last response.
    """
    pairs = enumerate(zip(chosen, rejected, strict=False))
    length = next((i for i, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))
    border = chosen[:length].rfind(_ANSWER)
    if border < 0 and record.has("prompt"):
        remedy = f"Fill it, remove the row, or {_SHARED}"
        raise record.error("the field is blank", remedy, field="prompt")
    if border < 0:
        renaming = record.renaming(("prompt", "chosen", "rejected"))
        remedy = f"Add a column with the prompt, or {renaming or _SHARED}"
        names = list(record.names)
        raise record.error("the field is missing", remedy, field="prompt", value=names)
    border += len(_ANSWER)
    sides = {"chosen": chosen[border:], "rejected": rejected[border:]}
    for name, text in sides.items():
        record.string(name, text)
        if _QUESTION in text:
            problem = "the dialogues differ before the last response"
            remedy = "Give both the same turns up to their last response, or remove the row."
            raise record.error(problem, remedy, field=name, value=text)
    return chosen[:border], (sides["chosen"], sides["rejected"])
