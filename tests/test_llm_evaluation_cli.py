"""`tradeoff evaluate` and the function behind it, from files to tables, JSON and responses."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from transformers import LlamaConfig, LlamaForSequenceClassification

from tradeoff import tiny
from tradeoff.cli import main
from tradeoff.data.choices import ChoiceRow
from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.evaluation import LoadedPolicy, Sampling, Wanted, evaluate, generate
from tradeoff.llm.evaluation.report import terminal_table
from tradeoff.llm.evaluation.run import PARTS

SHORT = ("--max-new-tokens", "8", "--max-length", "256")


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two policies, a reward model, and one file of rows of each kind."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = bpe_tokenizer_hf()
    for name, seed in (("policy", 0), ("base", 1)):
        tiny_llama(len(tokenizer), seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    words = ["fox", "dog", "bread", "salt"]
    write(folder / "sft.jsonl", [{"prompt": f"say {w}:", "completion": f" {w}"} for w in words])
    write(
        folder / "pairs.jsonl",
        [{"prompt": f"say {w}:", "chosen": f" {w}", "rejected": " no"} for w in words],
    )
    questions = [
        {"question": f"{w}?", "choices": words, "answer": i, "subject": f"s{i % 2}"}
        for i, w in enumerate(words)
    ]
    write(folder / "mmlu.jsonl", questions)
    write(folder / "blank.jsonl", [{**questions[0], "choices": ["a", ""]}, *questions])
    write(
        folder / "xstest.jsonl",
        [
            {"question": f"{w}?", "choices": ["comply", "refuse"], "answer": i % 2, "subject": "t"}
            for i, w in enumerate(words)
        ],
    )
    return folder


def everything(place) -> tuple:
    return (
        "evaluate", place / "policy", "--reference", place / "base", *SHORT,
        "--sft", place / "sft.jsonl", "--preference", place / "pairs.jsonl", "--exact-match",
        "--choices", place / "mmlu.jsonl", "--shots", 1,
        "--win-rate", place / "pairs.jsonl", "--judge", place / "reward",
        "--refusals", place / "xstest.jsonl",
    )  # fmt: skip


def test_a_reference_that_cannot_be_loaded_is_named(capsys, place):
    given = "--preference", place / "pairs.jsonl", "--reference", place / "absent"
    code, _, error = run(capsys, "evaluate", place / "policy", *SHORT, *given)
    assert code == 2
    assert error.startswith("error: --reference: ")


def test_everything_as_a_table_and_as_files(capsys, place, tmp_path):
    code, out, _ = run(capsys, *everything(place), "--plain", "--out", tmp_path)
    assert code == 0
    for name in ("sft_loss", "preference_accuracy", "exact_match", "accuracy", "win_rate"):
        assert name in out
    assert "peak gib" in out
    assert "unended" in out
    assert all(len(line) <= 80 for line in out.split("written:")[0].splitlines())
    record = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    names = [part["name"] for part in record["parts"]]
    assert names == ["sft", "preference", "exact_match", "mmlu", "win_rate", "refusals"]
    assert all(part["seconds"] > 0 < part["peak_memory_bytes"] for part in record["parts"])
    settings = {"loss": "sigmoid", "beta": 0.1, "precision": "fp32", "temperature": 0.0, "seed": 0}
    assert settings.items() <= record["settings"].items()
    text = (tmp_path / "win_rate.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["prompt"] == "say fox:"
    assert set(lines[0]) == {"prompt", "response", "chosen", "wins"}
    (rate,) = record["parts"][4]["scores"]
    assert rate["value"] == np.mean([line["wins"] for line in lines])


def test_json_is_one_object_and_repeats(capsys, place):
    code, out, err = run(capsys, *everything(place), "--json")
    again = run(capsys, *everything(place), "--json")[1]
    assert (code, err) == (0, "")
    scores = [[part["scores"] for part in json.loads(text)["parts"]] for text in (out, again)]
    assert scores[0] == scores[1]
    groups = {score["group"] for score in scores[0][3]}
    assert groups == {"all", "s0", "s1"}


def test_groups_are_shown_when_asked_for(capsys, place):
    arguments = ("evaluate", place / "policy", "--choices", place / "mmlu.jsonl")
    assert "s0" not in run(capsys, *arguments)[1]
    assert "s0" in run(capsys, *arguments, "--groups")[1]


def test_bad_rows_are_left_out_and_listed(capsys, place):
    arguments = ("evaluate", place / "policy", "--choices", place / "blank.jsonl")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "blank.jsonl, row 1, field 'choices'" in err.replace("\n", "")
    code, out, _ = run(capsys, *arguments, "--skip-bad", "--json")
    (part,) = json.loads(out)["parts"]
    assert (code, part["scores"][0]["n"]) == (0, 4)
    assert "row 1" in part["dropped"][0]


def test_a_policy_may_be_the_judge(capsys, place):
    judge = ("--judge", place / "policy", "--judge-reference", place / "policy", "--per-token")
    arguments = ("evaluate", place / "policy", "--win-rate", place / "pairs.jsonl", *SHORT)
    _, out, _ = run(capsys, *arguments, *judge, "--json")
    assert json.loads(out)["parts"][0]["scores"][0]["value"] == 0.5


def test_the_generated_language_and_its_model_have_names(capsys, place, monkeypatch):
    few = replace(tiny.Tiny().language, test_rows=8, documents=1, sft_rows=8, preference_rows=8)
    data = tiny.data(replace(tiny.Tiny(), language=few))
    monkeypatch.setattr(tiny, "folder", lambda: place / "policy")
    monkeypatch.setattr(tiny, "data", lambda: data)
    _, out, _ = run(
        capsys, "evaluate", "tiny", "--reference", "tiny", *SHORT, "--sft", "synthetic",
        "--preference", "synthetic", "--exact-match", "--limit", 6, "--json",
    )  # fmt: skip
    sft, preference, match = json.loads(out)["parts"]
    assert sft["scores"][0]["n"] == 6
    assert preference["scores"][0]["value"] == pytest.approx(np.log(2), abs=1e-5)
    assert {"answer_match", "preference_match"} <= {score["name"] for score in match["scores"]}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "nothing to evaluate"),
        (("--preference", "pairs.jsonl"), "reference"),
        (("--win-rate", "pairs.jsonl"), "judge"),
        (("--win-rate", "pairs.jsonl", "--judge", "sft.jsonl"), "reward model"),
        (("--win-rate", "pairs.jsonl", "--judge", "reward", "--per-token"), "judge-reference"),
        (("--choices", "mmlu.jsonl", "--choices", "mmlu.jsonl"), "mmlu"),
        (("--choices", "mmlu.jsonl", "--exact-match"), "match"),
        (("--choices", "mmlu.jsonl", "--shots", "3"), "examples"),
        (("--choices", "sft.jsonl"), "question"),
        (("--choices", "absent.jsonl"), "no such file"),
        (("--refusals", "mmlu.jsonl"), "comply"),
        (("--refusals", "xstest.jsonl", "--template", "Q"), "template"),
        (("--refusals", "xstest.jsonl", "--max-length", "9"), "max-new-tokens"),
        (("--sft", "sft.jsonl", "--loss", "odd"), "loss"),
        (("--sft", "sft.jsonl", "--max-length", "2"), "--max-length: "),
        (("--task", "arc"), "pip install"),
    ],
)
def test_bad_input_is_one_line_and_status_two(capsys, place, monkeypatch, arguments, word):
    monkeypatch.chdir(place)
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    code, out, err = run(capsys, "evaluate", "policy", *arguments)
    assert (code, out) == (2, "")
    assert [line for line in err.splitlines() if line.startswith("error:")]
    assert word in err
    assert "Traceback" not in err


def test_a_model_that_is_none(capsys, place):
    code, _, err = run(capsys, "evaluate", place, "--sft", place / "sft.jsonl")
    assert code == 2
    assert "no causal model" in err


def test_help_shows_examples(capsys):
    code, out, _ = run(capsys, "evaluate", "--help")
    assert code == 0
    assert "tradeoff evaluate tiny" in out.replace("\n", " ")


def test_memory_that_does_not_suffice_is_said():
    tokenizer = bpe_tokenizer_hf()
    policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer)

    def judge():
        raise torch.OutOfMemoryError("CUDA out of memory")

    _, pairs = tiny.rows(2)
    wanted = Wanted(win_rate=pairs, judge=judge, sampling=Sampling(max_new_tokens=2))
    with pytest.raises(InputError, match="rows_per_forward"):
        evaluate(policy, wanted)


@pytest.mark.parametrize("name", PARTS)
def test_questions_may_not_have_the_name_of_another_part(name):
    tokenizer = bpe_tokenizer_hf()
    policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer)
    rows = [ChoiceRow("fox?", ("a", "b"), 0)]
    with pytest.raises(InputError, match=f"field 'choices'.*found '{name}'"):
        evaluate(policy, Wanted(choices={name: rows}))
    found = evaluate(policy, Wanted(sft=tiny.rows(2)[0], choices={"words": rows}))
    assert [part.name for part in found.parts] == ["sft", "words"]
    assert len(terminal_table(found, groups=False)) == 5
    assert "words" in repr(found)


def test_no_file_of_questions_replaces_another(capsys, place, tmp_path):
    text = (place / "mmlu.jsonl").read_text("utf-8")
    names = ("a/test.jsonl", "b/test.jsonl", "mmlu.val.jsonl", "mmlu.test.jsonl", "sft.jsonl")
    files = [tmp_path / name for name in names]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")

    def choices(*some):
        given = [word for file in some for word in ("--choices", file)]
        return run(capsys, "evaluate", place / "policy", *given, "--json")

    for some in ((files[0], files[1]), (files[0], files[0]), (files[4],)):
        code, _, err = choices(*some)
        assert code == 2
        assert "--choices: " in err
    code, out, _ = choices(files[0], files[2], files[3])
    assert code == 0
    assert [part["name"] for part in json.loads(out)["parts"]] == ["test", "mmlu.val", "mmlu.test"]


def without_template(place, to):
    """The policy's folder with another chat template, or with none."""
    shutil.copytree(place, to)
    tokenizer = bpe_tokenizer_hf()
    tokenizer.chat_template = None
    (to / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(to)
    return str(to)


def test_pairs_are_read_as_the_policy_reads_them(place, tmp_path):
    pairs = [
        PreferenceRow(
            (Message("user", f"say {w}"),),
            (Message("assistant", w),),
            (Message("assistant", "the quick brown fox"),),
        )
        for w in ("fox", "dog")
    ]
    policy, base = str(place / "policy"), str(place / "base")
    bare = without_template(place / "base", tmp_path / "bare")
    wanted = Wanted(preference=pairs)
    same, other = (evaluate(policy, wanted, reference=name) for name in (base, bare))
    assert same.parts[0].scores == other.parts[0].scores
    # With exchanged roles the policy cannot read the rows, although its reference can.
    bare = without_template(place / "policy", tmp_path / "bare_policy")
    with pytest.raises(InputError, match="chat template"):
        evaluate(bare, wanted, reference=base)


def test_pairs_are_no_longer_than_policy_and_reference_allow(place):
    tokenizer = bpe_tokenizer_hf()
    short, long = (
        LoadedPolicy.of(tiny_llama(len(tokenizer), max_position_embeddings=n), tokenizer)
        for n in (16, 64)
    )
    rows = [PreferenceRow("fox ", "dog " * 30, "cat"), PreferenceRow("fox", " a", " b")]
    for policy, reference in ((short, long), (long, short)):
        (part,) = evaluate(policy, Wanted(preference=rows), reference=reference).parts
        assert part.notes["truncated"] == 1


def test_what_can_fail_fails_before_the_first_part(place, tmp_path, monkeypatch):
    def first(*_):
        raise AssertionError("a part has run")

    monkeypatch.setattr("tradeoff.llm.evaluation.run._sft", first)
    monkeypatch.setattr("tradeoff.llm.evaluation.run._reference_log_probs", first)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    sft, pairs = tiny.rows(2)
    chat = [SftRow((Message("user", "q"),), (Message("assistant", "a"),))]
    bare = without_template(place / "policy", tmp_path / "bare")
    file = tmp_path / "file"
    file.touch()
    question = ChoiceRow("fox?", ("a", "b"), 0)
    cases = (
        ({"tasks": ("arc",)}, {}, "not installed"),
        ({"exact_match": True, "sampling": Sampling(max_new_tokens=512)}, {}, "no room"),
        ({"choices": {"words": [question]}, "shots": 2}, {}, "examples"),
        ({"refusals": [question]}, {}, "comply"),
        ({"sft": chat}, {}, "chat template"),
        ({"sft": chat, "exact_match": True}, {}, "chat template"),
        ({}, {"out": file / "folder"}, "cannot write"),
    )
    for parts, options, word in cases:
        wanted = Wanted(**{"sft": sft, "preference": pairs} | parts)
        with pytest.raises(InputError, match=word):
            evaluate(bare, wanted, reference=str(place / "base"), **options)


@pytest.mark.parametrize(
    ("judge", "word"),
    [
        (("absent",), "no reward model"),
        (("tiny",), "judge-reference"),
        (("policy",), "this is a policy"),
        (("bare_reward",), "chat template"),
        (("policy", "--judge-reference", "absent"), "no causal model"),
    ],
)
def test_a_judge_is_checked_before_anything_runs(capsys, place, monkeypatch, judge, word):
    monkeypatch.chdir(place)
    if not (place / "bare_reward").exists():
        without_template(place / "reward", place / "bare_reward")
    turns = {
        name: [{"role": role, "content": text}]
        for name, role, text in (
            ("prompt", "user", "q"), ("chosen", "assistant", "a"), ("rejected", "assistant", "b"),
        )
    }  # fmt: skip
    write(place / "chats.jsonl", [turns])
    monkeypatch.setattr("tradeoff.llm.evaluation.evaluate", None)
    code, _, err = run(capsys, "evaluate", "policy", "--win-rate", "chats.jsonl", "--judge", *judge)
    assert code == 2
    assert word in err


def test_what_is_done_is_written_though_a_later_part_fails(tmp_path):
    tokenizer = bpe_tokenizer_hf()
    policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer)
    sft, pairs = tiny.rows(2)

    def judge():
        raise InputError("gone", remedy="None.")

    wanted = Wanted(
        sft=sft, exact_match=True, win_rate=pairs, judge=judge, sampling=Sampling(max_new_tokens=2)
    )
    with pytest.raises(InputError, match="gone"):
        evaluate(policy, wanted, out=tmp_path)
    record = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert [part["name"] for part in record["parts"]] == ["sft", "exact_match"]
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "exact_match.jsonl"}


def test_all_responses_count_as_unended_or_shortened(place):
    data = tiny.rows(3)
    tokenizer = bpe_tokenizer_hf()
    config = TrainConfig(max_length=24)
    policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer, config)
    sampling = Sampling(max_new_tokens=19)
    wanted = Wanted(sft=data[0][:1], preference=data[1], exact_match=True, sampling=sampling)
    part = evaluate(policy, wanted, reference=policy).parts[-1]
    found = [generate(policy, rows, sampling) for rows in (data[0][:1], data[1])]
    assert part.notes["shortened"] == sum(some.shortened for some in found) > 1
    assert part.notes["unended"] == sum(some.ended.count(False) for some in found) > 1


def test_a_reference_that_is_not_used_is_not_recorded(place):
    wanted = Wanted(sft=tiny.rows(2)[0])
    assert evaluate(str(place / "policy"), wanted, reference="absent").reference is None


def test_dropped_examples_are_told(capsys, place):
    code, out, _ = run(
        capsys, "evaluate", place / "policy", "--choices", place / "mmlu.jsonl", "--shots", 1,
        "--shots-from", place / "blank.jsonl", "--skip-bad",
    )  # fmt: skip
    assert code == 0
    assert "blank.jsonl, row 1" in out.replace("\n", "")


def test_brackets_in_what_is_told_are_shown(capsys, place, tmp_path):
    rows = [{"question": "[/q]", "choices": ["a", "[/red]", ""], "answer": 0}]
    rows += [
        {"question": "q", "choices": ["a", "b"], "answer": 0, "subject": f"[/{i}]"} for i in "xy"
    ]
    write(tmp_path / "[bold].jsonl", rows)
    code, out, _ = run(
        capsys, "evaluate", place / "policy", "--choices", tmp_path / "[bold].jsonl", "--skip-bad",
        "--groups", "--out", tmp_path / "[" / "out]",
    )  # fmt: skip
    assert code == 0
    assert all(word in out.replace("\n", "") for word in ("[/x]", "[/red]", "[bold]", "[/out]"))


def test_results_of_another_evaluation_are_not_replaced(capsys, place, tmp_path):
    sft = ("--sft", place / "sft.jsonl", *SHORT, "--out", tmp_path)
    first = ("evaluate", place / "policy", *sft, "--exact-match")
    assert run(capsys, *first)[0] == 0
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments, word in (
        (("evaluate", place / "base", *sft, "--exact-match"), "another model"),
        (("evaluate", place / "policy", *sft), "exact_match"),
    ):
        code, _, told = run(capsys, *arguments)
        assert (code, word in told) == (2, True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    assert run(capsys, *first, "--choices", place / "mmlu.jsonl")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("--extract", "number"), "--exact-match"),
        (("--shots", "2"), "--choices or --task"),
        (("--shots-from", "examples.jsonl", "--choices", "a.jsonl"), "--choices and --shots"),
        (("--style", "text"), "--choices"),
        (("--judge", "reward"), "--win-rate"),
        (("--judge-reference", "base"), "--judge"),
        (("--template", "{question}"), "--refusals"),
    ],
)
def test_an_option_without_effect_is_refused(capsys, place, arguments, needed):
    given = ("evaluate", place / "policy", "--sft", place / "sft.jsonl")
    code, _, told = run(capsys, *given, *arguments)
    assert code == 2
    assert f"error: {arguments[0]}: it has no effect without {needed}" in told


def test_a_policy_that_is_given_as_a_reward_model_is_called_one(capsys, place):
    given = ("evaluate", place / "policy", "--win-rate", place / "pairs.jsonl", *SHORT)
    code, _, told = run(capsys, *given, "--judge", place / "base")
    assert code == 2
    assert "--judge: this is a policy" in told


def test_columns_of_questions_are_those_that_are_named(capsys, place, tmp_path):
    rows = [json.loads(line) for line in (place / "mmlu.jsonl").read_text("utf-8").splitlines()]
    write(tmp_path / "mmlu.jsonl", [{"asked": row.pop("question"), **row} for row in rows])
    given = ("evaluate", place / "policy", "--choices", tmp_path / "mmlu.jsonl")
    code, _, told = run(capsys, *given)
    assert (code, "--columns question=COLUMN" in told) == (2, True)
    for name in ("question", "choices.question"):
        code, out, _ = run(capsys, *given, "--columns", f"{name}=asked")
        assert (code, "accuracy" in out) == (0, True)
    code, _, told = run(capsys, *given, "--columns", "questions=asked")
    assert (code, "no layout has this column" in told) == (2, True)
