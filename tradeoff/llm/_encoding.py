"""Encoding of texts and conversations to token ids, with the special tokens of TRL 1.16.

Plain text gets the special tokens that the tokenizer adds by itself, such as BOS, unless it already
begins with BOS. The chat template writes special tokens itself, so none are added to its output.
Some tokenizers add an end token: it is removed from prompts, and a whole sequence ends in only one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text
from tradeoff.errors import InputError
from tradeoff.llm._turns import rendered

HubTokenizer = Any
"""A `transformers.PreTrainedTokenizerBase`."""
Row = SftRow | PreferenceRow
R = TypeVar("R", SftRow, PreferenceRow)
Refused = dict[int, InputError]
"""Errors of the rows that cannot be encoded, by index among the rows given."""


class Encoded(NamedTuple):
    """Texts of rows and their token ids."""

    texts: list[str]
    ids: list[Int[np.ndarray, " _"]]


# A batch of encodings takes about 100 bytes a token, so few rows are encoded at a time.
_ROWS_AT_ONCE = 1000


class Slice(Sequence[R], Generic[R]):
    """Consecutive rows of a larger set; errors give their index in the larger set.

    Parameters
    ----------
    rows
        The larger set.
    before
        Number of its rows before these.
    """

    def __init__(self, rows: Sequence[R], before: int) -> None:
        self.source, self.before = getattr(rows, "source", None), before
        self._rows: tuple[R, ...] = tuple(rows[before : before + _ROWS_AT_ONCE])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]


def in_parts(rows: Sequence[R]) -> Iterator[Slice[R]]:
    """Yield the rows in order, in parts that are encoded together."""
    for before in range(0, len(rows), _ROWS_AT_ONCE):
        yield Slice(rows, before)


def prompt_ids(rows: Sequence[Row], tokenizer: HubTokenizer) -> list[Int[np.ndarray, " _"]]:
    """Tokens of the whole prompt of each row, for generation.

    Plain prompts are tokenised unchanged, conversations with the generation prompt of the chat
    template.

    Raises
    ------
    InputError
        If a row has no prompt, or the chat template is missing or rejects a row.
    """
    if any(not isinstance(row.prompt, str) for row in rows):
        require_template(tokenizer)
    prompts = encode_prompts(rows, tokenizer, None).ids
    for place, ids in enumerate(prompts):
        if not len(ids):
            remedy = "Leave out rows that are documents."
            raise row_error(rows, place, "there is no prompt to respond to", remedy, field="prompt")
    return prompts


def admitted(rows: Sequence[R], tokenizer: HubTokenizer) -> Sequence[R]:
    """Leave out rows that the template or tokenizer rejects, if bad rows are to be skipped.

    Rejected rows of a set that was read with ``skip_bad`` are added to its `dropped`.

    Raises
    ------
    InputError
        If no row is left.
    """
    if not getattr(rows, "skip_bad", False):
        return rows
    if any(not isinstance(row.prompt, str) for row in rows):
        require_template(tokenizer)
    refused: Refused = {}
    encode_prompts(rows, tokenizer, 1, refused)
    for field in ("completion",) if isinstance(rows[0], SftRow) else ("chosen", "rejected"):
        encode_wholes(rows, field, tokenizer, 1, refused)
    if len(refused) == len(rows):
        raise refused[0]
    return _without(rows, refused)


def _without(rows: Any, refused: Refused) -> Any:
    """`Rows` without some rows, whose errors are added to its `dropped`."""
    kept = tuple(row for place, row in enumerate(rows) if place not in refused)
    errors = (refused[place] for place in sorted(refused))
    return replace(rows, rows=kept, dropped=(*rows.dropped, *errors))


def check_tokenizer(tokenizer: HubTokenizer, vocabulary: int, conversational: bool) -> None:
    """Check that a tokenizer fits a model and the rows.

    Parameters
    ----------
    vocabulary
        Number of rows of the model's embedding, which may exceed the number of tokens.
    conversational
        Whether some row is a conversation.

    Raises
    ------
    InputError
        If there is no end token, if a token has no row in the embedding, or if a needed chat
        template is missing.
    """
    require_end(tokenizer)
    if conversational:
        require_template(tokenizer)
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if largest >= vocabulary:
        raise InputError(
            f"the tokenizer has ids up to {largest}, that of {token!r}, beyond the embedding of "
            "the model",
            field="vocabulary",
            value=vocabulary,
            remedy="Use the tokenizer of the model, or call "
            f"model.resize_token_embeddings({largest + 1}) first.",
        )


def require_end(tokenizer: HubTokenizer) -> str:
    """Get the end token, or raise an `InputError`."""
    end = tokenizer.eos_token
    if end is None or not _has(tokenizer, end):
        raise InputError(
            "the tokenizer has no end token, so no response would end",
            field="eos_token",
            value=end,
            remedy="Name a token of its vocabulary: --eos-token, or tokenizer.eos_token.",
        )
    return str(end)


def _has(tokenizer: HubTokenizer, token: str) -> bool:
    """Whether the vocabulary has a token; a dictionary of the vocabulary takes 40 ms to make."""
    number = tokenizer.convert_tokens_to_ids(token)
    return number is not None and tokenizer.convert_ids_to_tokens(number) == token


def require_template(tokenizer: HubTokenizer) -> None:
    """Raise an `InputError` if conversations cannot be rendered."""
    found = tokenizer.chat_template
    more: dict[str, Any] = {}
    if isinstance(found, dict) and "default" not in found:
        problem = "the tokenizer has named chat templates, but no default"
        more["value"] = [*found]
        remedy = 'Give the file of one (--chat-template), or name one of them "default".'
    elif not found or not str(found).strip():
        problem = "some rows are conversations, but the tokenizer has no chat template"
        remedy = "Give the file of one (--chat-template), set tokenizer.chat_template, use the "
        remedy += "tokenizer of a chat model, or give rows of plain text."
    else:
        return
    raise InputError(problem, field="chat_template", remedy=remedy, **more)


def encode_prompts(
    rows: Sequence[Row],
    tokenizer: HubTokenizer,
    max_length: int | None,
    refused: Refused | None = None,
) -> Encoded:
    """Text and token ids of each row's generation prompt; otherwise as `encode_wholes`."""

    def text(place: int) -> str:
        prompt: Text = rows[place].prompt
        if isinstance(prompt, str):
            return prompt
        return _render(rows, place, prompt, tokenizer, generation_prompt=True)

    return _encode(rows, _each(rows, text, refused), tokenizer, max_length, refused)


def encode_wholes(
    rows: Sequence[Row],
    field: str,
    tokenizer: HubTokenizer,
    max_length: int,
    refused: Refused | None = None,
) -> Encoded:
    """Text and token ids of prompt and completion of each row, with up to `max_length` + 1 ids.

    Parameters
    ----------
    field
        The completion: ``"completion"``, ``"chosen"`` or ``"rejected"``.
    refused
        Receives the errors of the rows that cannot be encoded, by index; without it the first error
        is raised. The ids of such rows are empty.
    """
    end = require_end(tokenizer)

    def text(place: int) -> str:
        prompt: Text = rows[place].prompt
        completion: Text = getattr(rows[place], field)
        if isinstance(prompt, str) and isinstance(completion, str):
            return prompt + completion + ("" if completion.rstrip().endswith(end) else end)
        if isinstance(prompt, str) or isinstance(completion, str):
            remedy = "Make both text or both messages."
            raise row_error(rows, place, "text and messages are mixed", remedy, field=field)
        return _render(rows, place, prompt + completion, tokenizer)

    return _encode(rows, _each(rows, text, refused), tokenizer, max_length, refused)


def _each(rows: Sequence[Row], text: Callable[[int], str], refused: Refused | None) -> list[str]:
    """The text of each row; empty for a rejected row."""
    texts = []
    for place in range(len(rows)):
        try:
            texts.append("" if refused and place in refused else text(place))
        except InputError as error:
            if refused is None:
                raise
            refused[place] = error
            texts.append("")
    return texts


def _render(
    rows: Sequence[Row],
    place: int,
    turns: tuple[Message, ...],
    tokenizer: HubTokenizer,
    generation_prompt: bool = False,
) -> str:
    if not turns:  # the prompt of a conversation of one turn
        return ""
    from jinja2 import TemplateSyntaxError  # torch and transformers bring it, the core does not

    messages = [turn.as_dict() for turn in turns]
    arguments = rows[place].template_arguments()
    try:
        return rendered(
            tokenizer, messages, generation_prompt=generation_prompt, arguments=arguments
        )
    except TemplateSyntaxError as error:
        raise InputError(
            f"the chat template is not valid Jinja: line {error.lineno}: {_reason(error)}",
            field="chat_template",
            remedy="Correct it, or give the file of another (--chat-template).",
        ) from error
    except Exception as error:  # a template is a program and can raise any error
        problem = f"the chat template refuses the conversation: {_reason(error)}"
        remedy = "Change its roles or their order, or give the tokenizer another template."
        raise row_error(rows, place, problem, remedy, value=messages) from error


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _encode(
    rows: Sequence[Row],
    texts: Sequence[str],
    tokenizer: HubTokenizer,
    max_length: int | None,
    refused: Refused | None,
) -> Encoded:
    """Token ids of each row's text; one id beyond `max_length` shows that there are more."""
    longest = None if max_length is None else max_length + 1
    ids: dict[int, Int[np.ndarray, " _"]] = {}
    bos = tokenizer.bos_token
    begun = [bool(bos) and text.startswith(bos) for text in texts]
    for plain in (True, False):
        places = [
            i
            for i, row in enumerate(rows)
            if (isinstance(row.prompt, str) and not begun[i]) is plain
        ]
        for first in range(0, len(places), _ROWS_AT_ONCE):
            some = places[first : first + _ROWS_AT_ONCE]
            found = _tokenised(rows, some, texts, tokenizer, plain, refused)
            for i, row in zip(some, found, strict=True):
                ids[i] = np.array(_ended_once(row, texts[i], tokenizer)[:longest], np.int64)
    return Encoded(list(texts), [ids[i] for i in range(len(rows))])


def _ended_once(ids: list[int], text: str, tokenizer: HubTokenizer) -> list[int]:
    """Remove the end token that the tokenizer has added after a text."""
    end, eos = tokenizer.eos_token, tokenizer.eos_token_id
    if eos is None or len(ids) < 2 or ids[-1] != eos:
        return ids
    written = text.endswith(end)
    twice = ids[-2] == eos and not text.endswith(end + end)
    return ids[:-1] if twice or not written else ids


def _tokenised(
    rows: Sequence[Row],
    places: Sequence[int],
    texts: Sequence[str],
    tokenizer: HubTokenizer,
    plain: bool,
    refused: Refused | None,
) -> list[list[int]]:
    """Token ids of some texts; if the tokenizer fails for the batch, one by one."""
    try:
        found = tokenizer(
            [texts[i] for i in places],
            add_special_tokens=plain,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # texts longer than the model's context are cut later
        )
        return list(found["input_ids"])
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of tokenizers is not a subclass of Exception
        if len(places) > 1:
            return [
                ids
                for i in places
                for ids in _tokenised(rows, [i], texts, tokenizer, plain, refused)
            ]
        problem = f"the tokenizer fails at the row: {_reason(error)}"
        found_error = row_error(rows, places[0], problem, "Change or remove the row.")
        if refused is None:
            raise found_error from error
        refused[places[0]] = found_error
        return [[]]


def row_error(
    rows: Sequence[Any], place: int, problem: str, remedy: str, **where: Any
) -> InputError:
    """Make an error at a row, with its source, or else its index among the rows given, from 1."""
    source = getattr(rows, "source", None)
    number = getattr(rows, "before", 0) + place + 1
    file, row = getattr(rows[place], "origin", None) or (source, number)
    return InputError(problem, remedy=remedy, file=file, row=row, **where)
