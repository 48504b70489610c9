"""Rows on the command line: refused rows, splits of the hub, labels and columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from llm_models import byte_tokenizer_hf, tiny_llama
from typer.testing import CliRunner

from tradeoff.cli import app
from tradeoff.errors import InputError

REFUSING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
FEW = ["--batch-size", "4", "--rows-per-forward", "4", "--max-length", "64", "--steps", "2"]
FEW += ["--json"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SFT = [{"messages": [user(f"Say {i}."), assistant(f"{i}")]} for i in range(24)]
PAIRS = [
    {"prompt": [user(f"Say {i}.")], "chosen": [assistant(f"{i}")], "rejected": [assistant("no")]}
    for i in range(24)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("model"), byte_tokenizer_hf()
    tokenizer.chat_template = REFUSING
    tiny_llama(len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.slow
@pytest.mark.parametrize("holdout", [0.3, 0])
def test_a_refused_row_is_dropped_where_asked(model: Path, tmp_path: Path, holdout: float) -> None:
    rows: list[Any] = [{"messages": []}, {"messages": None}, *json.loads(json.dumps(SFT))]
    rows[19]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    sft = write(tmp_path / "sft.jsonl", rows)
    pairs = write(tmp_path / "pairs.jsonl", PAIRS)
    command = ["train", "--model", model, "--sft", sft, "--preference", pairs, *FEW]
    command += ["--set", f"train.holdout={holdout}", "--out", tmp_path / "run", "--skip-bad"]
    done = run(*command)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert all(f"row {row}" in line for row, line in zip((1, 2, 20), found["dropped"], strict=True))
    assert f"{sft}, row 20: the chat template refuses" in found["dropped"][2]
    assert sum(part["refused"] for part in found["data"].values()) == 1
    if holdout:
        done = run("evaluate", model, "--sft", sft, "--exact-match", "--skip-bad", "--json")
        assert done.exit_code == 0, done.exception
        assert f"{sft}, row 20" in str(json.loads(done.stdout))
        done = run("evaluate", model, "--sft", write(sft, rows[2:]), "--json")
        assert isinstance(done.exception, InputError)
        assert (done.exception.file, done.exception.row) == (str(sft), 18)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "me/chats": {"train": SFT[:16], "test": SFT[16:]},
        "me/feedback": {"train_prefs": PAIRS[:16], "test_prefs": PAIRS[16:]},
    }

    def load_dataset(name: str, *_: Any, split: str) -> Any:
        if split not in found[name]:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(found[name])}.')
        return datasets.Dataset.from_list(found[name][split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.usefixtures("hub")
def test_splits_of_the_hub_are_named(model: Path, tmp_path: Path) -> None:
    command = ["train", "--model", model, *FEW, "--out", tmp_path, "--sft", "me/chats"]
    for more, problem in (
        (["--sft-test", "me/chats", "--preference", "me/feedback@train_prefs"], "their split"),
        (["--sft-test", "me/chats@train", "--preference", "me/feedback@train_prefs"], "also train"),
        (["--preference", "me/feedback"], "Should be one of"),
        (["--preference", "me/feedback[train_prefs]"], "no such file"),
    ):
        done = run(*command, *more)
        assert isinstance(done.exception, InputError)
        assert problem in str(done.exception)
    done = run("evaluate", model, "--sft", "me/chats")
    assert "their split" in str(done.exception)
    tests = ["--sft-test", "me/chats@test", "--preference-test", "me/feedback@test_prefs"]
    done = run(*command, "--preference", "me/feedback@train_prefs", *tests)
    assert done.exit_code == 0, done.exception
    counts = {name: about["rows"] for name, about in json.loads(done.stdout)["data"].items()}
    assert counts == {"sft": 16, "preference": 16, "sft_test": 8, "preference_test": 8}


def test_columns_and_labels(model: Path, tmp_path: Path) -> None:
    sft = tmp_path / "qa.csv"
    sft.write_text("q,a,id\n" + "".join(f"Say {i}.,{i},7\n" for i in range(8)))
    rows = [{"prompt": f"Say {i // 2}.", "completion": f"{i}", "label": i % 2} for i in range(16)]
    pairs = write(tmp_path / "kto.jsonl", rows)
    command = ["train", "--model", model, "--sft", sft, "--preference", pairs, *FEW]
    command += ["--out", tmp_path / "run"]
    names = ["--columns", "sft.prompt=q", "--columns", "sft.completion=a"]
    done = run(*command, *names)
    assert "unpaired preference data" in str(done.exception)
    done = run(*command, *names, "--use-labels", "--set", "train.holdout=0")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found["data"]["preference"]["rows"] == 8
    assert f"{sft}: ignored columns: id (8)" in found["remarks"]


def test_pairs_of_small_margin_are_left_out(model: Path, tmp_path: Path) -> None:
    sft = write(tmp_path / "sft.jsonl", SFT)
    scored = [{**row, "score_chosen": i / 10, "score_rejected": 0} for i, row in enumerate(PAIRS)]
    pairs = write(tmp_path / "scored.jsonl", scored)
    plain = write(tmp_path / "plain.jsonl", PAIRS)
    command = ["train", "--model", model, "--sft", sft, *FEW, "--set", "train.holdout=0"]
    command += ["--out", tmp_path / "run", "--min-margin", "1.2"]
    done = run(*command, "--preference", pairs)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found["data"]["preference"]["rows"] == 12
    assert f"{pairs}: 12 pairs left out whose margin is below 1.2" in found["remarks"]
    measured = ["evaluate", model, "--reference", model, "--preference"]
    done = run(*measured, pairs, "--min-margin", "2.25", "--json")
    assert f"{pairs}: 23 pairs left out whose margin is below 2.25" in done.stdout
    for failing in (
        [*command, "--preference", plain],
        ["analyse", "--sft", sft, "--preference", plain, "--min-margin", "1"],
        [*measured, plain, "--min-margin", "1"],
    ):
        error = run(*failing).exception
        assert isinstance(error, InputError)
        assert (error.file, error.row, error.problem) == (str(plain), 1, "the pair has no scores")
