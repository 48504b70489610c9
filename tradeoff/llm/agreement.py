"""Check of chat templates: compare training sequences with generation prompts, row by row.

Training text and generation prompt are rendered separately. If they disagree, a model is trained on
one format and asked in another: its losses are small, its answers are empty, and nothing fails. A
finding gives the number of such rows, the first of them, and the remedy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.llm._encoding import Encoded, Refused, Row
from tradeoff.llm._turns import Turns, stop_ids, turns

_THINK = (
    *("<think>", "<thinking>", "<reasoning>", "<scratchpad>", "<seed:think>"),
    *("[THINK]", "◁think▷", "<|channel|>analysis<|message|>"),
)
_MARKS = (
    *("<|im_start|>", "[INST]", "<|start_header_id|>", "<start_of_turn>", "<|start|>assistant"),
    *("<|assistant|>", "<|turn_start|>", "<|START_OF_TURN_TOKEN|>"),
)
"""The beginnings of turns in common templates."""
_TRANSCRIPT = (
    *("\n\nAssistant:", "\n\nASSISTANT:", "### Assistant:", "### Response:", "### Output:"),
    *("<|assistant|>", "[/INST]"),
)
"""Ends of prompts that other formats put before a response."""
_SHORT = 24
"""Length below which a text is often part of another one by chance."""
_REASONING = ("reasoning_content", "reasoning", "thinking")
_REASONED = re.compile(
    r"\s*(?:<(?:think|thinking|reasoning|scratchpad|seed:think)>)?(?P<text>.*?)"
    r"</(?:think|thinking|reasoning|scratchpad|seed:think)>",
    re.DOTALL,
)
"""Reasoning at the beginning of a turn, whose first tag may be in the prompt."""
_SHOWN = 40
"""Number of characters shown at either side of an example."""


@dataclass(frozen=True)
class Kind:
    """A kind of disagreement between training and generation."""

    problem: str
    remedy: str


KINDS: Mapping[str, Kind] = {
    "two_bos": Kind(
        "have a BOS token after their first token",
        "Remove the BOS token from the rows, or from the chat template.",
    ),
    "two_eos": Kind(
        "end in two end tokens, so the second is trained on as well",
        "Remove the end token, and blanks behind it, from the ends of the rows; or one of the two "
        "from the chat template.",
    ),
    "no_stop": Kind(
        "end in no token at which generation stops",
        "Use a chat template that ends a turn with a special token (--chat-template).",
    ),
    "ended_prompt": Kind(
        "have a prompt that ends in the end token",
        "Use a chat template whose generation prompt is open (--chat-template).",
    ),
    "thinking": Kind(
        "are asked with an opened reasoning block, which the demonstrations lack",
        "Give demonstrations with reasoning, a template without it (--chat-template), or rows with "
        'chat_template_kwargs such as {"enable_thinking": false}.',
    ),
    "unasked": Kind(
        "have a chat template without a generation prompt, so the model must write the header",
        "Use a template that uses add_generation_prompt (--chat-template).",
    ),
    "other_prompt": Kind(
        "have a generation prompt whose tokens differ from the training tokens",
        "For plain text, begin responses and not prompts' ends with the blank; for conversations, "
        "use a template that renders a prompt as the beginning of the whole (--chat-template).",
    ),
    "lost_content": Kind(
        "lose the content of a turn in the chat template",
        "Use a template with a branch for its role (--chat-template), or move the content.",
    ),
    "reordered": Kind(
        "have turns in another order in the chat template",
        "Use a template that writes the turns in their order (--chat-template).",
    ),
    "lost_field": Kind(
        "have a name, reasoning or a call of a tool that the chat template leaves out",
        "Use a template that renders it (--chat-template), move it into the content, or remove it.",
    ),
    "lost_tools": Kind(
        "have tools that the chat template leaves out",
        "Use a template that renders tools (--chat-template), or remove the column.",
    ),
    "carried": Kind(
        "have a turn with marks that the chat template writes itself: BOS, an end token, a header",
        "Remove the marks from the messages; or give prompt and response as text that the template "
        "has rendered.",
    ),
    "other_template": Kind(
        "carry the marks of another chat template",
        "Give the rows as messages, or the template that they carry (--chat-template).",
    ),
    "transcript": Kind(
        "have a turn that ends in the mark of another format, which the chat template encloses",
        "Give the turns as messages without such marks; or train on plain text (--plain, chat = "
        "false).",
    ),
    "plain": Kind(
        "are plain text, though the tokenizer has a chat template",
        "--chat (chat = true) renders them through it; chat = false confirms plain text.",
    ),
}


@dataclass(frozen=True)
class Disagreement:
    """Rows of one set that disagree in one way.

    Attributes
    ----------
    kind
        A key of `KINDS`.
    count, rows
        Number of such rows, and of all rows.
    place
        Index of the first such row among the rows given, from 0.
    where
        Source and line of that row, or its number.
    example
        The tokens or text of that row that disagree.
    """

    kind: str
    count: int
    rows: int
    place: int
    where: str
    example: str

    @property
    def seen(self) -> str:
        """Number of rows and their disagreement, with the first example."""
        first = f"first: {self.where}{': ' if self.example else ''}{self.example}"
        return f"{self.count} of {self.rows} rows {KINDS[self.kind].problem} ({first})"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return KINDS[self.kind].remedy

    def __str__(self) -> str:
        return f"{self.seen}. {self.remedy}"


def findings(
    rows: Sequence[Row],
    prompts: Encoded,
    wholes: Sequence[Encoded],
    tokenizer: Any,
    *,
    max_length: int,
    refused: Refused | None = None,
    plain_is_meant: bool = False,
) -> tuple[Disagreement, ...]:
    """Compare training sequences with generation prompts.

    Parameters
    ----------
    rows
        Demonstrations, or preference pairs.
    prompts, wholes
        Results of `encode_prompts` and `encode_wholes` for these rows; both sides of pairs.
    tokenizer
        Tokenizer of the rows.
    max_length
        Longest sequence; the end of a cut sequence is not checked.
    refused
        Rows to leave out.
    plain_is_meant
        Whether plain text beside a chat template is no finding.

    Returns
    -------
    tuple of Disagreement
        Findings in the order of `KINDS`; empty if all rows agree.
    """
    look = _Look(tokenizer, max_length, plain_is_meant)
    found: dict[str, list[tuple[int, str]]] = {}
    for place, row in enumerate(rows):
        if refused and place in refused:
            continue
        seen: dict[str, str] = {}
        asked = prompts.texts[place], prompts.ids[place]
        for whole in wholes:
            seen |= dict(look.at(row, asked, (whole.texts[place], whole.ids[place])))
        for kind, example in seen.items():
            found.setdefault(kind, []).append((place, example))
    return tuple(
        Disagreement(kind, len(found[kind]), len(rows), *_first(rows, found[kind]))
        for kind in KINDS
        if kind in found
    )


def _first(rows: Sequence[Row], seen: list[tuple[int, str]]) -> tuple[int, str, str]:
    place, example = seen[0]
    origin, place = rows[place].origin, place + getattr(rows, "before", 0)
    where = f"row {place + 1}" if origin is None else f"{origin.file}, row {origin.row}"
    return place, where, example


def together(parts: Iterable[Sequence[Disagreement]], rows: int) -> tuple[Disagreement, ...]:
    """Combine the findings of the parts of a set, in order, into those of the set."""
    first: dict[str, Disagreement] = {}
    count: Counter[str] = Counter()
    for found in parts:
        for finding in found:
            first.setdefault(finding.kind, finding)
            count[finding.kind] += finding.count
    known = [kind for kind in KINDS if kind in first]
    return tuple(replace(first[kind], count=count[kind], rows=rows) for kind in known)


@dataclass(frozen=True)
class _Look:
    """Comparison of single rows."""

    tokenizer: Any
    max_length: int
    plain_is_meant: bool

    @cached_property
    def turns(self) -> Turns | None:
        return turns(self.tokenizer)

    @cached_property
    def stops(self) -> set[int]:
        return set(stop_ids(self.tokenizer))

    def at(
        self, row: Row, asked: tuple[str, Any], trained: tuple[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """Yield the kinds of disagreement of one sequence, each with an example."""
        (prompt, prompt_ids), (whole, ids) = asked, trained
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is not None and bos != eos and (place := self._second_bos(ids, bos)) is not None:
            yield "two_bos", repr(self.tokenizer.decode(ids[max(0, place - 8) : place + 8]))
        if len(ids) <= self.max_length and self._written_ends(ids) == [eos, eos]:
            yield "two_eos", repr(whole[-_SHOWN:])
        if len(ids) <= self.max_length and not self._stops(ids):
            yield "no_stop", repr(whole[-_SHOWN:])
        if len(prompt_ids) > 1 and prompt_ids[-1] == eos and bos != eos:
            yield "ended_prompt", repr(prompt[-_SHOWN:])
        elif len(prompt_ids) and not _begins(prompt_ids, ids, self.max_length):
            kind = "thinking" if prompt.rstrip().endswith(_THINK) else "other_prompt"
            yield kind, self._apart(prompt_ids, ids)
        yield from self._marks(whole)
        if isinstance(row.prompt, str):
            yield from self._plain(row, whole)
        else:
            yield from self._conversation(row, row.prompt, prompt, whole)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Texts of the tokens that a template writes at the beginning and the end of turns."""
        known = self.tokenizer.get_added_vocab()
        ends = self.tokenizer.convert_ids_to_tokens(sorted(self.stops))
        return tuple(t for t in dict.fromkeys((self.tokenizer.bos_token, *ends)) if t in known)

    @cached_property
    def headers(self) -> tuple[tuple[str, bool], ...]:
        """Headers of turns, and whether each has a token that no text has by chance."""
        added = [t for t in self.tokenizer.get_added_vocab() if len(t) > 1]
        found = () if self.turns is None else self.turns.headers
        return tuple((h, any(t in h for t in added)) for h in found if h)

    def _carried(self, content: str) -> str | None:
        """A mark of the tokenizer's own template in the text of a turn; None without one."""
        text = content.lstrip()
        for mark in self.tokens:
            if mark in text:
                return mark
        for header, special in self.headers:
            if header in text if special else text.startswith(header):
                return header
        return None

    def _second_bos(self, ids: Any, bos: int) -> int | None:
        """Place of a BOS within a text; some formats begin each exchange with one, after an end."""
        for place in (ids == bos).nonzero()[0].tolist():
            last = place - 1
            while last >= 0 and not self.tokenizer.decode(ids[last : last + 1]).strip():
                last -= 1
            if last >= 0 and int(ids[last]) not in self.stops:
                return int(place)
        return None

    def _written_ends(self, ids: Any) -> list[int]:
        """The last two tokens that are not blank."""
        found: list[int] = []
        for place in range(len(ids) - 1, -1, -1):
            if self.tokenizer.decode(ids[place : place + 1]).strip():
                found.insert(0, int(ids[place]))
            if len(found) == 2:
                break
        return found

    def _stops(self, ids: Any) -> bool:
        for place in range(len(ids) - 1, -1, -1):
            if int(ids[place]) in self.stops:
                return True
            if self.tokenizer.decode(ids[place : place + 1]).strip():
                return False
        return False

    def _apart(self, prompt_ids: Any, ids: Any) -> str:
        shared = next(
            (i for i, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), 0
        )
        first = max(0, shared - 8)
        asked, trained = (self.tokenizer.decode(x[first : shared + 8]) for x in (prompt_ids, ids))
        return f"asked {asked!r}, trained {trained!r}"

    def _plain(self, row: Row, whole: str) -> Iterator[tuple[str, str]]:
        # Rows of the generated language, which have other classes, are plain by design.
        if self.plain_is_meant or not row.prompt or type(row) not in (SftRow, PreferenceRow):
            return
        if self.turns is not None and not self.turns.within(whole):
            yield "plain", repr(whole[:_SHOWN])

    def _marks(self, whole: str) -> Iterator[tuple[str, str]]:
        """Find texts, also documents, that a template other than the tokenizer's has rendered."""
        if self.turns is None or self.plain_is_meant:
            return
        own = str(self.tokenizer.chat_template)
        for mark in _MARKS:
            if mark in whole and mark not in own:
                yield "other_template", repr(whole[(at := whole.index(mark)) : at + _SHOWN])
                return

    def _conversation(
        self, row: Row, turns_before: tuple[Message, ...], prompt: str, whole: str
    ) -> Iterator[tuple[str, str]]:
        sides = ("chosen", "rejected") if isinstance(row, PreferenceRow) else ("completion",)
        if turns_before and turns_before[-1].content.rstrip().endswith(_TRANSCRIPT):
            yield "transcript", repr(turns_before[-1].content[-_SHOWN:])
        for turn in turns_before:
            texts = _contents(turn, last=False)
            if not all(_holds(whole, text, turns_before) for text in texts):
                yield "lost_content", f"{turn.role}: {turn.content[:_SHOWN]!r}"
        spoken = [turn for turn in turns_before if turn.role not in ("system", "developer")]
        texts = [text for turn in spoken for text in _contents(turn, last=False)]
        if not _in_order(texts, whole):
            yield "reordered", repr(prompt[:_SHOWN])
        if not any(all(_within(t, whole) for t in getattr(row, side)) for side in sides):
            turn = getattr(row, sides[0])[-1]
            yield "lost_content", f"{turn.role}: {turn.content[:_SHOWN]!r}"
        answered = [turn for side in sides for turn in getattr(row, side)]
        for turn in (*turns_before, *answered):
            if (mark := self._carried(turn.content)) is not None:
                yield "carried", f"{mark!r} in {turn.role}: {turn.content[:_SHOWN]!r}"
        for name in _tools(row):
            if name not in whole:
                yield "lost_tools", repr(name)
        wanted = [found for turn in turns_before for found in _fields(turn, last=False)]
        answers = [
            [found for turn in getattr(row, side) for found in _fields(turn, last=True)]
            for side in sides
        ]
        # A sequence belongs to one side of the pair; which one is not known here.
        said = [(*turns_before, *getattr(row, side)) for side in sides]
        if not any(
            all(_holds(whole, text, turns, 1) for _, text in found)
            for turns, found in zip(said, answers, strict=True)
        ):
            wanted += answers[0] or answers[-1]
        for name, text in wanted:
            if not any(_holds(whole, text, turns, 1) for turns in said):
                yield "lost_field", f"{name}: {text[:_SHOWN]!r}"
        if self.turns is not None and not self.turns.asks and self.turns.headers[1]:
            yield "unasked", repr(prompt[-_SHOWN:])


def _holds(whole: str, text: str, turns: Sequence[Message], more: int = 0) -> bool:
    """Whether a text is there; a short one as often as in the contents of turns, and `more`."""
    if not 0 < len(text) < _SHORT or text not in whole:
        return text in whole
    said = (part for turn in turns for part in _contents(turn, last=False))
    return whole.count(text) >= more + sum(part.count(text) for part in said)


def _in_order(texts: Sequence[str], whole: str) -> bool:
    """Whether texts occur one behind the other, or some do not occur at all."""
    place = 0
    for text in texts:
        found = whole.find(text, place)
        if found < 0:
            return text not in whole
        place = found + len(text)
    return True


def _within(turn: Message, whole: str) -> bool:
    return all(text in whole for text in _contents(turn, last=True))


def _contents(turn: Message, *, last: bool) -> list[str]:
    """Texts of a turn that its template must write, without blanks around them.

    Templates write the tags of reasoning in their own way, and may omit that of earlier turns.
    """
    found = _REASONED.match(turn.content) if turn.role == "assistant" else None
    if found is None:
        return [turn.content.strip()]
    answer = turn.content[found.end() :].strip()
    return [found["text"].strip(), answer] if last else [answer]


def _fields(turn: Message, *, last: bool) -> Iterator[tuple[str, str]]:
    """Fields of a turn beside its content; templates may omit the reasoning of earlier turns."""
    if not turn.extras:
        return
    found = turn.as_dict()
    for name in ("name", *(_REASONING if last else ())):
        if isinstance(text := found.get(name), str) and text.strip():
            yield name, text.strip()
    for call in found.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        if isinstance(function, Mapping) and isinstance(text := function.get("name"), str):
            yield "tool call", text


def _begins(prompt: Any, whole: Any, max_length: int) -> bool:
    """Whether a whole sequence begins with the prompt, up to the cut of either."""
    length = min(len(prompt), max_length)
    return len(whole) >= length and bool((prompt[:length] == whole[:length]).all())


def _tools(row: Row) -> list[str]:
    found = row.template_arguments().get("tools") or []
    functions = [tool.get("function", tool) for tool in found if isinstance(tool, Mapping)]
    return [f["name"] for f in functions if isinstance(f, Mapping) and f.get("name")]
