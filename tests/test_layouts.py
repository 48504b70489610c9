"""Rows in every layout of common data sets: which are read, reported and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from tradeoff import experiment
from tradeoff.checkout import ROOT
from tradeoff.data import Message, PreferenceRow, Rows, SftRow, as_text, read_preferences, read_sft
from tradeoff.data.columns import columns_of, parsed
from tradeoff.data.synthetic.write import write_jsonl
from tradeoff.errors import InputError
from tradeoff.llm._turns import every_turn

Read = Callable[..., Rows[Any]]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def turns(*messages: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(**message) for message in messages)


HI, HELLO, WHAT = user("Hi"), assistant("Hello"), assistant("What?")


# ---------------------------------------------------------------------- the table of the how-to


def table() -> list[list[str]]:
    page = (ROOT / "docs" / "howto" / "data.md").read_text("utf-8")
    lines = page.partition("## Every layout")[2].splitlines()
    cells = [re.split(r" \| ", line.strip("|")) for line in lines if line.startswith("| ")]
    return [[cell.strip(" ") for cell in row] for row in cells[2:]]


TABLE = table()


def unquoted(cell: str) -> str:
    """The text of a cell, which is written as JSON."""
    return json.loads(f'"{cell.strip("`")}"') if cell else ""


def test_the_table_is_there() -> None:
    assert len(TABLE) >= 25
    assert {row[0] for row in TABLE} == {"SFT", "preference"}


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]}: {row[1]}" for row in TABLE])
def test_every_row_of_the_table_is_read_as_it_says(row: list[str], tmp_path: Path) -> None:
    kind, _, source, prompt, response = row
    path = tmp_path / "rows.jsonl"
    path.write_text(source.strip("`") + "\n", "utf-8")
    if kind == "SFT":
        (demonstration,) = read_sft(path)
        assert as_text(demonstration.prompt) == unquoted(prompt)
        assert as_text(demonstration.completion) == unquoted(response)
        return
    chosen, rejected = response.split(" over ")
    (pair,) = read_preferences(path)
    assert as_text(pair.prompt) == unquoted(prompt)
    assert (as_text(pair.chosen), as_text(pair.rejected)) == (unquoted(chosen), unquoted(rejected))


# ---------------------------------------------------------------------- prompts that are repeated


@pytest.mark.parametrize(
    ("prompt", "side", "expected"),
    [
        ([HI], [HI, HELLO], ([HI], [HELLO])),
        ([HI], [HELLO], ([HI], [HELLO])),
        ("Hi", [HI, HELLO], ([HI], [HELLO])),
        ("Hi", [HELLO], ([HI], [HELLO])),
        ([HI], "Hello", ([HI], [HELLO])),
        ([user(" Hi\n")], [HI, HELLO], ([HI], [HELLO])),
        # A longer conversation after the prompt: only the last response is trained on.
        ([HI], [HI, HELLO, user("Bye"), WHAT], ([HI, HELLO, user("Bye")], [WHAT])),
        # A system turn that only one of both responses has.
        ([HI], [{"role": "system", "content": "s"}, HI, HELLO], None),
        ([{"role": "system", "content": "s"}, HI], [HI, HELLO], None),
    ],
)
def test_a_completion_that_repeats_its_prompt(prompt: Any, side: Any, expected: Any) -> None:
    (row,) = read_sft([{"prompt": prompt, "completion": side}])
    system = {"role": "system", "content": "s"}
    before, after = expected or ([system, HI], [HELLO])
    assert as_text(row.prompt).split() == as_text(turns(*before)).split()
    assert row.completion == turns(*after)


def test_pairs_that_go_on_behind_the_repeated_prompt() -> None:
    more = [HI, HELLO, user("Bye")]
    (row,) = read_preferences(
        [{"prompt": "Hi", "chosen": [*more, HELLO], "rejected": [*more, WHAT]}]
    )
    assert row == PreferenceRow(turns(*more), turns(HELLO), turns(WHAT))


def test_one_word_can_begin_a_response_by_chance() -> None:
    rows = [{"prompt": "Hello", "chosen": "Hello! How are you?", "rejected": "Hello there"}]
    assert read_preferences(rows)[0].chosen == "Hello! How are you?"
    parrot = {"prompt": "Say it in so many words", "completion": "Say it in so many words, he said"}
    others = [{"prompt": f"Question {i}", "completion": "An answer"} for i in range(5)]
    read = read_sft([parrot, *others])
    assert read[0].completion == parrot["completion"]
    assert read.notes == {"responses that begin with their prompt, kept": 1}


def test_a_response_that_is_only_the_prompt_is_an_error() -> None:
    rows = [
        {"prompt": f"Q: {i}\nA:", "completion": f"Q: {i}\nA:{' yes' * (i > 0)}"} for i in range(3)
    ]
    with pytest.raises(InputError, match="only the prompt") as error:
        read_sft(rows)
    assert (error.value.row, error.value.field) == (1, "completion")
    read = read_sft(rows, skip_bad=True)
    assert ([row.completion for row in read], len(read.dropped)) == ([" yes", " yes"], 1)


# ---------------------------------------------------------------------- who speaks last


@pytest.mark.parametrize(
    ("read", "row"),
    [
        (read_sft, {"messages": [HI, HELLO, HI]}),
        (read_sft, {"conversations": [{"from": "human", "value": "Hi"}]}),
        (read_sft, {"prompt": [HI], "completion": [user("Yes?")]}),
        (read_sft, {"prompt": [HI], "completion": [HELLO, user("Yes?")]}),
        (read_sft, {"text": [HI]}),
        (read_preferences, {"prompt": [HI], "chosen": [user("x")], "rejected": [WHAT]}),
        (read_preferences, {"prompt": [HI], "chosen": [HELLO], "rejected": [WHAT, HI]}),
        (read_preferences, {"chosen": [HI, HELLO], "rejected": [HI, user("x")]}),
        (read_preferences, {"prompt": "Hi", "chosen": [user("x"), HELLO], "rejected": "no"}),
    ],
)
def test_the_assistant_speaks_last_and_first(read: Read, row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"message of the (assistant|user)"):
        read([row])


# ---------------------------------------------------------------------- what may be stored as text


@pytest.mark.parametrize("form", [json.dumps, str])
def test_messages_stored_as_text(form: Callable[[Any], str]) -> None:
    whole, other = form([HI, HELLO]), form([HI, WHAT])
    one, two, prompt = form([HELLO]), form([WHAT]), form([HI])
    for row in (
        {"messages": whole},
        {"text": whole},
        {"prompt": prompt, "completion": one},
        {"prompt": "Hi", "completion": whole},
    ):
        assert read_sft([row]).rows == (SftRow(turns(HI), turns(HELLO)),)
    for row in (
        {"prompt": prompt, "chosen": one, "rejected": two},
        {"prompt": "Hi", "chosen": whole, "rejected": other},
        {"chosen": whole, "rejected": other},
    ):
        read = read_preferences([row])
        assert read.rows == (PreferenceRow(turns(HI), turns(HELLO), turns(WHAT)),)
        assert read.notes["messages read from text"] >= 2


def test_messages_stored_by_column() -> None:
    stored = {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}
    (row,) = read_sft([{"messages": stored}])
    assert (row.prompt, row.completion) == (turns(HI), turns(HELLO))
    with pytest.raises(InputError, match="messages"):
        read_sft([{"messages": {**stored, "role": ["user"]}}])


def test_other_json_is_text() -> None:
    for text in ('[{"name": "x"}]', '{"role": "user"}', "[1, 2]", '[{"role": "king"}]', "[{]"):
        assert read_sft([{"prompt": "Write JSON", "completion": text}])[0].completion == text


def test_broken_messages_in_text_are_refused() -> None:
    for text in (json.dumps([HI, HELLO])[:-4], "[{'role': 'user'} {'role': 'assistant'}]"):
        with pytest.raises(InputError, match="neither JSON nor Python"):
            read_sft([{"text": text}])


# ---------------------------------------------------------------------- what a message may hold


def test_what_a_template_reads_is_kept() -> None:
    call = {"type": "function", "function": {"name": "sky", "arguments": {"when": "now"}}}
    row = {
        "messages": [
            {"role": "system", "content": ""},
            HI | {"name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "", "tool_call_id": "1"},
            HELLO | {"reasoning_content": "Be kind.", "tool_calls": []},
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": "sky"}}]),
        "chat_template_kwargs": {"enable_thinking": True},
    }
    (read,) = read_sft([row])
    assert [turn.as_dict() for turn in (*read.prompt, *read.completion)] == [
        {"role": "system", "content": ""},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "assistant", "content": "Hello", "reasoning_content": "Be kind."},
    ]
    assert read.template_arguments() == {
        "tools": [{"type": "function", "function": {"name": "sky"}}],
        "enable_thinking": True,
    }


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": [user([{"type": "image"}]), HELLO]}, "type 'image'"),  # type: ignore[arg-type]
        ({"messages": [user(""), HELLO]}, "blank"),
        ({"messages": [HI, assistant("")]}, "blank"),
        ({"messages": [HI, assistant("\u200b")]}, "blank"),
        ({"prompt": "Hi", "completion": "\ufeff\u200b\x00"}, "blank"),
        ({"messages": [HI, {"role": "assistant"}]}, "lacks"),
        ({"messages": [HI, HELLO | {"score": float("inf")}]}, "chat template"),
        ({"conversations": [{"from": "moon", "value": "x"}]}, "speaker"),
        ({"conversations": [{"from": "function_call", "value": "x"}]}, "call of a function"),
        ({"prompt": "Hi", "completion": "Hello", "tools": [{}]}, "plain text"),
        ({"messages": [HI, HELLO], "tools": "{"}, "not JSON"),
        ({"messages": [HI, HELLO], "tools": {"a": 1}}, "cannot be used"),
        ({"messages": [HI, HELLO], "chat_template_kwargs": {"tokenize": True}}, "cannot be set"),
        ({"prompt": True, "completion": "x"}, "not text"),
        ({"prompt": 1e20, "completion": "x"}, "not text"),
        ({"prompt": "x" * (2**24 + 1), "completion": "x"}, "too long"),
    ],
)
def test_what_cannot_be_trained_on_is_named(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        read_sft([row])
    assert error.value.row == 1


def test_roles_of_other_names_are_known_or_counted() -> None:
    said = [("prompter", "Hi"), ("model", "Hello"), ("human", "Bye"), ("ai", "See you")]
    messages = [{"role": role, "content": text} for role, text in said]
    (row,) = read_sft([{"messages": messages}])
    roles = [turn.role for turn in (*row.prompt, *row.completion)]  # type: ignore[union-attr]
    assert roles == ["user", "assistant"] * 2
    read = read_sft([{"messages": [{"role": "Harry", "content": "Hi"}, HELLO]}])
    assert read.notes == {"messages with a role that not every chat template knows": 1}


def test_a_conversation_of_another_name_is_proposed_if_it_has_speakers() -> None:
    with pytest.raises(InputError, match="--columns messages=conversation"):
        read_sft([{"conversation": [HI, HELLO]}])
    with pytest.raises(InputError, match=r"columns=\{...\}"):
        read_sft([{"conversation": [{"input": "Hi", "output": "Hello"}]}])


def test_turns_without_loss_are_counted_with_the_setting_for_them() -> None:
    read = read_sft([{"messages": [HI, HELLO, HI, HELLO]}, {"messages": [HI, HELLO]}])
    (remark,) = read.remarks()
    assert "1 row with earlier turns of the assistant, which carry loss only with" in remark
    assert "--set train.turns=all" in remark
    data = SimpleNamespace(dropped=tuple, remarks=list)
    assert experiment.told({"sft": read}, data)["remarks"] == [remark]
    assert not experiment.told({"sft": read}, data, "all")["remarks"]
    prompt = [HI, HELLO, HI]
    assert not read_sft([{"prompt": prompt, "completion": [HELLO]}]).notes


def test_turns_of_others_within_a_response_are_counted() -> None:
    row = {"prompt": [HI], "completion": [HELLO, HI, HELLO]}
    pair = {"chosen": [HI, HELLO, HI, WHAT], "rejected": [HI, WHAT, HI, HELLO]}
    for read in (read_sft([row]), read_preferences([pair])):
        (note,) = read.notes
        assert note.startswith("rows whose responses hold turns of others, which carry loss, too")


def test_a_blank_prompt_is_not_called_missing() -> None:
    with pytest.raises(InputError, match="blank") as error:
        read_preferences([{"prompt": "", "chosen": "a", "rejected": "b"}])
    assert error.value.field == "prompt"


def test_turns_with_weight_zero_are_not_trained_on() -> None:
    weights: list[dict[str, Any]] = [{"weight": 0}, {"weight": 0.0}, {"train": False}]
    weights += [{"training": False}]
    for weight in weights:
        bad = {**WHAT, **weight}
        rows = read_sft([{"messages": [HI, bad, HI, HELLO]}, {"messages": [HI, HELLO, HI, bad]}])
        first, second = rows
        assert (len(first.prompt), first.completion) == (3, turns(HELLO))
        assert every_turn(first) == [first]
        assert (second.prompt, second.completion) == (turns(HI), turns(HELLO))
        (note,) = rows.notes.items()
        assert note == ("rows with turns of weight 0, which are not trained on", 2)
        with pytest.raises(InputError, match="all turns of the assistant have weight 0"):
            read_sft([{"messages": [HI, bad]}])
    kept = read_sft([{"messages": [HI, {**HELLO, "weight": 1}, HI, {**WHAT, "train": True}]}])
    assert len(every_turn(kept[0])) == 2
    assert not any("weight" in note for note in kept.notes)


def test_a_table_of_single_messages_is_refused() -> None:
    row = {"message_id": "1", "parent_id": None, "role": "prompter", "text": "Hi"}
    with pytest.raises(InputError, match="one message of a conversation"):
        read_sft([row])
    assert read_sft([{"role": "judge", "text": "A document."}])[0].completion == "A document."


def test_a_call_that_sharegpt_writes_as_json() -> None:
    call = {"from": "function_call", "value": '{"name": "sky", "arguments": {}}'}
    row = {
        "conversations": [{"from": "human", "value": "Hi"}, call, {"from": "gpt", "value": "No"}]
    }
    made = read_sft([row])[0].prompt[1]
    assert isinstance(made, Message)
    calls = made.as_dict()["tool_calls"]
    assert calls == [{"type": "function", "function": {"name": "sky", "arguments": {}}}]


# ---------------------------------------------------------------------- nulls and further columns


def test_null_counts_as_absent(tmp_path: Path) -> None:
    plain = datasets.Dataset.from_list([{"prompt": "Hi", "completion": "Hello"}] * 2)
    chats = datasets.Dataset.from_list([{"messages": [HI, HELLO]}] * 2)
    both = datasets.concatenate_datasets([plain, chats])
    datasets.disable_progress_bars()
    both.to_parquet(tmp_path / "mixed.parquet")
    expected = (SftRow("Hi", "Hello"),) * 2 + (SftRow(turns(HI), turns(HELLO)),) * 2
    assert read_sft(tmp_path / "mixed.parquet").rows == read_sft(both).rows == expected
    pair = {"prompt": None, "chosen": [HI, HELLO], "rejected": [HI, WHAT]}
    assert read_preferences([pair])[0].prompt == turns(HI)


def test_columns_that_are_ignored_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "completion": "Hello", "text": "Hi Hello", "id": 1},
        {"prompt": "Hi", "completion": "Hello", "id": None},
    ]
    read = read_sft(rows)
    assert read.ignored == {"text": 1, "id": 1}
    assert "ignored columns: text, id" in repr(read)
    assert read.remarks() == ["list: ignored columns: text (1), id (1)"]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    assert read_sft(tmp_path / "rows.parquet").ignored == {"text": 1, "id": 2}
    whole = {"prompt": "Something else", "messages": [HI, HELLO]}
    assert read_sft([whole]).ignored == {"prompt": 1}


def test_columns_are_renamed() -> None:
    rows = [{"question": "Hi", "answer": "Hello", "prompt": "ignored"}]
    read = read_sft(rows, columns={"prompt": "question", "completion": "answer"})
    assert read.rows == (SftRow("Hi", "Hello"),)
    with pytest.raises(InputError, match="no layout has this column"):
        read_sft(rows, columns={"chosen": "answer"})
    with pytest.raises(InputError, match="--columns completion=answer"):
        read_sft(rows, columns={"completion": "reply"})


@pytest.mark.parametrize(
    ("read", "columns", "options"),
    [
        (read_sft, "question answer", "--columns prompt=question --columns completion=answer."),
        (read_sft, "query response", "--columns prompt=query --columns completion=response."),
        (
            read_sft,
            "system_prompt prompt output",
            "--columns completion=output --columns system=system_prompt.",
        ),
        (
            read_preferences,
            "question response_j response_k",
            "--columns prompt=question --columns chosen=response_j --columns rejected=response_k.",
        ),
        (read_preferences, "question chosen rejected", "--columns prompt=question."),
        (read_sft, "Question Answer", "--columns prompt=Question --columns completion=Answer."),
        (
            read_preferences,
            "Prompt Chosen rejected",
            "--columns prompt=Prompt --columns chosen=Chosen.",
        ),
        (read_sft, "prompt", "--columns completion=COLUMN."),
        (read_sft, "this that", "columns={...}, --columns."),
    ],
)
def test_columns_of_other_names_are_proposed(read: Read, columns: str, options: str) -> None:
    row = {name: f"text of {name}" for name in columns.split()}
    with pytest.raises(InputError) as error:
        read([row])
    assert str(error.value).endswith(options)
    if "..." in options or "COLUMN" in options:
        return
    named = dict(re.findall(r"--columns (\w+)=(\w+)", options))
    assert len(read([row], columns=named)) == 1


@pytest.mark.parametrize(
    ("read", "columns", "remedy"),
    [
        (read_sft, "instruction completions", "make rows of one response from the column"),
        (read_preferences, "prompt answers", "make rows of two responses, the better and another"),
    ],
)
def test_a_column_with_several_responses_is_named(read: Read, columns: str, remedy: str) -> None:
    with pytest.raises(InputError, match=f"{remedy}.*{columns.split()[-1]!r}"):
        read([dict.fromkeys(columns.split(), "text")])


# ---------------------------------------------------------------------- two responses and a winner


SOURCES = {
    "PKU-SafeRLHF": ("response_0", "response_1", "better_response_id"),
    "from 1": ("response_1", "response_2", "choice"),
    "Chatbot Arena": ("conversation_a", "conversation_b", "winner"),
    "letters": ("human_ref_A", "human_ref_B", "preference"),
    "our own": ("response_a", "response_b", "winner"),
}
WINNERS = {
    "PKU-SafeRLHF": [(0, 1), ("0", "1"), (0.0, 1.0), ("response_0", "response_1"), ("a", "b")],
    "from 1": [(1, 2), ("response_1", "response_2")],
    "Chatbot Arena": [("model_a", "model_b"), ("A", "B"), ("conversation_a", "conversation_b")],
    "letters": [("A", "B"), (" a", "b "), ("human_ref_A", "human_ref_B")],
    "our own": [("a", "b"), ("response_a", "response_b"), ("model_a", "model_b")],
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_better_of_two_responses_is_chosen(name: str, tmp_path: Path) -> None:
    own = dict(zip(("response_a", "response_b", "winner"), SOURCES[name], strict=True))
    first, second, column = SOURCES[name]
    columns = {key: value for key, value in own.items() if key != value}
    for values in WINNERS[name]:
        rows = [{"prompt": "Hi", first: "one", second: "two", column: value} for value in values]
        read = read_preferences(rows, columns=columns)
        assert [(row.chosen, row.rejected) for row in read] == [("one", "two"), ("two", "one")]
        assert not read.ignored
    file = tmp_path / "t.parquet"
    datasets.Dataset.from_list(rows).to_parquet(str(file))
    assert read_preferences(file, columns=columns).rows == read.rows
    if columns:
        with pytest.raises(InputError) as error:
            read_preferences(rows)
        assert parsed(re.findall(r"--columns (\w+=\w+)", str(error.value))) == columns


@pytest.mark.parametrize(
    ("winner", "problem"),
    [
        ("tie", "neither response is better"),
        ("tie (bothbad)", "neither response is better"),
        ("both_bad", "neither response is better"),
        ("c", "does not name one"),
        (1, "does not name one"),
        (True, "does not name one"),
        (0.5, "does not name one"),
        (["a"], "does not name one"),
        ("", "does not name one"),
        (None, "the field is empty"),
    ],
)
def test_a_winner_is_never_guessed(winner: Any, problem: str) -> None:
    """As in SHP, where 1 means the first response."""
    row = {"prompt": "Hi", "response_a": "one", "response_b": "two", "winner": winner}
    with pytest.raises(InputError, match=problem) as error:
        read_preferences([row])
    assert error.value.field == "winner"
    read = read_preferences([row, {**row, "winner": "b"}], skip_bad=True)
    assert (len(read), len(read.dropped)) == (1, 1)


def test_errors_of_two_responses_name_their_columns() -> None:
    row = {"prompt": "Hi", "response_a": "one", "response_b": "two", "winner": "b"}
    for name in ("response_a", "response_b"):
        with pytest.raises(InputError) as error:
            read_preferences([{**row, name: " "}])
        assert error.value.field == name
        with pytest.raises(InputError, match="missing") as error:
            read_preferences([{key: value for key, value in row.items() if key != name}])
        assert error.value.field == name
    with pytest.raises(InputError, match="missing") as error:
        read_preferences([{key: value for key, value in row.items() if key != "winner"}])
    assert error.value.field == "winner"
    with pytest.raises(InputError, match="are the same"):
        read_preferences([{**row, "response_a": "two"}])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -2},
        {"instruction": "q", "completions": [{"response": "a", "overall_score": 5}]},
        {"prompt": "q", "answers": [{"answer": "a", "rank": 1.0}]},
    ],
    ids=["HelpSteer2", "UltraFeedback", "Nectar"],
)
def test_no_remedy_calls_a_response_chosen_that_may_not_be(row: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        read_preferences([row])
    assert "chosen=" not in str(error.value)
    assert "{response_a, response_b, winner}" in str(error.value)


def test_two_responses_without_a_winner_need_a_column_of_it() -> None:
    row = {"history": "q", "human_ref_A": "one", "human_ref_B": "two", "labels": 0}
    with pytest.raises(InputError, match="add a column winner") as error:
        read_preferences([row])
    named = dict(re.findall(r"--columns (\w+)=(\w+)", str(error.value)))
    (pair,) = read_preferences([{**row, "winner": "b"}], columns=named)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "two", "one")


def test_columns_of_other_names_are_proposed_for_a_table(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    datasets.Dataset.from_list([{"question": "Hi", "answer": "Hello"}]).to_parquet(str(file))
    with pytest.raises(InputError, match="--columns prompt=question --columns completion=answer"):
        read_sft(file)


def test_columns_of_one_set_or_of_both() -> None:
    given = parsed(["prompt=question", "sft.completion = answer", "chosen=best"])
    assert columns_of(given, "sft") == {"prompt": "question", "completion": "answer"}
    assert columns_of(given, "preference") == {"prompt": "question", "chosen": "best"}
    for wrong in ("prompt", "=x", "x="):
        with pytest.raises(InputError, match="not assign a column"):
            parsed([wrong])
    for unknown in ({"nonesuch": "x"}, {"dpo.prompt": "x"}, {"sft.chosen": "x"}):
        with pytest.raises(InputError, match="no layout"):
            columns_of(unknown, "sft")


# ---------------------------------------------------------------------- labels and scores


KTO = [
    {"prompt": "Hi", "completion": "Hello", "label": True},
    {"prompt": "Hi", "completion": "Go away", "label": False},
    {"prompt": "Bye", "completion": "See you", "label": True},
]


@pytest.mark.parametrize("read", [read_sft, read_preferences])
@pytest.mark.parametrize("name", ["label", "kto_tag"])
@pytest.mark.parametrize("label", [True, False, 1, 0, -1, "True", "0", "desirable", "Undesirable"])
def test_labelled_rows_are_never_read_unasked(read: Read, label: Any, name: str) -> None:
    with pytest.raises(InputError, match="unpaired preference data") as error:
        read([{"prompt": "Hi", "completion": "Hello", name: label}])
    assert error.value.field == name


@pytest.mark.parametrize(("good", "bad"), [("desirable", "undesirable"), (1, -1)])
def test_labels_of_other_kinds_mean_the_same(good: Any, bad: Any) -> None:
    rows = [{**row, "label": good if row["label"] else bad} for row in KTO]
    assert read_sft(rows, use_labels=True).rows == read_sft(KTO, use_labels=True).rows
    assert (
        read_preferences(rows, use_labels=True).rows == read_preferences(KTO, use_labels=True).rows
    )


def test_labelled_rows_are_used_where_asked() -> None:
    read = read_sft(KTO, use_labels=True)
    assert read.rows == (SftRow("Hi", "Hello"), SftRow("Bye", "See you"))
    assert read.notes == {"rows left out whose label is false": 1}
    assert not read.ignored
    pairs = read_preferences(KTO, use_labels=True)
    assert pairs.rows == (PreferenceRow("Hi", "Hello", "Go away"),)
    assert pairs.notes == {"labelled rows left out, without a partner for their prompt": 1}
    with pytest.raises(InputError, match="partner"):
        read_preferences(KTO[::2], use_labels=True)


def test_the_class_of_a_text_is_no_such_label() -> None:
    for row in (
        {"text": "A film.", "label": 1},
        {"prompt": "p", "completion": "c", "label": "joy"},
    ):
        assert read_sft([row]).ignored == {"label": 1}


def test_scores_become_a_margin_that_filters() -> None:
    pair = {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}
    rows = [pair | {"score_chosen": 8, "score_rejected": s} for s in (2.0, 7.5)]
    assert [row.margin for row in read_preferences(rows)] == [6.0, 0.5]
    read = read_preferences(rows, min_margin=1)
    assert (len(read), read.notes) == (1, {"pairs left out whose margin is below 1": 1})
    with pytest.raises(InputError, match="no scores"):
        read_preferences([pair], min_margin=1)
    for wrong in (True, "x", float("inf"), 10**400):
        with pytest.raises(InputError, match="not a number"):
            read_preferences([pair | {"margin": wrong}])


# ---------------------------------------------------------------------- dialogues of HH as text


def test_hh_dialogues_share_all_but_their_last_response() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"
    (row,) = read_preferences([{"chosen": f"{start} See you", "rejected": f"{start} So"}])
    assert row == PreferenceRow(start, " See you", " So")
    short = "\n\nHuman: Hi\n\nAssistant:"
    for chosen, rejected, problem in (
        (f"{short} a\n\nHuman: b\n\nAssistant: c", f"{short} d", "differ before"),
        (f"{short} a", f"{short} ", "blank"),
        ("a", "b", "missing"),
    ):
        with pytest.raises(InputError, match=problem):
            read_preferences([{"chosen": chosen, "rejected": rejected}])


# ---------------------------------------------------------------------- nested too deeply


@pytest.mark.parametrize("read", [read_sft, read_preferences])
@pytest.mark.parametrize(
    "form", ["[{}]", '{{"text": {}}}', '{{"messages": [{}]}}', '{{"chosen": {}}}']
)
def test_deep_nesting_is_one_error(read: Read, form: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for depth in (100, 400, *range(880, 1000, 2), 10**5):
        path.write_text(form.format("[" * depth + "]" * depth) + "\n")
        with pytest.raises(InputError) as error:
            read(path)
        assert error.value.row == 1


# ---------------------------------------------------------------------- rows that are written


def test_written_rows_are_read_as_they_were(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "sky"}}]
    rows = [
        {"messages": [HI, HELLO | {"reasoning_content": "Be kind."}], "tools": tools},
        {"prompt": "Hi", "completion": "Hello"},
    ]
    pair = {"prompt": [HI], "chosen": [HELLO], "rejected": [WHAT], "margin": 2.0, "tools": tools}
    write_jsonl(read_sft(rows), tmp_path / "sft.jsonl")
    write_jsonl(read_preferences([pair]), tmp_path / "pairs.jsonl")
    again = read_sft(tmp_path / "sft.jsonl")
    assert (again.rows, again.ignored) == (read_sft(rows).rows, {})
    again_pairs = read_preferences(tmp_path / "pairs.jsonl")
    assert (again_pairs.rows, again_pairs.ignored) == (read_preferences([pair]).rows, {})
