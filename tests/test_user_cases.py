"""Rows and files of users, and similar ones: each is read, reported, or gives one clear error.

Each kind comes from a public bug report of another trainer; the similar ones are other forms of
the same mistake. Whole runs on them are in the tests of the trainer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_tokenizers import CHATML, chat_tokenizer
from llm_models import tiny_llama
from typer.testing import CliRunner

from tradeoff import read_preferences, read_sft
from tradeoff.cli import app
from tradeoff.errors import InputError
from tradeoff.llm._data import prompt_ids, tokenise_preferences, tokenise_sft
from tradeoff.llm._turns import stop_ids
from tradeoff.llm.evaluation.answers import normalised


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def opened(text: str) -> str:
    """ChatML whose generation prompt begins with text that demonstrations lack."""
    return CHATML.replace("assistant\n' }}{% endif %}", f"assistant\n{text}' }}}}{{% endif %}}")


CHAT = {"messages": [user("red"), assistant("r")]}
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"place": "x"}}}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
ONLY = CHATML.replace(
    "{% for m in messages %}", "{% for m in messages if m.role in ('user', 'assistant') %}"
)
WITH_FIELDS = CHATML.replace(
    "m['content']",
    "(m.name or '') + (m.reasoning_content or '') + (m.tool_calls[0].function.name if m.tool_calls "
    "else '') + m['content']",
)


def pair(**row: Any) -> tuple[str, dict[str, Any]]:
    return "preference", row


FINDINGS: dict[str, tuple[str, Any, list[str]]] = {
    # Name: template, row, kinds of findings.
    "02 an end that is no token": (
        CHATML.replace("<|im_end|>", "###"),
        CHAT,
        ["no_stop"],
    ),
    **{
        f"04 {text}": (opened(text), CHAT, ["thinking"])
        for text in ("<think>\\n", "<thinking>", "[THINK]", "◁think▷", "<seed:think>")
    },
    "04 a channel": (opened("<|channel|>analysis<|message|>"), CHAT, ["thinking"]),
    "04 a word": (opened("Sure! "), CHAT, ["other_prompt"]),
    "04 demonstrated": (opened("<think>"), {"messages": [user("a"), assistant("<think>b")]}, []),
    "07 developer": (
        ONLY,
        {"messages": [{"role": "developer", "content": "Be brief."}, *CHAT["messages"]]},
        ["lost_content"],
    ),
    "07 a column": (ONLY, {"system": "Be brief.", **CHAT}, ["lost_content"]),
    "07 of pairs": (
        ONLY,
        pair(
            prompt=[{"role": "system", "content": "Be brief."}, user("hi")],
            chosen=[assistant("yo")],
            rejected=[assistant("no")],
        ),
        ["lost_content"],
    ),
    "07 a tool's answer": (
        ONLY,
        {"messages": [user("hi"), {"role": "tool", "content": "42"}, assistant("yo")]},
        ["lost_content"],
    ),
    "07 a call": (
        CHATML,
        {"messages": [user("hi"), assistant("I look.", tool_calls=CALL)]},
        ["lost_field"],
    ),
    "07 a name": (CHATML, {"messages": [user("hi", name="Ada"), assistant("yo")]}, ["lost_field"]),
    "07 reasoning": (
        CHATML,
        {"messages": [user("hi"), assistant("yo", reasoning_content="because")]},
        ["lost_field"],
    ),
    "07 reasoning of an earlier turn": (
        CHATML,
        {
            "messages": [
                *(user("hi"), assistant("yo", reasoning_content="because")),
                *(user("and"), assistant("so")),
            ]
        },
        [],
    ),
    "07 reasoning of pairs": (
        CHATML,
        pair(
            prompt=[user("hi")],
            chosen=[assistant("yo", reasoning_content="because")],
            rejected=[assistant("no", reasoning_content="why not")],
        ),
        ["lost_field"],
    ),
    "07 all of it rendered": (
        WITH_FIELDS,
        {
            "messages": [
                user("hi", name="Ada"),
                assistant("I look.", tool_calls=CALL, reasoning_content="because"),
            ]
        },
        [],
    ),
    "07 tools": (CHATML, {**CHAT, "tools": json.dumps(TOOLS)}, ["lost_tools"]),
    "another template": (CHATML, {"text": "<s>[INST] hi [/INST] yo</s>"}, ["other_template"]),
    "another template in a chat": (
        CHATML,
        {"messages": [user("<start_of_turn>user\nhi"), assistant("yo")]},
        ["other_template"],
    ),
    "its own template": (
        CHATML,
        {"text": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"},
        [],
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_a_model_would_not_see_is_reported(name):
    template, row, kinds = FINDINGS[name]
    tokenizer = chat_tokenizer(template)
    if isinstance(row, tuple):
        found = tokenise_preferences(read_preferences([row[1]]), tokenizer).findings
    else:
        found = tokenise_sft(read_sft([row]), tokenizer).findings
    assert [finding.kind for finding in found] == kinds
    assert all("list, row 1" in str(finding) and finding.remedy for finding in found)


@pytest.mark.parametrize("blanks", ["", " ", "\n"])
@pytest.mark.parametrize("adds", [None, "<s> $A", "<s> $A </s>"])
def test_a_rendered_row_has_one_bos_and_a_response_that_ends(blanks, adds):
    tokenizer = chat_tokenizer(CHATML, bos="<s>", eos="</s>", post=adds)
    rows = read_sft([{"prompt": f"{blanks}<s>[INST] hi [/INST]", "completion": " yo</s>"}])
    ids = tokenise_sft(rows, tokenizer)[0].tokens.tolist()
    asked = prompt_ids(rows, tokenizer)[0].tolist()
    if not blanks:
        assert ids.count(tokenizer.bos_token_id) == asked.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] in stop_ids(tokenizer)
    assert ids[: len(asked)] == asked


CONVERSATION = [user("hi"), assistant("yo")]
ROWS: dict[str, dict[str, Any]] = {
    "10 the completion repeats": {"prompt": [user("hi")], "completion": CONVERSATION},
    "10 up to blanks": {"prompt": [user("hi ")], "completion": CONVERSATION},
    "10 a prompt in text": {"prompt": "hi", "messages": CONVERSATION},
    "11 as JSON": {"messages": json.dumps(CONVERSATION)},
    "11 as Python": {"messages": str(CONVERSATION)},
    "11 parts as JSON": {
        "messages": [user(json.dumps([{"type": "text", "text": "hi"}])), assistant("yo")]
    },
    "13 blank": {"messages": CONVERSATION, "prompt": "", "completion": " ", "text": ""},
    "13 not a number": {"messages": CONVERSATION, "prompt": float("nan"), "completion": None},
    "13 empty": {"messages": [], "prompt": [user("hi")], "completion": [assistant("yo")]},
}


@pytest.mark.parametrize("name", ROWS)
def test_one_conversation_in_many_forms(name):
    (row,) = read_sft([ROWS[name]])
    assert [turn.content.strip() for turn in (*row.prompt, *row.completion)] == ["hi", "yo"]
    assert len(row.completion) == 1


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "11 JSON within JSON": (read_sft, {"messages": json.dumps(json.dumps(CONVERSATION))}, "messag"),
    "11 as numpy prints it": (read_sft, {"messages": str(np.array(CONVERSATION))}, "messages"),
    "11 a row as text": (read_sft, {"text": json.dumps({"messages": CONVERSATION})}, "text"),
    "11 messages as texts": (read_sft, {"messages": [json.dumps(user("hi"))]}, "messages"),
    "11 a picture as JSON": (
        read_sft,
        {"messages": [user(json.dumps([{"type": "image"}])), assistant("yo")]},
        "messages",
    ),
    "other prompts": (
        read_preferences,
        {"chosen": CONVERSATION, "rejected": [user("ho"), assistant("no")]},
        "chosen",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_one_error(name):
    read, row, field = REFUSED[name]
    with pytest.raises(InputError) as caught:
        read([row])
    assert caught.value.row == 1
    assert str(caught.value.field).startswith(field)
    assert caught.value.remedy


def test_a_chosen_response_with_the_lower_score_is_counted():
    pairs = [
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": x, "score_rejected": 3}
        for x in (1, 3, 5)
    ]
    read = read_preferences(pairs)
    assert read.notes == {"pairs whose chosen response has the lower score": 1}
    assert len(read_preferences(pairs, min_margin=0)) == 2


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("[THINK]6?[/THINK]5", "5", True),
        ("<thinking>6</thinking>\n5", "5", True),
        ("◁think▷6◁/think▷5", "5", True),
        ("<seed:think>6</seed:think>5", "5", True),
        ("5!", "5", False),
        ("\u22125", "-5", True),
        ("x\u00b2", "x2", False),
        ("caf\u00e9", "cafe\u0301", True),
        ("1,000", "1000", True),
        ("1,00", "100", False),
        ("5%", "5", False),
    ],
)
def test_answers_at_their_edges(first, second, equal):
    assert (normalised(first) == normalised(second)) is equal


def test_brackets_are_no_markup_and_no_run_is_lost(tmp_path: Path) -> None:
    """Case 19: a dropped row, a remark, a folder and a file with brackets in their names."""
    tokenizer = chat_tokenizer()
    tiny_llama(len(tokenizer), bos_token_id=None).save_pretrained(tmp_path / "model[b]")
    tokenizer.save_pretrained(tmp_path / "model[b]")
    rows = [{"messages": [user(f"Say {i}."), assistant(f"{i}")]} for i in range(8)]
    bad = {"prompt": "q", "completion": ["[/INST] yes"], "[/red]": 1}
    pairs = [
        {"prompt": [user(f"Say {i}.")], "chosen": [assistant(f"{i}")], "rejected": [assistant("n")]}
        for i in range(8)
    ]
    command = ["train", "--model", str(tmp_path / "model[b]"), "--steps", "1", "--batch-size", "4"]
    for name, given in (("sft", [*rows, bad, {**rows[0], "[/x]": 1}]), ("preference", pairs)):
        path = tmp_path / f"[/{name}].jsonl".replace("/", "(")
        path.write_text("".join(f"{json.dumps(row)}\n" for row in given), "utf-8")
        command += [f"--{name}", str(path)]
    out = tmp_path / "run[lam=0.5]"
    done = CliRunner().invoke(app, [*command, "--skip-bad", "--out", str(out)])
    assert done.exit_code == 0, done.exception
    for text in ("[/INST] yes", "ignored columns: [/x] (1)", str(out / "metrics.jsonl")):
        assert text in done.output
    assert (out / "model" / "model.safetensors").is_file()
