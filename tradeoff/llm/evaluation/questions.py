"""Multiple-choice questions as prompts with continuations, with or without worked examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from tradeoff.data.choices import ChoiceRow
from tradeoff.errors import InputError
from tradeoff.llm._encoding import row_error
from tradeoff.llm._turns import rendered

Style = Literal["letters", "text"]


@dataclass(frozen=True)
class Posed:
    """A question as text.

    Attributes
    ----------
    prompt
        Examples and question, up to the answer.
    continuations
        Possible answers, one for each choice; they begin with a blank.
    """

    prompt: str
    continuations: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Options:
    """A question as tokens: the sequences share their first `start` tokens, the prompt."""

    sequences: tuple[Int[np.ndarray, " _"], ...]
    start: int

    @property
    def size(self) -> int:
        """Number of tokens with one copy of the prompt."""
        return self.start + sum(len(ids) - self.start for ids in self.sequences)


def pose(
    rows: Sequence[ChoiceRow],
    *,
    style: Style | None = None,
    shots: int = 0,
    examples: Sequence[ChoiceRow] | None = None,
) -> tuple[Posed, ...]:
    """Write each question as text, after `shots` examples of its subject with their answers.

    Parameters
    ----------
    style
        "letters" lists the choices and asks for a letter, as MMLU does. "text" asks for the words
        of the choice, as ARC does. The default is "letters" for rows with a subject, otherwise
        "text".
    shots
        Number of worked examples before each question.
    examples
        Rows for worked examples. By default they are the rows of the same subject that follow the
        question; after the last row comes the first.

    Raises
    ------
    InputError
        If a subject has too few examples, or a question has more choices than there are letters.
    """
    if shots < 0:
        remedy = "Give 0 for none."
        raise InputError("out of range", field="shots", value=shots, remedy=remedy)
    pools: dict[str, list[ChoiceRow]] = defaultdict(list)
    for row in rows if examples is None else examples:
        pools[row.subject].append(row)
    posed = []
    for place, row in enumerate(rows):
        how = style or ("letters" if row.subject else "text")
        if how == "letters" and len(row.choices) > len(ascii_uppercase):
            problem = "there are more choices than letters"
            remedy = "Use the style 'text'."
            raise row_error(rows, place, problem, remedy, field="choices", value=len(row.choices))
        shown = _examples(row, pools[row.subject], shots)
        if len(shown) < shots:
            problem = f"only {len(shown)} examples of its subject differ from this question"
            remedy = f"Ask for fewer shots than {shots}, or give a file with more examples."
            raise row_error(rows, place, problem, remedy, field="subject", value=row.subject)
        posed.append(_write(row, shown, how))
    return tuple(posed)


def tokenise(
    posed: Sequence[Posed], tokenizer: Any, max_length: int, *, chat: bool = False
) -> tuple[tuple[Options, ...], int]:
    """Tokenise each question; the prompt ends where the tokens of its continuations differ from it.

    Parameters
    ----------
    chat
        Pose the question through the chat template, as a turn of the user.

    Returns
    -------
    tuple of Options
        One for each question.
    int
        Number of questions whose prompt or choices were cut to `max_length`.
    """
    if chat:
        posed = [_in_turns(item, tokenizer) for item in posed]
    texts = [text for item in posed for text in (item.prompt, *_wholes(item))]
    found = tokenizer(
        texts, add_special_tokens=not chat, return_attention_mask=False, verbose=False
    )["input_ids"]
    ids = iter(np.array(row, np.int64) for row in found)
    items, shortened = [], 0
    for item in posed:
        prompt = next(ids)
        wholes = [next(ids) for _ in item.continuations]
        start = max(1, min(_agreeing(prompt, whole) for whole in wholes))
        fitted = _fit(wholes, start, max_length)
        shortened += fitted.size < Options(tuple(wholes), start).size
        items.append(fitted)
    return tuple(items), shortened


def _in_turns(item: Posed, tokenizer: Any) -> Posed:
    """The question as a turn of the user, and each continuation as the turn that answers it."""
    asked = [{"role": "user", "content": item.prompt}]
    prompt = rendered(tokenizer, asked, generation_prompt=True)
    return Posed(prompt, tuple(text.lstrip() for text in item.continuations))


def _examples(row: ChoiceRow, pool: list[ChoiceRow], shots: int) -> list[ChoiceRow]:
    if not shots:
        return []
    after = pool.index(row) + 1 if row in pool else 0
    others = [other for other in pool[after:] + pool[:after] if other.question != row.question]
    return others[:shots]


def _write(row: ChoiceRow, shown: Sequence[ChoiceRow], style: Style) -> Posed:
    blocks = [_ask(item, style) + _answers(item, style)[item.answer] for item in shown]
    blocks.append(_ask(row, style))
    if style == "letters" and row.subject:
        # The benchmark itself begins with this sentence.
        about = row.subject.replace("_", " ")
        blocks.insert(
            0, f"The following are multiple choice questions (with answers) about {about}."
        )
    return Posed("\n\n".join(blocks), _answers(row, style))


def _ask(row: ChoiceRow, style: Style) -> str:
    question = row.question.strip()
    if style == "text":
        return f"Question: {question}\nAnswer:"
    letters = zip(ascii_uppercase, row.choices, strict=False)
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in letters)
    return f"{question}\n{listed}\nAnswer:"


def _answers(row: ChoiceRow, style: Style) -> tuple[str, ...]:
    texts = row.choices if style == "text" else ascii_uppercase[: len(row.choices)]
    return tuple(f" {text.strip()}" for text in texts)


def _wholes(item: Posed) -> list[str]:
    return [item.prompt + continuation for continuation in item.continuations]


def _agreeing(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " m"]) -> int:
    """Number of leading tokens that two sequences share, without the last of the second."""
    shorter = min(len(first), len(second) - 1)
    differing = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _fit(wholes: Sequence[Int[np.ndarray, " _"]], start: int, max_length: int) -> Options:
    """Cut the prompt on the left, down to one token, then the choices on the right."""
    longest = max(len(ids) for ids in wholes)
    cut = min(max(0, longest - max_length), start - 1)
    return Options(tuple(ids[cut:][:max_length] for ids in wholes), start - cut)
