"""Methods compared on one model and its rows: the runs, the table, the page, the command."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows, stop_at
from typer.testing import CliRunner

from tradeoff import compare, experiment
from tradeoff._pages import HEIGHT, MARGIN, WIDTH
from tradeoff.cli import app
from tradeoff.compare import work
from tradeoff.compare.grid import reads_weight
from tradeoff.compare.page import loss_space, with_interval
from tradeoff.compare.runs import read_run
from tradeoff.errors import InputError
from tradeoff.methods import METHODS, find
from tradeoff.records import read_json, write_json

COST = ["seconds"]
"""Columns that differ between two equal runs."""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A random model, rows and a short run, for the command line."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), bpe_tokenizer_hf()
    tiny_llama(len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = ["--model", str(folder), "--steps", "4", "--batch-size", "4", "--evaluate-every", "2"]
    for name, rows in {"sft": sft_rows(), "preference": preference_rows()}.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(vars(row))}\n" for row in rows), "utf-8")
        found += [f"--{name}", str(path)]
    return [*found, "--set", "train.holdout=0.3", "--set", "train.learning_rate=0.01",
            "--set", "train.fsync=false"]  # fmt: skip


METHODS_GIVEN = ("--method", "mix", "--schedule", "sft-dpo", "--lam", "0.5", "--seeds", "2")


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, flags: list[str]) -> Path:
    """A comparison of two methods with two seeds."""
    out = tmp_path_factory.mktemp("compared")
    found = run(*flags, *METHODS_GIVEN, "--out", out)
    assert found.exit_code == 0, found.output
    assert "4 runs; 4 to train of 4 updates" in found.output
    assert "disk: up to" in found.output
    assert "time: about" in found.output
    assert "4/4 sft-dpo-lam0.5-seed1" in found.output
    assert "SFT→DPO" in found.output
    return out


def table(out: Path) -> pd.DataFrame:
    return pd.DataFrame(read_json(out / "compare.json")["runs"]).drop(columns=[*COST, "folder"])


def made(name: str, lam: float, seed: int) -> Any:
    return experiment.settings(None, {"method": name, "schedule.lam": lam, "train.seed": seed})


def test_every_method_at_every_weight_with_every_seed():
    found = compare.grid(made, ["mix", "mix+pcgrad", "constrained"], [0.25, 0.75], [3, 4])
    assert len(found) == 2 * (2 + 2 + 1)
    assert found[0].name == "mix-lam0.25-seed3"
    assert [each.experiment.train.seed for each in found] == [3] * 5 + [4] * 5
    assert not reads_weight(find("constrained"))
    assert all(reads_weight(method) for name, method in METHODS.items() if name != "constrained")


def test_what_varies_cannot_be_set():
    def fixed(name: str, lam: float, seed: int) -> Any:
        return made(name, 0.4, seed)

    with pytest.raises(InputError, match="varies this setting by itself"):
        compare.grid(fixed, ["mix"], [0.5], [0])


@pytest.mark.slow
def test_the_table_has_means_and_intervals_over_seeds(done):
    record = read_json(done / "compare.json")
    runs, rows = pd.DataFrame(record["runs"]), {r["method"]: r for r in record["methods"]}
    assert set(rows) == {"Mix", "SFT→DPO"}
    own = runs[runs.method == "Mix"]
    assert rows["Mix"]["n"] == 2
    assert rows["Mix"]["sft_loss"] == pytest.approx(own.sft_loss.mean(), rel=1e-5)
    # Two seeds have one degree of freedom, whose quantile is 12.706.
    half = 12.7062 * own.sft_loss.std(ddof=1) / np.sqrt(2)
    assert rows["Mix"]["± sft_loss"] == pytest.approx(half, rel=1e-3)
    assert rows["Mix"]["gradients"] == 8  # Both objectives in each of four updates.
    assert rows["SFT→DPO"]["gradients"] == 4
    best = min(rows.values(), key=lambda row: row["weighted_loss"])
    assert best["behind_best"] == 0
    weighted = (runs.sft_loss + runs.preference_loss) / 2
    assert runs.weighted_loss.to_numpy() == pytest.approx(weighted.to_numpy(), rel=1e-5)


def test_runs_keep_what_compares_them_and_no_weights(done):
    folder = done / "runs" / "mix-lam0.5-seed0"
    names = {path.name for path in folder.iterdir()}
    assert {"run.toml", "metrics.jsonl", "trajectory.csv", "summary.json"} <= names
    assert not {"checkpoints", "model"} & names
    assert list((done / "reference").glob("*.safetensors"))


def test_the_same_command_trains_nothing_again(done, flags, monkeypatch):
    monkeypatch.setattr(work, "train_one", None)
    before = read_json(done / "compare.json")
    assert run(*flags, *METHODS_GIVEN, "--out", done).exit_code == 0
    assert read_json(done / "compare.json") == before


@pytest.mark.slow
def test_an_interrupted_comparison_ends_as_one_that_was_not(done, flags, tmp_path, monkeypatch):
    prepare, stopped = experiment.prepare, []

    def stopping(*given: Any, **settings: Any) -> Any:
        trainer = prepare(*given, **settings)
        if trainer.output is not None and trainer.output.name == "mix-lam0.5-seed1":
            stopped.append(trainer.output)
            trainer.callbacks = (stop_at(2, signal.SIGINT),)
        return trainer

    monkeypatch.setattr(experiment, "prepare", stopping)
    found = run(*flags, *METHODS_GIVEN, "--out", tmp_path)
    assert found.exit_code == 130
    assert f"2 of 4 runs have ended and are kept in {tmp_path}" in found.stderr
    assert (stopped[0] / "checkpoints").is_dir()
    monkeypatch.undo()
    assert run(*flags, *METHODS_GIVEN, "--out", tmp_path).exit_code == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(done))


def test_other_settings_are_refused(done, flags):
    found = run(*flags, *METHODS_GIVEN, "--beta", "0.3", "--out", done)
    assert isinstance(found.exception, InputError)
    assert found.exception.field == "settings.train.beta"
    assert found.exception.value == 0.1


def test_settings_of_no_schedule_are_refused(flags, tmp_path):
    found = run(*flags, *METHODS_GIVEN, "--rounds", "8", "--out", tmp_path)
    assert isinstance(found.exception, InputError)
    assert found.exception.field == "--rounds"


def test_runs_that_exist_are_compared(done, tmp_path):
    folders = sorted((done / "runs").iterdir())
    found = run(*folders, "--out", tmp_path, "--json")
    assert found.exit_code == 0, found.output
    alone = run(folders[0], "--out", tmp_path)
    assert "1 run, 1 seed: without intervals" in alone.output
    assert json.loads(found.output)["methods"] == read_json(done / "compare.json")["methods"]
    for given in (["--steps", "3"], ["--seeds", "3"], ["--jobs", "1"], ["--keep-models"]):
        refused = run(*folders, *given, "--out", tmp_path)
        assert isinstance(refused.exception, InputError), given
        assert "take no settings" in str(refused.exception)


def changed(run_folder: Path, place: Path, **identity: Any) -> Path:
    """A copy of a run's records, with another identity."""
    place.mkdir()
    for name in ("metrics.jsonl", "summary.json"):
        (place / name).write_bytes((run_folder / name).read_bytes())
    summary = read_json(place / "summary.json")
    write_json(place / "summary.json", {**summary, "identity": summary["identity"] | identity})
    return place


@pytest.mark.parametrize("name", ["beta", "sft_test", "model", "reference"])
def test_other_yardsticks_are_refused_by_name(done, tmp_path, name):
    first = done / "runs" / "mix-lam0.5-seed0"
    other = changed(first, tmp_path / "other", **{name: "another"})
    with pytest.raises(InputError, match="cannot be compared") as caught:
        compare.of_runs([first, other])
    assert (caught.value.field, caught.value.value) == (name, "another")
    assert str(first) in str(caught.value)


def test_other_rows_and_settings_are_named(done, tmp_path):
    first = done / "runs" / "mix-lam0.5-seed0"
    other = changed(first, tmp_path / "other", sft="more", learning_rate=0.5)
    found = compare.of_runs([first, other])
    assert "trained on different demonstrations" in found.remarks[0]
    assert sorted(found.runs.settings) == ["learning_rate = 0.01", "learning_rate = 0.5"]
    assert found.methods.n.tolist() == [1, 1]
    assert found.methods["± sft_loss"].isna().all()


def test_own_optimisers_are_told_apart(done, tmp_path):
    first = done / "runs" / "mix-lam0.5-seed0"
    other = changed(first, tmp_path / "other", own_optimizer="mine.<lambda>-0123abcd")
    found = compare.of_runs([first, other])
    assert not found.remarks
    assert sorted(found.runs.settings)[0] == 'own_optimizer = "mine.<lambda>-0123abcd"'


def test_methods_with_held_out_rows_of_other_seeds_are_refused(done):
    runs = done / "runs"
    with pytest.raises(InputError, match="methods have different seeds"):
        compare.of_runs([runs / "mix-lam0.5-seed0", runs / "sft-dpo-lam0.5-seed1"])


def test_runs_that_have_not_ended_are_left_out(done, tmp_path):
    first = done / "runs" / "mix-lam0.5-seed0"
    longer = changed(first, tmp_path / "longer", steps=100)
    found = compare.of_runs([first, longer])
    assert len(found.runs) == 1
    assert "stopped after 4 of 100 updates" in found.remarks[0]
    with pytest.raises(InputError, match="none of 1 runs has ended"):
        compare.of_runs([longer])
    with pytest.raises(InputError, match="no run in this folder"):
        compare.of_runs([tmp_path])


def test_a_diverged_run_counts_and_has_no_losses(done, tmp_path):
    first = done / "runs" / "mix-lam0.5-seed0"
    other = changed(first, tmp_path / "other", seed=1)
    write_json(other / "summary.json", read_json(other / "summary.json") | {"diverged_at": 3})
    found = read_run(other)
    assert not isinstance(found, str)
    assert found.diverged
    both = compare.of_runs([first, other]).methods.iloc[0]
    assert (both.n, both.diverged) == (1, 1)
    assert np.isfinite(both.sft_loss)


def test_the_page_is_one_small_file_that_escapes_texts(done):
    found = compare.of_runs(sorted((done / "runs").iterdir()))
    page = replace(found, remarks=("<script>alert(1)</script>",)).page("<b>&")
    assert "&lt;b&gt;&amp;" in page
    assert "<script>alert" not in page
    assert "http" not in page
    assert len(page) < 30_000
    assert page.count("<circle") == 1 + len(found.methods)
    assert (done / "compare.html").read_text("utf-8").startswith("<!doctype html>")


def test_numbers_have_the_digits_that_their_intervals_allow():
    assert with_interval(1.23456, 0.0213) == "1.235 ± 0.021"
    assert with_interval(1.23456, float("nan")) == "1.235"
    assert with_interval(float("nan"), 1.0) == ""


@pytest.mark.slow
def test_worker_processes_give_the_same(done, flags, tmp_path):
    assert run(*flags, *METHODS_GIVEN, "--jobs", "2", "--out", tmp_path).exit_code == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(done), rtol=1e-4)


def test_a_setting_that_one_schedule_has_is_taken(flags, tmp_path):
    few = ("--method", "rounds", "--rounds", "2", "--steps", "4", "--seeds", "1", "--lam", "0.5")
    assert run(*flags, *few, "--out", tmp_path).exit_code == 0
    found = json.loads((tmp_path / "compare.json").read_text("utf-8"))
    assert [row["method"] for row in found["runs"]] == ["Rounds (K=2)"]


def test_intervals_stay_inside_the_picture():
    names = ("sft_loss", "preference_loss")
    row = dict.fromkeys(names, 1.0) | {f"± {name}": 50.0 for name in names}
    rows = pd.DataFrame([{"method": label, "settings": "", "lam": 0.5, **row} for label in "ab"])
    rows.loc[1, list(names)] = 2.0
    svg = loss_space(rows, np.array([1.5, 1.5]))
    bars = re.findall(r'class="bar" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    places = np.array(bars, dtype=float).reshape(-1, 2)
    assert len(bars) == svg.count('class="bar"') == 4
    assert (places >= MARGIN).all()
    assert (places <= [WIDTH - MARGIN, HEIGHT - MARGIN]).all()


def test_each_count_of_lost_rows_has_a_remedy() -> None:
    lost = experiment.lost({"sft": {"truncated": 3, "rows": 9}, "preference": {"rows": 5}})
    said = {"remarks": ["sft: a finding"], "dropped": ["row 7: the template refuses it."]}
    assert experiment.in_lines(said, lost) == [
        "sft: a finding",
        "dropped: row 7: the template refuses it.",
        "sft truncated: 3. What is behind max_length is not trained on: raise it, or shorten them.",
    ]


def test_one_run_counts_once(done, tmp_path):
    first = done / "runs" / "mix-lam0.5-seed0"
    again = changed(first, tmp_path / "again")
    found = compare.of_runs([first, first, again])
    assert found.methods.n.tolist() == [1]
    assert found.remarks == (f"{again} is left out: it repeats {first}",)


def test_training_rows_tell_runs_apart_that_nothing_else_does(done, tmp_path):
    first = done / "runs" / "mix-lam0.5-seed0"
    runs = [changed(first, tmp_path / name, sft=name) for name in ("every", "cleaned")]
    found = compare.of_runs(runs)
    assert found.methods.n.tolist() == [1, 1]
    assert found.runs.settings.tolist() == ["demonstrations = every", "demonstrations = cleaned"]
    for place in runs:
        data = {"sft": {"source": f"{place.name}.jsonl"}}
        (place / "about.json").write_text(json.dumps({"data": data}))
    named = compare.of_runs(runs).runs.settings
    assert named.tolist() == ["demonstrations = every.jsonl", "demonstrations = cleaned.jsonl"]


def test_without_held_out_rows_nothing_is_trained(flags, tmp_path):
    found = run(*flags, *METHODS_GIVEN, "--set", "train.holdout=0", "--out", tmp_path / "out")
    assert isinstance(found.exception, InputError)
    assert found.exception.field == "train.holdout"
    assert not (tmp_path / "out" / "runs").exists()


def test_models_that_were_kept_stay_and_missing_ones_are_named(flags, tmp_path):
    given = [*flags, "--method", "mix", "--lam", "0.5", "--seeds", "1", "--out", tmp_path]
    model = tmp_path / "runs" / "mix-lam0.5-seed0" / "model"
    assert run(*given, "--keep-models").exit_code == 0
    assert run(*given).exit_code == 0
    assert model.is_dir()
    assert "has no model" not in run(*given, "--keep-models").output
    model.rename(tmp_path / "model")
    assert f"{model.parent} has no model" in run(*given, "--keep-models").output


def test_another_tokenizer_of_the_same_path_is_refused(flags, tmp_path):
    folder = Path(shutil.copytree(flags[flags.index("--model") + 1], tmp_path / "model"))
    given = [*flags, "--model", folder, "--method", "mix", "--lam", "0.5", "--seeds", "1"]
    given += ["--steps", "1", "--out", tmp_path / "out"]
    assert run(*given).exit_code == 0
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8") + " ", "utf-8")
    refused = run(*given).exception
    assert isinstance(refused, InputError)
    assert refused.field == "tokenizer"


def test_dropped_rows_are_said_and_recorded(flags, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(Path(flags[flags.index("--sft") + 1]).read_text() + '{"prompt": "alone"}\n')
    given = [*flags, "--method", "mix", "--lam", "0.5", "--seeds", "1", "--steps", "1"]
    given += ["--sft", bad, "--skip-bad", "--out", tmp_path / "out"]
    found = run(*given)
    assert found.output.count("dropped: ") == 1
    assert found.output.index("dropped: ") < found.output.index("1 to train")
    remarks = json.loads(run(*given, "--json").output)["remarks"]
    assert sum("row 21" in text for text in remarks) == 1


def test_the_terminal_counts_diverged_runs(flags, tmp_path):
    given = [*flags, "--method", "mix", "--lam", "0.5", "--seeds", "1", "--out", tmp_path]
    found = run(*given, "--set", "train.learning_rate=1e30")
    assert "diverged" in found.output
