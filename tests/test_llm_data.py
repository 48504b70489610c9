"""Tokenised rows are those of TRL, and every token of a completion is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_models import (
    bpe_tokenizer_hf,
    byte_tokenizer_hf,
    metaspace_tokenizer_hf,
    tiny_llama,
    tiny_neox,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tradeoff.data import Rows, read_sft
from tradeoff.data.layouts import preference_row, sft_row
from tradeoff.data.record import Record
from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import _encoding
from tradeoff.llm._data import (
    Pair,
    Tokenised,
    check_tokenizer,
    fingerprint,
    prompt_ids,
    tokenise_preferences,
    tokenise_sft,
)

# TRL names the setting that turns recomputation off by a name that transformers had before v6.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bytes": byte_tokenizer_hf,
    "llama-3": bpe_tokenizer_hf,
    "pythia": lambda: bpe_tokenizer_hf(bos=False),
    "llama-2": metaspace_tokenizer_hf,
}
MADE = {name: make() for name, make in TOKENIZERS.items()}
PROMPTS = (
    "Answer: ",
    "Question: What is the capital of France? Answer:",
    "Human: How do I bake bread?\n\nAssistant: ",
    "def add(a, b):\n",
    "多い é 🙂\t",
    "the",
    "  leading and trailing  ",
    "a very long prompt, one that fills the sequence " * 8,
)
RESPONSES = (
    ("the dog", "no"),
    (" Paris", " The capital of France is Paris."),
    ("Mix flour, water, salt and yeast, then wait." * 5, "Wait.</s>"),
    ("    return a + b\n", "    return a - b\n<eos>"),
    ("🙂 é", "é 🙂"),
    (" other dogs", " others"),
    (" many things", "many things"),
    ("yes", "no"),
)
PLAIN = [(p, *both) for p, both in zip(PROMPTS, RESPONSES, strict=True)]
LENGTHS = (24, 400)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def turns(prompt: str) -> list[dict[str, str]]:
    """One turn, or three."""
    return [user(prompt)] if len(prompt) % 2 else [user("hi"), assistant("hello"), user(prompt)]


SFT_ROWS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"prompt": p, "completion": c} for p, c, _ in PLAIN],
    "conversational": [{"prompt": turns(p), "completion": [assistant(c)]} for p, c, _ in PLAIN],
    "text": [{"text": p + c} for p, c, _ in PLAIN],
    "messages": [{"messages": [*turns(p), assistant(c)]} for p, c, _ in PLAIN],
}
PREFERENCE_ROWS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PLAIN],
    "conversational": [
        {"prompt": turns(p), "chosen": [assistant(c)], "rejected": [assistant(r)]}
        for p, c, r in PLAIN
    ],
    "implicit": [
        {"chosen": [*turns(p), assistant(c)], "rejected": [*turns(p), assistant(r)]}
        for p, c, r in PLAIN
    ],
}


def sft(rows: Sequence[dict[str, Any]]) -> list[SftRow]:
    return [sft_row(Record("rows", i, row)) for i, row in enumerate(rows, 1)]


def preferences(rows: Sequence[dict[str, Any]]) -> list[PreferenceRow]:
    return [preference_row(Record("rows", i, row)) for i, row in enumerate(rows, 1)]


def settings(folder: Any, max_length: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_length": max_length,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "save_strategy": "no",
    }


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def trl_sft(rows: list[dict[str, Any]], tokenizer: Any, max_length: int, folder: Any) -> Any:
    return SFTTrainer(
        tiny_neox(len(tokenizer)),
        args=SFTConfig(**settings(folder, max_length)),
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
    )


def labels(tokens: np.ndarray, start: int) -> list[int]:
    return [-100] * start + tokens[start:].tolist()


def assert_same(ours: Tokenised[Any], theirs: Any) -> None:
    """The same sequences and labels. The first token has no label, as nothing predicts it."""
    assert [item.tokens.tolist() for item in ours] == theirs["input_ids"][:]
    expected = [row[1:] for row in theirs["labels"]]
    assert [labels(item.tokens, item.start)[1:] for item in ours] == expected


@pytest.mark.parametrize("max_length", LENGTHS)
@pytest.mark.parametrize("layout", ["plain", "conversational", "text"])
def test_demonstrations_are_those_of_trl(
    layout: str, max_length: int, tokenizer: Any, tmp_path: Any
) -> None:
    theirs = trl_sft(SFT_ROWS[layout], tokenizer, max_length, tmp_path).train_dataset
    ours = tokenise_sft(sft(SFT_ROWS[layout]), tokenizer, max_length)
    assert_same(ours, theirs)
    assert ours.too_long == len(PLAIN) - len(theirs)


@pytest.mark.parametrize("max_length", LENGTHS)
def test_of_messages_only_the_last_turn_is_learnt(
    max_length: int, tokenizer: Any, tmp_path: Any
) -> None:
    rows = sft(SFT_ROWS["messages"])
    theirs = trl_sft(SFT_ROWS["messages"], tokenizer, max_length, tmp_path).train_dataset
    assert_same(tokenise_sft(rows, tokenizer, max_length, loss_on="all"), theirs)
    ours = tokenise_sft(rows, tokenizer, max_length)
    # Deliberate: the same tokens, but TRL also trains on the questions and earlier answers.
    assert [x.tokens.tolist() for x in ours] == [theirs[i]["input_ids"] for i in ours.rows]
    assert all(theirs[i]["labels"] == theirs[i]["input_ids"] for i in ours.rows)
    for item, place in zip(ours, ours.rows, strict=True):
        learnt = tokenizer.decode(item.tokens[item.start :], skip_special_tokens=True)
        answer = RESPONSES[place][0].strip()
        assert answer.startswith(learnt.strip()) if max_length == 24 else answer == learnt.strip()


def differs(row: dict[str, Any], max_length: int) -> bool:
    """Whether the responses of TRL's pair still differ within the longest sequence."""
    room = max_length - len(row["prompt_ids"])
    return bool(row["chosen_ids"][:room] != row["rejected_ids"][:room])


@pytest.mark.parametrize("max_length", LENGTHS)
@pytest.mark.parametrize("layout", PREFERENCE_ROWS)
def test_pairs_and_their_batches_are_those_of_trl(
    layout: str, max_length: int, tokenizer: Any, tmp_path: Any
) -> None:
    trainer = DPOTrainer(
        tiny_llama(len(tokenizer)),
        ref_model=tiny_llama(len(tokenizer)),
        args=DPOConfig(**settings(tmp_path, max_length)),
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(PREFERENCE_ROWS[layout]),
    )
    ours = tokenise_preferences(preferences(PREFERENCE_ROWS[layout]), tokenizer, max_length)
    # Deliberate: TRL keeps pairs with equal responses, which arise as templates trim and long rows
    # are cut.
    kept = [row for row in trainer.train_dataset if differs(row, max_length)]
    theirs = trainer.data_collator(kept)
    sides = [(x.chosen, x.start) for x in ours] + [(x.rejected, x.start) for x in ours]
    width = theirs["input_ids"].shape[1]
    pad = tokenizer.pad_token_id
    ids = [[*tokens, *[pad] * (width - len(tokens))] for tokens, _ in sides]
    mask = [[start <= i < len(tokens) for i in range(width)] for tokens, start in sides]
    assert theirs["input_ids"].tolist() == ids
    assert theirs["completion_mask"].bool().tolist() == mask
    assert [x.start for x in ours] == [len(x["prompt_ids"]) for x in kept]
    assert ours.too_long == len(PLAIN) - len(trainer.train_dataset)
    assert ours.identical == len(trainer.train_dataset) - len(kept)


@pytest.mark.parametrize("name", ["llama-3", "pythia", "llama-2"])
def test_the_first_token_of_a_response_is_learnt_when_the_prompt_ends_in_a_space(name: str) -> None:
    tokenizer = MADE[name]
    prompt = "Answer: "
    (example,) = tokenise_sft([SftRow(prompt, "the dog")], tokenizer)
    (pair,) = tokenise_preferences([PreferenceRow(prompt, "the dog", "the fox")], tokenizer)
    # Counting the tokens of the prompt, as the paper's code does, masks the word "the".
    counted = len(tokenizer(prompt)["input_ids"])
    assert tokenizer.decode(example.tokens[counted:], skip_special_tokens=True).strip() == "dog"
    for tokens, start in ((example.tokens, example.start), (pair.chosen, pair.start)):
        assert tokenizer.decode(tokens[start:], skip_special_tokens=True).strip() == "the dog"
        assert start == counted - 1


@pytest.mark.parametrize("name", ["llama-3", "llama-2"])
@pytest.mark.parametrize("layout", ["plain", "conversational", "text"])
def test_the_beginning_is_marked_once(layout: str, name: str) -> None:
    tokenizer = MADE[name]
    rows = sft([row for row in SFT_ROWS[layout] if "hello" not in str(row)])
    for item in tokenise_sft(rows, tokenizer, 400):
        assert np.flatnonzero(item.tokens == tokenizer.bos_token_id).tolist() == [0]
    for ids in prompt_ids(rows, tokenizer):
        assert np.flatnonzero(ids == tokenizer.bos_token_id).tolist() == [0]


def test_a_document_and_a_single_turn_count_from_their_second_token(tokenizer: Any) -> None:
    rows = sft([{"text": "abc"}, {"messages": [assistant("abc")]}])
    assert [item.start for item in tokenise_sft(rows, tokenizer)] == [1, 1]


# Llama 2 writes a space as this sign, so the sign in a text becomes a space.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="▁")
TEXT = st.text(LETTERS, min_size=1, max_size=12) | st.sampled_from([*PROMPTS, " the dog", "no "])
# Blank texts never come from a file, and at a border of words tokens can merge.
WRITTEN = TEXT.filter(str.strip)
SHORT = ("Q:", "yes", "no")


@given(prompt=WRITTEN, completion=WRITTEN, name=st.sampled_from(list(MADE)))
def test_every_text_comes_back_and_the_prompt_alone_is_free_of_loss(
    prompt: str, completion: str, name: str
) -> None:
    tokenizer = MADE[name]
    (item,) = tokenise_sft([SftRow(prompt, completion)], tokenizer)
    whole = prompt + completion + tokenizer.eos_token
    assert item.tokens.tolist() == tokenizer(whole)["input_ids"]
    assert tokenizer.decode(item.tokens).removeprefix("<s>").lstrip(" ") == whole.lstrip(" ")
    both = zip(tokenizer(prompt)["input_ids"], item.tokens, strict=False)
    shared = len(list(takewhile(lambda x: x[0] == x[1], both)))
    assert item.start == max(1, shared) < len(item.tokens)


@given(
    rows=st.lists(st.tuples(WRITTEN, WRITTEN, WRITTEN), min_size=1, max_size=5),
    name=st.sampled_from(list(MADE)),
    max_length=st.integers(8, 40),
)
def test_pairs_share_their_prompt_and_nothing_is_lost_uncounted(
    rows: list[tuple[str, str, str]], name: str, max_length: int
) -> None:
    tokenizer = MADE[name]
    # A line break never merges with the next token; the first row fits at any of these lengths.
    rows = [(f"{prompt}\n", chosen, rejected) for prompt, chosen, rejected in [SHORT, *rows]]
    pairs = tokenise_preferences([PreferenceRow(*row) for row in rows], tokenizer, max_length)
    assert len(pairs) + pairs.too_long + pairs.identical == len(rows)
    cut = 0
    for pair, place in zip(pairs, pairs.rows, strict=True):
        prompt, *responses = rows[place]
        assert pair.chosen[: pair.start].tolist() == pair.rejected[: pair.start].tolist()
        full = [tokenizer(prompt + y + tokenizer.eos_token)["input_ids"] for y in responses]
        assert [x.tolist() for x in pair.sequences] == [ids[:max_length] for ids in full]
        assert 1 <= pair.start < min(map(len, pair.sequences))
        cut += max(map(len, full)) > max_length
    assert pairs.truncated == cut


def test_the_summary_counts_what_was_dropped_and_cut() -> None:
    rows = [SftRow("ab", "cdefgh"), SftRow("abcdef", "g"), SftRow("abc", "d"), SftRow("a", "b")]
    found = tokenise_sft(rows, MADE["bytes"], 4)
    assert found.rows == (0, 2, 3)
    assert found.summary() == {
        "rows": 3,
        "too_long": 1,
        "identical": 0,
        "cut_equal": 0,
        "refused": 0,
        "truncated": 2,
        "tokens": 4 + 4 + 3,
        "completion_tokens": 2 + 1 + 2,
        "longest": 4,
        "fingerprint": found.fingerprint,
    }
    assert repr(found).startswith("<3 x Example, 1 too long, 2 truncated, ")
    assert [x.tokens.tolist() for x in found[1:]] == [x.tokens.tolist() for x in found.items[1:]]


def test_pairs_that_the_cut_makes_equal_are_dropped_and_counted() -> None:
    rows = [("ab", "cdx", "cdy"), ("ab", "cx", "cy"), ("abcdef", "x", "y"), ("a", "x", "y")]
    found = tokenise_preferences([PreferenceRow(*row) for row in rows], MADE["bytes"], 4)
    assert found.rows == (1, 3)
    assert (found.identical, found.too_long, found.truncated) == (1, 1, 1)
    assert found.cut_equal == 1
    assert found.summary()["identical"] == 1
    assert "1 identical" in repr(found)
    with pytest.raises(InputError, match="same tokens in every pair") as error:
        tokenise_preferences([PreferenceRow(*row) for row in rows[:1]], MADE["bytes"], 4)
    assert error.value.field == "max_length"


def test_the_fingerprint_names_tokens_and_starts() -> None:
    def name(*rows: tuple[str, ...], max_length: int = 99) -> str:
        made = [PreferenceRow(*row) for row in rows]
        return tokenise_preferences(made, MADE["bytes"], max_length).fingerprint

    same = name(("a", "b", "c"), ("d", "e", "f"))
    assert same == name(("a", "b", "c"), ("d", "e", "f"), max_length=98)
    others = {
        name(("d", "e", "f"), ("a", "b", "c")),
        name(("a", "c", "b"), ("d", "e", "f")),
        name(("a", "b", "c")),
        name(("a", "b", "c"), ("d", "e", "f"), max_length=2),
        tokenise_sft([SftRow("a", "b"), SftRow("d", "e")], MADE["bytes"]).fingerprint,
    }
    assert len(others | {same}) == 6
    starts = {
        tokenise_sft([SftRow(*x)], MADE["bytes"]).fingerprint for x in (("a", "bc"), ("ab", "c"))
    }
    assert len(starts) == 2


def test_rows_of_both_kinds_keep_their_order_over_many_calls(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    rows = sft([row for both in zip(*SFT_ROWS.values(), strict=True) for row in both])
    one_by_one = [tokenise_sft([row], tokenizer, 4000)[0] for row in rows]
    monkeypatch.setattr(_encoding, "_ROWS_AT_ONCE", 3)
    together = tokenise_sft(rows, tokenizer, 4000)
    assert [(x.tokens.tolist(), x.start) for x in together] == [
        (x.tokens.tolist(), x.start) for x in one_by_one
    ]


def test_prompts_for_generation_end_where_the_response_begins(tokenizer: Any) -> None:
    rows = [*preferences(PREFERENCE_ROWS["plain"]), *sft(SFT_ROWS["conversational"])]
    found = [ids.tolist() for ids in prompt_ids(rows, tokenizer)]
    assert found[: len(PLAIN)] == [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    assert found[len(PLAIN) :] == [
        tokenizer.apply_chat_template(turns(p), add_generation_prompt=True)["input_ids"]
        for p in PROMPTS
    ]


def test_a_tokenizer_must_fit_model_and_rows(tokenizer: Any) -> None:
    size = len(tokenizer)
    check_tokenizer(tokenizer, size, conversational=True)
    check_tokenizer(tokenizer, size + 64, conversational=False)
    with pytest.raises(InputError, match=rf"resize_token_embeddings\({size}\)"):
        check_tokenizer(tokenizer, size - 1, conversational=False)
    chats = preferences(PREFERENCE_ROWS["conversational"])
    tokenizer.chat_template = None
    check_tokenizer(tokenizer, size, conversational=False)
    tokenise_preferences(preferences(PREFERENCE_ROWS["plain"]), tokenizer, 400)
    for use in (
        lambda: check_tokenizer(tokenizer, size, conversational=True),
        lambda: tokenise_preferences(chats, tokenizer),
        lambda: prompt_ids(chats, tokenizer),
    ):
        with pytest.raises(InputError, match="no chat template"):
            use()
    tokenizer.eos_token = None
    for use in (
        lambda: check_tokenizer(tokenizer, size, conversational=False),
        lambda: tokenise_sft([SftRow("a", "b")], tokenizer),
    ):
        with pytest.raises(InputError, match="no end token"):
            use()


ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (ALTERNATING, SftRow((Message("assistant", "a"),), (Message("user", "b"),)), "alternate"),
        ("{{ messages.nothing.here }}", SftRow((Message("user", "a"),), ()), "refuses"),
        (
            "{{ messages[0]['content'] }}",
            SftRow((Message("user", "a"),), (Message("assistant", "b"),)),
            "nothing of a completion",
        ),
        (None, SftRow("a", (Message("assistant", "b"),)), "mixed"),
    ],
)
def test_a_row_that_cannot_be_rendered_is_named(
    template: str | None, row: SftRow, message: str
) -> None:
    tokenizer = byte_tokenizer_hf()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message) as caught:
        tokenise_sft([SftRow("a", "b"), row], tokenizer)
    assert caught.value.row == 2


def test_rows_without_anything_to_learn_are_errors() -> None:
    tokenizer = MADE["pythia"]
    for rows, max_length, message in (
        ([], 8, "no rows"),
        ([SftRow("a", "b")], 1, "max_length"),
        ([SftRow("abc def", "g")] * 2, 3, "every prompt alone fills"),
    ):
        with pytest.raises(InputError, match=message):
            tokenise_sft(rows, tokenizer, max_length)
    # "add" and "an" are tokens, so the first token of each response also covers the whole prompt.
    with pytest.raises(InputError, match="share no token") as caught:
        tokenise_preferences([PreferenceRow("a", "dd", "n")], tokenizer)
    assert caught.value.row == 1
    with pytest.raises(InputError, match="no prompt to respond to"):
        prompt_ids([SftRow("", "a document")], tokenizer)
    assert [len(x) for x in prompt_ids([SftRow("", "a document")], MADE["llama-3"])] == [1]


def test_the_fingerprint_tells_where_a_sequence_ends() -> None:
    ids = np.ones(5, np.int64)
    assert fingerprint([Pair(ids[:3], ids[3:], 1)]) != fingerprint([Pair(ids[:2], ids[2:], 1)])


# ---------------------------------------------------------------------- rows to their end


SYSTEM = {"role": "system", "content": "Answer in French."}
TURN = "{{ '<|' + m['role'] + '|>' + m['content']|trim + '<eos>' }}"
OPEN = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
REFUSING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + TURN + "{% endfor %}" + OPEN
)
WITH_TOOLS = (
    "{% if tools %}{{ '<|tools|>' + (tools|tojson) + '<eos>' }}{% endif %}"
    "{% if think %}{{ '<|think|>' }}{% endif %}"
    "{% for m in messages %}"
    "{% for c in m.tool_calls or [] %}{{ '<|call|>' + c.function.name }}{% endfor %}"
    "{{ m.reasoning_content or '' }}" + TURN + "{% endfor %}" + OPEN
)


def with_template(template: str) -> Any:
    made = byte_tokenizer_hf()
    made.chat_template = template
    return made


def rows_with_one_refused(folder: Any) -> Any:
    """Line 20 of 26 has a system turn; two bad rows come first."""
    rows = [{"messages": [user(f"Say {i}."), assistant(f"{i}")]} for i in range(24)]
    rows[17]["messages"].insert(0, SYSTEM)
    path = folder / "sft.jsonl"
    bad = [{"messages": []}, {"messages": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*bad, *rows]))
    return path


def test_a_refused_row_is_named_by_its_line_and_can_be_dropped(tmp_path: Any) -> None:
    path = rows_with_one_refused(tmp_path)
    rows = read_sft(path, skip_bad=True)
    refusing = with_template(REFUSING)
    with pytest.raises(InputError, match="System role not supported") as error:
        tokenise_sft(rows, refusing, skip_bad=False)
    assert (error.value.file, error.value.row) == (str(path), 20)
    with pytest.raises(InputError) as error:
        tokenise_sft(list(rows), refusing)
    assert (error.value.file, error.value.row) == (str(path), 20)
    found = tokenise_sft(rows, refusing)
    assert (len(found), found.summary()["refused"]) == (23, 1)
    assert [(e.file, e.row) for e in found.dropped] == [(str(path), 20)]
    assert "1 refused" in repr(found)
    kept = _encoding.admitted(rows, refusing)
    assert isinstance(kept, Rows)
    assert (len(kept), [e.row for e in kept.dropped]) == (23, [1, 2, 20])


def test_every_cause_is_told_apart() -> None:
    rows = [
        ([user("a")], [assistant("yes")], [assistant("no")]),
        ([user("a" * 60)], [assistant("yes")], [assistant("no")]),
        ([user("a")], [assistant("yes")], [assistant(" yes ")]),
        ([user("a")], [assistant("x" * 60 + "y")], [assistant("x" * 60 + "z")]),
        ([SYSTEM, user("a")], [assistant("yes")], [assistant("no")]),
    ]
    made = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in rows]
    found = tokenise_preferences(preferences(made), with_template(REFUSING), 60, skip_bad=True)
    counts = ("rows", "too_long", "identical", "cut_equal", "refused")
    assert [found.summary()[name] for name in counts] == [1, 1, 2, 1, 1]
    for some, problem in (
        (made[1:2], "every prompt alone fills"),
        (made[2:3], "same tokens in every pair"),
        (made[3:4], "once they are cut"),
        (made[4:5], "refuse every row"),
        (made[1:5], "of 1 the prompt alone .* 2 pairs .* 1 rows are refused"),
    ):
        with pytest.raises(InputError, match=problem):
            tokenise_preferences(preferences(some), with_template(REFUSING), 60, skip_bad=True)


def test_what_is_beside_the_texts_reaches_the_tokens(tmp_path: Any) -> None:
    tools = [{"type": "function", "function": {"name": "sky", "description": "Rain?"}}]
    call = {"type": "function", "function": {"name": "sky", "arguments": {}}}
    messages = [
        SYSTEM,
        user("Rain?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "dry"},
        assistant("No.") | {"reasoning_content": "Look: "},
    ]
    row = {"messages": messages, "tools": tools, "chat_template_kwargs": {"think": True}}
    tokenizer = with_template(WITH_TOOLS)
    (found,) = tokenise_sft(sft([row]), tokenizer)
    whole = tokenizer.decode(found.tokens)
    for part in ("<|tools|>", '"description": "Rain?"', "<|think|>", "in French", "<|call|>sky"):
        assert part in whole
    rendered = tokenizer.apply_chat_template(messages, tools=tools, think=True, tokenize=False)
    assert whole == rendered
    # As in TRL, with a separate prompt.
    split = {"prompt": messages[:-1], "completion": messages[-1:], "tools": tools}
    split |= {"chat_template_kwargs": {"think": True}}
    theirs = trl_sft([split], tokenizer, 999, tmp_path).train_dataset
    assert_same(tokenise_sft(sft([split]), tokenizer, 999), theirs)


class Panic(BaseException):
    """The exception that tokenizers written in Rust raise at an internal error."""


def test_whatever_template_and_tokenizer_raise_is_one_error_of_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [SftRow("a", "b"), SftRow("a", "boom"), SftRow("a", "c")]
    tokenizer = byte_tokenizer_hf()
    encode = type(tokenizer).__call__

    def panics(self: Any, text: Any, **options: Any) -> Any:
        if any("boom" in item for item in text):
            raise Panic("no such thing")
        return encode(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", panics)
    with pytest.raises(InputError, match="the tokenizer fails at the row: no such thing") as error:
        tokenise_sft(rows, tokenizer)
    assert error.value.row == 2
    assert tokenise_sft(rows, tokenizer, skip_bad=True).rows == (0, 2)
    for template in ("{{ 1 / 0 }}", "{{ messages.x.y }}", "{{ 'a' * 10**30 }}", "{% for m in 3 %}"):
        with pytest.raises(InputError, match=r"the chat template (refuses|is not valid Jinja)"):
            tokenise_sft(sft([{"messages": [user("a"), assistant("b")]}]), with_template(template))
