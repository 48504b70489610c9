"""The layouts of data rows, and how each becomes a demonstration or a pair.

The how-to *Use your own data* shows all of them. In every layout a null counts as absent. Texts
become messages if another field of the row has messages. A prompt that the responses repeat is
removed from them. The last message is the assistant's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tradeoff.data._fields import (
    LABELS,
    extras,
    instruction,
    label,
    label_column,
    margin,
    winner,
    with_system,
)
from tradeoff.data._prompts import end_of_prompt, separate_turns, split_dialogue
from tradeoff.data._turns import read_messages, read_text, same, shared
from tradeoff.data.record import Record
from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text
from tradeoff.errors import InputError

_SIDES = ("chosen", "rejected")
_CANDIDATES = ("response_a", "response_b")
_DECIDED = (*_CANDIDATES, "winner")
_BOTH = ("instruction", "input", "context", "system", "tools", "chat_template_kwargs")
SFT_COLUMNS = frozenset(
    [
        *_BOTH,
        "prompt",
        "completion",
        "messages",
        "conversations",
        "text",
        "output",
        "response",
        *LABELS,
    ]
)
"""Every column that is read for demonstrations."""
PREFERENCE_COLUMNS = frozenset(
    [
        *_SIDES,
        *_DECIDED,
        *_BOTH,
        "prompt",
        "conversations",
        "score_chosen",
        "score_rejected",
        "margin",
    ]
)
"""Every column that is read for preference pairs."""
_OF_MESSAGES = ("parent_id", "message_id", "message_tree_id", "conversation_id")
"""Columns beside ``role`` in tables that have one message a row, such as those of OpenAssistant."""
EARLIER = 'rows with earlier turns of the assistant, which carry loss only with turns = "all" '
EARLIER += "(--set train.turns=all)"
"""Note on rows of which a training on last turns leaves something out."""
_WITHIN = (
    "rows whose responses hold turns of others, which carry loss, too (end the prompt after them)"
)
_UNPAIRED = "the row has a label, so it is unpaired preference data"


def sft_row(record: Record) -> SftRow:
    """Check a row of any SFT layout.

    Raises
    ------
    InputError
        If the row fits no layout, a field of it cannot be used, or it has a label.
    """
    known = label(record)
    if known is not None:
        remedy = (
            "Read it as preferences, paired up by prompt, or take the desired responses only: "
            "use_labels=True, --use-labels."
        )
        raise record.error(_UNPAIRED, remedy, field=label_column(record), value=known)
    return demonstration(record)


def demonstration(record: Record) -> SftRow:
    """As `sft_row`, but the label is ignored."""
    return _SFT[record.layout(_SFT)](record)


def preference_row(record: Record) -> PreferenceRow:
    """Check a row of any preference layout; errors are as for `sft_row`."""
    if not any(record.has(name) for name in _SIDES) and (known := label(record)) is not None:
        remedy = "Pair the responses up by prompt: use_labels=True, --use-labels."
        raise record.error(_UNPAIRED, remedy, field=label_column(record), value=known)
    row = _PREFERENCE[record.layout(_PREFERENCE, telling=(*_SIDES, *_DECIDED))](record)
    scored = margin(record)
    if scored is None:
        return row
    if scored < 0:
        record.notes["pairs whose chosen response has the lower score"] += 1
    return replace(row, margin=scored)


# ---------------------------------------------------------------------- layouts of demonstrations


def _completed(record: Record) -> SftRow:
    prompt, completion = read_text(record, "prompt"), read_text(record, "completion")
    return _sft(record, *_normalised(record, prompt, {"completion": completion}))


def _conversation(record: Record) -> SftRow:
    """Read ``messages`` that hold the prompt, or that begin after it."""
    names = ("messages", "conversations")
    there = [name for name in names if record.has(name)]
    name = (there or [name for name in names if name in record.fields])[0]
    turns = read_messages(record, name)
    prompt = read_text(record, "prompt") if record.filled("prompt") else ()
    before = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if before:
        turns = _behind(record, before, turns)
    return _last_turn(record, name, turns)


def _last_turn(record: Record, name: str, turns: tuple[Message, ...]) -> SftRow:
    """Make a demonstration of the last turn of a conversation."""
    turns = with_system(record, _weighed(record, name, turns))
    _check_turns(record, {name: turns[-1:]})
    if any(turn.role == "assistant" and turn.trained_on for turn in turns[:-1]):
        record.notes[EARLIER] += 1
    return _sft(record, turns[:-1], (turns[-1:],))


def _weighed(record: Record, name: str, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """End a conversation with the last turn of the assistant that its weight lets train on."""
    spoken = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    wanted = [i for i in spoken if turns[i].trained_on]
    if len(wanted) == len(spoken):
        return turns
    if not wanted:
        remedy = "Remove the row, or give a turn of the assistant a weight of 1."
        raise record.error("all turns of the assistant have weight 0", remedy, field=name)
    record.notes["rows with turns of weight 0, which are not trained on"] += 1
    return turns[: wanted[-1] + 1] if spoken[-1] == len(turns) - 1 else turns


def _behind(
    record: Record, before: tuple[Message, ...], turns: tuple[Message, ...]
) -> tuple[Message, ...]:
    """Join a prompt and messages that may repeat it, whole or in part."""
    if end := end_of_prompt(before, turns):
        return turns if end >= len(before) else before + turns[end:]
    if (before[-1].role, turns[0].role) in (("user", "assistant"), ("system", "user")):
        return before + turns
    if not any(same(turn, other) for turn in before for other in turns):
        record.used.discard("prompt")  # a different text, so it is reported as ignored
    return turns


def _instructed(record: Record) -> SftRow:
    """Read Alpaca and Dolly; a rendered ``text`` that ends in the response gives the prompt."""
    name = "output" if record.has("output") else "response"
    output = read_text(record, name)
    prompt: Text = instruction(record)
    rendered = record.fields.get("text") if record.has("text") else None
    if isinstance(rendered, str) and isinstance(output, str) and not record.has("system"):
        head, found, tail = rendered.rpartition(output)
        if found and head.strip() and not tail.strip():
            record.used.add("text")
            prompt = head
    return _sft(record, *_normalised(record, prompt, {name: output}))


def _document(record: Record) -> SftRow:
    text = read_text(record, "text")
    if isinstance(text, str):
        if "role" in record.names and any(name in record.names for name in _OF_MESSAGES):
            problem = "the row is one message of a conversation, not a document"
            remedy = "Join the messages of each conversation, in a column messages."
            raise record.error(problem, remedy, field="text", value=text)
        return _sft(record, "", (text,))
    return _last_turn(record, "text", text)


def _sft(record: Record, prompt: Text, completions: tuple[Text, ...]) -> SftRow:
    more = extras(record, prompt)
    return SftRow(prompt, completions[0], extras=more, origin=record.origin)


# ---------------------------------------------------------------------- layouts of pairs


def _compared(record: Record) -> PreferenceRow:
    if record.has("instruction"):
        prompt: Text = instruction(record)
    elif record.has("conversations"):
        prompt = read_messages(record, "conversations")
    else:
        prompt = read_text(record, "prompt")
    return _pair(record, *_normalised(record, prompt, _responses(record)))


def _whole_conversations(record: Record) -> PreferenceRow:
    """Read two whole conversations; the prompt is their common beginning."""
    sides = _responses(record)
    chosen, rejected = sides["chosen"], sides["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _pair(record, *split_dialogue(record, chosen, rejected))
    if isinstance(chosen, str) or isinstance(rejected, str):
        kinds = {name: type(text).__name__ for name, text in sides.items()}
        remedy = "Make both text or both messages, and add the prompt if both are text."
        raise record.error("text and messages are mixed", remedy, value=kinds)
    shorter = min(len(chosen), len(rejected))
    count = shared(chosen, rejected)
    if not 0 < count < shorter:
        problem = (
            "one conversation is the beginning of the other" if count else "no message is shared"
        )
        remedy = "Begin both with the messages of the prompt, then give each its own response."
        raise record.error(problem, remedy, field="chosen", value=chosen)
    prompt = with_system(record, chosen[:count])
    _check_turns(record, {"chosen": chosen[count:], "rejected": rejected[count:]})
    return _pair(record, prompt, (chosen[count:], rejected[count:]))


def _decided(record: Record) -> PreferenceRow:
    """Read two responses and the column that names the better one."""
    better = winner(record, _CANDIDATES)
    worse = next(name for name in _CANDIDATES if name != better)
    for name in _CANDIDATES:
        record.require(name)
    fields = {name: value for name, value in record.fields.items() if name not in _DECIDED}
    fields |= {"chosen": record.fields[better], "rejected": record.fields[worse]}
    sides = replace(record, fields=fields)
    try:
        return _PREFERENCE[sides.layout(_PREFERENCE)](sides)
    except InputError as error:
        names = {"chosen": better, "rejected": worse}
        raise error.at(field=names.get(error.field or "")) from error


def _responses(record: Record) -> dict[str, Text]:
    """Read both responses, which must differ."""
    sides = {name: read_text(record, name) for name in _SIDES}
    if sides["chosen"] == sides["rejected"]:
        remedy = "Remove the row: it states no preference."
        problem = "chosen and rejected are the same"
        raise record.error(problem, remedy, field="chosen", value=sides["chosen"])
    return sides


def _pair(record: Record, prompt: Text, sides: tuple[Text, ...]) -> PreferenceRow:
    if sides[0] == sides[1]:
        remedy = "Remove the row: it states no preference."
        problem = "chosen and rejected are the same after the prompt"
        raise record.error(problem, remedy, field="chosen", value=sides[0])
    more = extras(record, prompt)
    return PreferenceRow(prompt, *sides, extras=more, origin=record.origin)


_SFT: dict[tuple[str, ...], Callable[[Record], SftRow]] = {
    ("prompt", "completion"): _completed,
    ("messages",): _conversation,
    ("conversations",): _conversation,
    ("instruction", "output"): _instructed,
    ("instruction", "response"): _instructed,
    ("text",): _document,
}
_PREFERENCE: dict[tuple[str, ...], Callable[[Record], PreferenceRow]] = {
    ("prompt", "chosen", "rejected"): _compared,
    ("instruction", "chosen", "rejected"): _compared,
    ("conversations", "chosen", "rejected"): _compared,
    ("chosen", "rejected"): _whole_conversations,
    ("prompt", *_DECIDED): _decided,
    ("instruction", *_DECIDED): _decided,
    ("conversations", *_DECIDED): _decided,
    _DECIDED: _decided,
}


# ---------------------------------------------------------------------- what layouts share


def _normalised(
    record: Record, prompt: Text, sides: dict[str, Text]
) -> tuple[Text, tuple[Text, ...]]:
    """Prompt and responses in one form, text or messages, with no prompt in the responses."""
    found = (prompt, *sides.values())
    if all(isinstance(text, str) for text in found) and not record.has("system"):
        return prompt, tuple(sides.values())
    if any(isinstance(text, str) for text in found):
        record.notes["rows whose texts became messages, as other fields are"] += 1
    turned = {name: _as_turns("assistant", text) for name, text in sides.items()}
    before, rest = separate_turns(record, _as_turns("user", prompt), turned)
    _check_turns(record, dict(zip(sides, rest, strict=True)))
    return with_system(record, before), rest


def _as_turns(role: str, text: Text) -> tuple[Message, ...]:
    return (Message(role, text),) if isinstance(text, str) else text


def _check_turns(record: Record, sides: dict[str, tuple[Message, ...]]) -> None:
    """Check that each response begins after the user's turn and ends with the assistant's."""
    for name, turns in sides.items():
        if not turns or turns[-1].role != "assistant":
            problem = "the conversation does not end with a message of the assistant"
            remedy = 'Give a list of messages whose last one has the role "assistant".'
            raise record.error(problem, remedy, field=name, value=turns)
        if turns[0].role in ("user", "system", "developer"):
            problem = f"the response begins with a message of the {turns[0].role}"
            remedy = "Put what comes before the answer into the prompt."
            raise record.error(problem, remedy, field=name, value=turns)
    if any(turn.role != "assistant" for turns in sides.values() for turn in turns):
        record.notes[_WITHIN] += 1
