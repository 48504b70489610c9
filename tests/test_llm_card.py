"""The model card of a run: it describes what was trained, and its settings repeat the run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows, stop_at, trainer
from test_llm_saved import assert_loads_as_trained
from typer.testing import CliRunner

from tradeoff.cli import app
from tradeoff.errors import InputError
from tradeoff.llm import card, toml
from tradeoff.llm.config import DataConfig, Experiment, Lora, read_experiment
from tradeoff.llm.export import export


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and rows."""
    folder, tokenizer = tmp_path_factory.mktemp("place"), bpe_tokenizer_hf()
    tiny_llama(len(tokenizer)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for name, rows in {"skills": sft_rows(), "taste": preference_rows()}.items():
        text = "".join(f"{json.dumps(vars(row))}\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """The folder of a run of the command, with adapters, checkpoints, and no clipping."""
    command = ["train", "--model", place / "base", "--sft", place / "skills.jsonl", "--steps", 4]
    command += ["--preference", place / "taste.jsonl", "--batch-size", 4, "--max-length", 64]
    command += ["--evaluate-every", 2, "--save-every", 2, "--lora-rank", 2, "--lam", 0.25]
    command += ["--set", "train.clip=none", "--set", "train.holdout=0.2", "--out", place / "run"]
    done = run(*command)
    assert done.exit_code == 0, done.exception
    return place / "run"


def evaluations(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["kind"] == "evaluation"]


def test_the_card_says_what_was_trained(trained, place):
    found = ModelCard.load(trained / "model" / "README.md")
    about = found.data.to_dict()
    assert about["library_name"] == "peft"
    assert about["pipeline_tag"] == "text-generation"
    assert "base_model" not in about  # A folder of this machine.
    last = evaluations(trained)[-1]
    metrics = about["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for part in metrics for metric in part["metrics"]}
    names = ("sft_loss", "preference_loss", "preference_accuracy")
    assert values == pytest.approx({name: last[name] for name in names}, abs=1e-6)
    for text in (
        "adapters for **base**",
        "| demonstrations | `skills.jsonl` | 16 |",
        "| held-out preference pairs | `held out of taste.jsonl` | 4 |",
        "λ = 0.25",
        f"| {last['sft_loss']:.4f} |",
        "tradeoff train run.toml --set train.clip=none --out run",
        f"{last['sft_updates']} follow SFT and {last['preference_updates']} preferences",
    ):
        assert text in found.text, text
    assert str(place) not in found.content


@pytest.mark.slow
def test_the_settings_beside_it_repeat_the_run(trained, tmp_path, monkeypatch):
    (line,) = (
        line
        for line in (trained / "model" / "README.md").read_text("utf-8").splitlines()
        if line.startswith("tradeoff train")
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_bytes((trained / "model" / "run.toml").read_bytes())
    assert run(*shlex.split(line)[1:]).exit_code == 0
    again, first = evaluations(tmp_path / "run"), evaluations(trained)
    assert [x["sft_loss"] for x in again] == [x["sft_loss"] for x in first]
    assert [x["preference_loss"] for x in again] == [x["preference_loss"] for x in first]


def test_a_checkpoint_gets_the_card_of_its_step(trained, tmp_path):
    early = evaluations(trained)[1]
    text = (export(trained, tmp_path / "two", checkpoint=2) / "README.md").read_text("utf-8")
    assert f"| {early['sft_loss']:.4f} |" in text
    assert "- updates: 2\n" in text
    whole = (export(trained, tmp_path / "last") / "README.md").read_text("utf-8")
    assert whole == (trained / "model" / "README.md").read_text("utf-8")


def test_merged_adapters_are_a_model_of_their_own(trained, place, tmp_path):
    out = export(trained, tmp_path / "merged", merged=True)
    assert not (out / "adapter_config.json").exists()
    about = ModelCard.load(out / "README.md").data
    assert about.library_name == "transformers"
    done = run("evaluate", out, "--sft", place / "skills.jsonl", "--json")
    one = run("evaluate", trained, "--sft", place / "skills.jsonl", "--json")
    losses = [json.loads(x.stdout)["parts"][0]["scores"][0]["value"] for x in (done, one)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    with pytest.raises(InputError, match="no adapters to merge"):
        export(place / "base", tmp_path / "again", merged=True)


def test_the_upload_command_is_printed_and_nothing_more(trained, tmp_path):
    out = tmp_path / "my model"
    done = run("export", trained, "--out", out, "--repository", "me/tuned")
    assert done.exit_code == 0, done.exception
    shown = done.output.replace("\n", " ")
    assert f"hf upload me/tuned '{out}' ." in shown
    assert "only if they are written with --merged" in shown
    done = run(
        "export", trained, "--out", tmp_path / "b", "--repository", "a/b", "--merged", "--json"
    )
    found = json.loads(done.stdout)
    assert (found["upload"], found["remarks"]) == (f"hf upload a/b {tmp_path / 'b'} .", [])
    wrong = run("export", trained, "--out", tmp_path / "c", "--repository", "a b/c")
    assert isinstance(wrong.exception, InputError)
    assert not (tmp_path / "c").exists()


def test_a_run_of_python_has_a_card_too(tmp_path):
    settings = {"steps": 12, "evaluate_every": 1, "learning_rate": 0.1, "patience": 1}
    made = trainer("mix", output=tmp_path, lora=Lora(rank=2), clip=None, **settings)
    best = made.train(progress=False).summary["best"]
    text = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "a model made in memory" in text
    assert f"- updates: {best['step']}\n" in text
    assert f"{best['weighted_loss']:.4f}" in text
    assert "`rows in memory`" in text
    assert read_experiment(tmp_path / "model" / "run.toml").train.patience == 1
    assert_loads_as_trained(made, tmp_path)


def test_a_stopped_run_without_held_out_rows_has_one(tmp_path):
    calls = [stop_at(2, 15)]
    made = trainer("mix", output=tmp_path / "run", holdout=0.0, callbacks=calls)
    assert made.train(progress=False).interrupted
    out = export(tmp_path / "run", tmp_path / "out")
    assert "no held-out rows" in (out / "README.md").read_text("utf-8")
    (tmp_path / "run" / "about.json").unlink()  # As written by an older version.
    assert card.texts(tmp_path / "run") == {}


def test_hub_names_stand_in_the_header():
    data = {"source": "me/chats:a@train", "rows": 1, "tokens": 2}
    about = {
        "base": "me/model",
        "on_hub": True,
        "adapters": False,
        "schedule": {"label": "Mix", "name": "mix", "lam": 0.5},
        "cautions": ["one: do not compare"],
        "data": {"sft": data, "preference": {**data, "source": "taste|.jsonl"}},
        "train": {},
        "complete": True,
        "assignments": [],
        "versions": {},
    }
    text = card.render(about, [], 3)
    assert "\n\n*Note.* One: do not compare.\n\n" in text
    found = ModelCard(text).data.to_dict()
    assert (found["base_model"], found["datasets"]) == ("me/model", ["me/chats"])
    assert found["base_model_relation"] == "finetune"


def test_names_of_columns_are_quoted(tmp_path):
    data = DataConfig(columns={"sft.prompt": "q", "chosen": 'é "x"'})
    made = Experiment(data=data)
    path = toml.write_experiment(tmp_path / "run.toml", made)
    assert read_experiment(path).data == data


def test_a_run_that_is_not_there_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such folder") as caught:
        export("runs/absent", "out")
    assert caught.value.value == "runs/absent"
    assert not list(tmp_path.iterdir())
