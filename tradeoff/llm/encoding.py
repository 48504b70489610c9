"""Text and conversations to token ids: special tokens as TRL 1.16 has them, and what is required.

Plain text gets the special tokens that the tokenizer adds by itself, such as BOS. The chat template
writes its own, so none are added to what it renders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from jinja2 import TemplateError

from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text
from tradeoff.errors import InputError

HubTokenizer = Any
"""A `transformers.PreTrainedTokenizerBase`."""
Row = SftRow | PreferenceRow
# A batch of encodings takes some 100 bytes a token, so few are alive at a time.
_ROWS_AT_ONCE = 1000


def prompt_ids(rows: Sequence[Row], tokenizer: HubTokenizer) -> list[Int[np.ndarray, " _"]]:
    """The tokens from which to generate a response to each row, whole.

    Plain prompts are tokenised as they are, conversations with the generation prompt of the chat
    template.

    Raises
    ------
    InputError
        If a row has no prompt, or the chat template is missing or refuses a row.
    """
    if any(not isinstance(row.prompt, str) for row in rows):
        require_template(tokenizer)
    prompts = encode_prompts(rows, tokenizer, None)
    for place, ids in enumerate(prompts):
        if not len(ids):
            remedy = "Leave out rows that are documents."
            raise row_error(rows, place, "there is no prompt to respond to", remedy, field="prompt")
    return prompts


def check_tokenizer(tokenizer: HubTokenizer, vocabulary: int, conversational: bool) -> None:
    """Check that a tokenizer fits a model and the rows.

    Parameters
    ----------
    vocabulary
        Rows of the embedding of the model; more than the tokenizer has tokens is fine.
    conversational
        Whether some row is a conversation.

    Raises
    ------
    InputError
        If there is no end token, a token that the embedding lacks, or no chat template when one is
        needed.
    """
    require_end(tokenizer)
    if conversational:
        require_template(tokenizer)
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocabulary:
        raise InputError(
            f"the tokenizer has ids up to {largest}, beyond the embedding of the model",
            field="vocabulary",
            value=vocabulary,
            remedy="Use the tokenizer of the model, or call "
            f"model.resize_token_embeddings({largest + 1}) first.",
        )


def require_end(tokenizer: HubTokenizer) -> str:
    """The end token, or an `InputError`."""
    end = tokenizer.eos_token
    if end is None or end not in tokenizer.get_vocab():
        raise InputError(
            "the tokenizer has no end token, so no response would end",
            field="eos_token",
            value=end,
            remedy="Set tokenizer.eos_token to a token of its vocabulary.",
        )
    return str(end)


def require_template(tokenizer: HubTokenizer) -> None:
    """An `InputError` if conversations cannot be rendered."""
    try:
        tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(
            "some rows are conversations, but the tokenizer has no chat template",
            field="chat_template",
            remedy="Set tokenizer.chat_template, use the tokenizer of a chat model, or give rows "
            "of plain text.",
        ) from error


def encode_prompts(
    rows: Sequence[Row], tokenizer: HubTokenizer, max_length: int | None
) -> list[Int[np.ndarray, " _"]]:
    """Token ids of the prompt of each row, ready to be answered; as `encode_wholes` else."""
    texts = [
        row.prompt
        if isinstance(row.prompt, str)
        else _render(rows, place, row.prompt, tokenizer, generation_prompt=True)
        for place, row in enumerate(rows)
    ]
    return _encode(rows, texts, tokenizer, max_length)


def encode_wholes(
    rows: Sequence[Row], field: str, tokenizer: HubTokenizer, max_length: int
) -> list[Int[np.ndarray, " _"]]:
    """Token ids of prompt and completion of each row, at most one more than `max_length`.

    Parameters
    ----------
    field
        The completion: ``"completion"``, ``"chosen"`` or ``"rejected"``.
    """
    end = require_end(tokenizer)
    texts = []
    for place, row in enumerate(rows):
        prompt: Text = row.prompt
        completion: Text = getattr(row, field)
        if isinstance(prompt, str) and isinstance(completion, str):
            texts.append(prompt + completion + ("" if completion.endswith(end) else end))
        elif isinstance(prompt, str) or isinstance(completion, str):
            remedy = "Make both text or both messages."
            raise row_error(rows, place, "text and messages are mixed", remedy, field=field)
        else:
            texts.append(_render(rows, place, prompt + completion, tokenizer))
    return _encode(rows, texts, tokenizer, max_length)


def _render(
    rows: Sequence[Row],
    place: int,
    turns: tuple[Message, ...],
    tokenizer: HubTokenizer,
    generation_prompt: bool = False,
) -> str:
    if not turns:  # the prompt of a conversation of one turn
        return ""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt
            )
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        problem = f"the chat template refuses the conversation: {error}"
        remedy = "Change its roles or their order, or give the tokenizer another template."
        raise row_error(rows, place, problem, remedy, value=messages) from error


def _encode(
    rows: Sequence[Row], texts: Sequence[str], tokenizer: HubTokenizer, max_length: int | None
) -> list[Int[np.ndarray, " _"]]:
    """Token ids of each row's text; the one beyond `max_length` stays, to tell that more follow."""
    longest = None if max_length is None else max_length + 1
    ids: dict[int, Int[np.ndarray, " _"]] = {}
    for plain in (True, False):
        places = [i for i, row in enumerate(rows) if isinstance(row.prompt, str) is plain]
        for first in range(0, len(places), _ROWS_AT_ONCE):
            some = places[first : first + _ROWS_AT_ONCE]
            found = tokenizer(
                [texts[i] for i in some],
                add_special_tokens=plain,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # texts beyond the model's context are cut later
            )["input_ids"]
            ids |= {
                i: np.array(row[:longest], np.int64) for i, row in zip(some, found, strict=True)
            }
    return [ids[i] for i in range(len(rows))]


def row_error(
    rows: Sequence[object], place: int, problem: str, remedy: str, **where: Any
) -> InputError:
    """An error at a row, counted from 1 among the usable rows of its source."""
    source = getattr(rows, "source", None)
    return InputError(problem, remedy=remedy, file=source, row=place + 1, **where)
