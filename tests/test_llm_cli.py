"""`tradeoff train` as a user sees it: flags, files, output, signals, many processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows
from safetensors.torch import load_file
from typer.testing import CliRunner

from tradeoff import experiment, schedules, tiny
from tradeoff.cli import app, main
from tradeoff.errors import InputError
from tradeoff.llm import waste
from tradeoff.llm.config import Experiment

FEW = ("--steps", "4", "--batch-size", "4", "--evaluate-every", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), bpe_tokenizer_hf()
    tiny_llama(len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, model: Path) -> list[str]:
    """Model and rows for the command line."""
    folder, found = tmp_path_factory.mktemp("rows"), ["--model", str(model)]
    for name, rows in {"sft": sft_rows(), "preference": preference_rows()}.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(vars(row))}\n" for row in rows), "utf-8")
        found += [f"--{name}", str(path)]
    return found


def run(*arguments: Any) -> Any:
    """Run the command in this process; return its exit status and its output."""
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_help_shows_a_file_that_is_right():
    done = run("--help")
    assert done.exit_code == 0
    for line in ("[schedule]", "targets =", "tradeoff train"):
        assert line in done.output
    settings = tomllib.loads(experiment.EXAMPLE)
    assert set(settings) == {"model", "data", "schedule", "train"}


def test_the_example_is_an_experiment(tmp_path):
    (tmp_path / "run.toml").write_text(experiment.EXAMPLE, "utf-8")
    found = experiment.settings(tmp_path / "run.toml", {})
    assert found.train.lora is not None
    assert (found.train.lora.rank, found.make_schedule().name) == (16, "maxright")


def test_a_file_from_windows_is_read(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nsteps = 7\r\n")
    assert experiment.settings(tmp_path / "run.toml", {}).train.steps == 7
    with pytest.raises(InputError, match="cannot be read as TOML: No such file or directory"):
        experiment.settings(tmp_path / "absent.toml", {})


def test_an_error_in_adapters_names_the_option():
    assert run("--lora-rank", "0").exception.field == "--lora-rank"


def test_without_settings_the_defaults_hold():
    assert experiment.settings(None, {}) == Experiment()


def test_flags_override_the_file_and_set_overrides_flags(tmp_path):
    (tmp_path / "run.toml").write_text(experiment.EXAMPLE, "utf-8")
    found = experiment.settings(
        tmp_path / "run.toml",
        {"train.steps": 7, "schedule.lam": 0.25, "train.lora.rank": 4, "train.beta": None},
        ["train.clip=none", "train.optima=[1.5, 0.2]", "train.loss=ipo", "train.beta = 0.3"],
    )
    assert (found.train.steps, found.train.clip, found.train.loss) == (7, None, "ipo")
    assert (found.train.optima, found.train.beta) == ((1.5, 0.2), 0.3)
    assert found.train.lora is not None
    assert (found.train.lora.rank, found.train.lora.targets) == (4, ("query_key_value",))
    assert found.make_schedule().lam == 0.25


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sft-dpo", {"name": "sequential", "first": "sft"}),
        ("dpo-sft", {"name": "sequential", "first": "preference"}),
        ("mix", {"name": "mix"}),
        ("maxright", {"name": "maxright"}),
        ("rounds", {"name": "rounds"}),
    ],
)
def test_schedules_by_the_names_of_the_command_line(name, expected):
    found = experiment.settings(None, {"schedule": name, "schedule.lam": 0.3})
    assert found.schedule == {**expected, "lam": 0.3}
    assert found == experiment.settings(None, {"schedule.lam": 0.3}, [f"schedule={name}"])


def test_what_a_release_gate_asks_for():
    found = experiment.settings(None, {"schedule": "constrained", "schedule.limit": 0.05})
    assert found.make_schedule() == schedules.Constrained(limit=0.05, refresh=10, samples=64)
    share = {"schedule": "constrained", "schedule.limit": 0.1, "schedule.relative": True}
    assert experiment.settings(None, share).make_schedule().label == "Constrained (10 %)"


def written(folder: Path, text: str) -> Path:
    (folder / "run.toml").write_text(text, "utf-8")
    return folder / "run.toml"


TABLE = '[schedule]\nname = "sequential"\nlam = 0.25\nshare = 0.4\nreplay = 0.1\n'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mix", {"name": "mix", "lam": 0.25}),
        ("sequential", {"name": "sequential", "lam": 0.25, "share": 0.4, "replay": 0.1}),
        (
            "dpo-sft",
            {
                "name": "sequential",
                "first": "preference",
                "lam": 0.25,
                "share": 0.4,
                "replay": 0.1,
            },
        ),
    ],
)
def test_another_schedule_keeps_what_it_can_of_the_file(tmp_path, name, expected):
    file = written(tmp_path, TABLE)
    assert experiment.settings(file, {"schedule": name}).schedule == expected
    assert experiment.settings(file, {"schedule": name, "schedule.lam": 0.5}).schedule["lam"] == 0.5


def test_a_schedule_may_be_a_name_alone(tmp_path):
    file = written(tmp_path, 'schedule = "dpo-sft"')
    assert experiment.settings(file, {}).schedule == {"name": "sequential", "first": "preference"}


def test_maxright_is_the_same_wherever_it_is_named(tmp_path):
    ways = (
        experiment.settings(None, {"schedule": "maxright"}),
        experiment.settings(None, {}, ["schedule=maxright"]),
        experiment.settings(None, {}, ["schedule.name=maxright"]),
        experiment.settings(written(tmp_path, '[schedule]\nname = "maxright"'), {}),
        experiment.settings(written(tmp_path, 'schedule = "maxright"'), {}),
    )
    made: list[Any] = [way.make_schedule() for way in ways]
    assert {(found.refresh, found.samples) for found in made} == {(10, 64)}
    exact: Any = experiment.settings(None, {"schedule": "maxright"}, ["schedule.samples=0"])
    assert exact.make_schedule().samples == 0


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[schedule]\nlam = 2.0", "schedule.lam"),
        ("[schedule]\nlambda = 0.5", "schedule.lambda"),
        ('schedule = "best"', "schedule.name"),
        ("schedule = 3", "schedule"),
    ],
)
def test_a_wrong_schedule_names_file_and_table(tmp_path, text, field):
    file = written(tmp_path, text)
    with pytest.raises(InputError) as error:
        experiment.settings(file, {})
    assert (error.value.file, error.value.field) == (str(file), field)
    assert "found" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--lam", "1.5"], "lam"),
        (["--schedule", "best"], "unknown schedule"),
        (["--set", "train.stepz=3"], "stepz"),
        (["--set", "train.clip"], "--set NAME=VALUE"),
        (["--set", "trian.clip=3"], "trian"),
        (["--steps", "0"], "steps"),
        (["--rows", "-5"], "found -5"),
        (["--rows", "0"], "--rows: "),
        (["--limit", "0.1"], "--limit: "),
        (["--schedule", "constrained", "--limit", "-1"], "--limit: "),
        (["--schedule", "constrained", "--limit", "2", "--relative"], "--limit: "),
        (["--schedule", "rounds", "--rounds", "0"], "--rounds: "),
        (["--set", "data.preference_limit=0"], "data.preference_limit"),
        (["--learning-rate", "-2.5"], "found -2.5"),
        (["--precision", "fp8"], "precision"),
        (["--sft", "absent.jsonl"], "absent.jsonl"),
        (["absent.toml"], "absent.toml"),
    ],
)
def test_bad_settings_are_named_before_anything_is_loaded(arguments, word, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "folder", None)
    done = run(*arguments, "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError)
    assert word in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line_and_told_once_among_many_processes(capsys, monkeypatch):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as stop:
            main(["train", "--lam", "2"])
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == lines


@pytest.fixture(scope="module")
def finished(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of four updates."""
    out = tmp_path_factory.mktemp("finished")
    return out, run(*flags, *FEW, "--out", out, "--schedule", "mix")


def test_a_run_leaves_everything_behind(finished):
    out, done = finished
    assert done.exit_code == 0, done.output
    names = {path.name for path in out.iterdir()}
    tables = {"metrics.jsonl", "trajectory.csv", "trajectory.parquet", "summary.json"}
    pictures = {"loss_space.svg", "loss_space.png"}
    # The lock file stays: deleting it could delete the lock of the next run.
    assert names == tables | pictures | {"about.json", "run.toml", "checkpoints", "model", ".lock"}
    table = pd.read_parquet(out / "trajectory.parquet")
    assert table.step.tolist() == [0, 2, 4]
    pd.testing.assert_frame_equal(table, pd.read_csv(out / "trajectory.csv"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["sft_loss"] for line in lines if "sft_loss" in line] == table.sft_loss.tolist()


def test_the_summary_tells_first_and_last_losses(finished):
    out, done = finished
    table = pd.read_csv(out / "trajectory.csv")
    for value in (table.sft_loss.iloc[0], table.preference_loss.iloc[-1]):
        assert f"{value:.4g}" in done.output
    for word in ("Mix", "tokens per second", "peak memory", "updates of sft", "written"):
        assert word in done.output


@pytest.mark.parametrize(("saved", "said"), [(0.47, "which saves 47%"), (0.1, "padded on cpu\n")])
def test_the_first_line_tells_of_a_faster_attention(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: float, said: str
) -> None:
    monkeypatch.setattr(waste, "saved_by_bounds", lambda *_: saved)
    done = run(*flags, *FEW, "--out", tmp_path / "run", "--set", 'train.layout="padded"')
    assert said in done.output


def test_json_is_one_object_and_a_finished_run_is_not_repeated(finished, flags):
    out, _ = finished
    before = load_file(out / "model" / "model.safetensors")
    done = run(*flags, *FEW, "--out", out, "--schedule", "mix", "--json")
    record = json.loads(done.stdout)
    assert (record["steps"], record["signal"], record["diverged_at"]) == (4, 0, None)
    assert record["updates"] == {"sft": 4, "preference": 4}
    after = load_file(out / "model" / "model.safetensors")
    assert all(bool((before[name] == after[name]).all()) for name in before)


@pytest.mark.slow
def test_another_run_does_not_go_on_in_its_folder_unless_told(finished, flags, tmp_path):
    out = tmp_path / "run"
    assert run(*flags, *FEW, "--out", out).exit_code == 0
    other = [*flags, *FEW, "--out", out, "--lam", "0.1"]
    done = run(*other)
    assert isinstance(done.exception, InputError)
    assert "belongs to another run" in str(done.exception)
    assert run(*other, "--no-resume").exit_code == 0
    assert json.loads((out / "summary.json").read_text())["schedule"]["lam"] == 0.1


def test_bad_rows_are_named_or_dropped_and_listed(flags, tmp_path):
    sft = Path(flags[3])
    worse = tmp_path / "worse.jsonl"
    worse.write_text(sft.read_text("utf-8") + '{"prompt": "p"}\n', "utf-8")
    arguments = [*flags, *FEW, "--sft", worse, "--out", tmp_path / "out"]
    done = run(*arguments)
    assert isinstance(done.exception, InputError)
    assert "row 21" in str(done.exception)
    done = run(*arguments, "--skip-bad", "--json")
    assert len(json.loads(done.stdout)["dropped"]) == 1


@pytest.mark.slow
def test_a_diverged_run_has_its_own_status(flags, tmp_path):
    assert run(*flags, *FEW, "--out", tmp_path).exit_code == 0
    done = run(
        *flags,
        *FEW,
        "--out",
        tmp_path,
        "--no-resume",
        "--learning-rate",
        "1000",
        "--set",
        "train.weight_decay=1000",
        "--set",
        "train.log_every=1",
    )
    assert done.exit_code == 1
    assert "diverged" in done.output
    assert "no checkpoint was written before" in done.output
    # Files of the earlier run would be mistaken for the end of this one.
    assert not (tmp_path / "model").exists()


def test_the_limit_is_that_of_training_rows(flags, tmp_path):
    held_out = tmp_path / "held-out.jsonl"
    some = [{"prompt": f"What is {i}? ", "completion": f"{i} it is"} for i in range(20)]
    held_out.write_text("".join(f"{json.dumps(row)}\n" for row in some), "utf-8")
    done = run(*flags, *FEW, "--sft-test", held_out, "--rows", "7", "--out", tmp_path, "--json")
    data = json.loads(done.stdout)["data"]
    assert (data["sft"]["rows"], data["sft_test"]["rows"]) == (7, 20)


@pytest.mark.slow
def test_training_goes_on_from_a_run_by_its_folder(flags, tmp_path):
    run(*flags, *FEW, "--out", tmp_path / "first")
    for number, place in enumerate(["first", "first/model"]):
        more = [*flags, *FEW, "--model", tmp_path / place, "--json"]
        more += ["--set", f"train.reference={tmp_path / place}"]
        assert run(*more, "--out", tmp_path / str(number)).exit_code == 0
    both = [(tmp_path / n / "model" / "model.safetensors").read_bytes() for n in "01"]
    assert both[0] == both[1]
    done = run(
        *flags, *FEW, "--model", tmp_path / "first", "--out", tmp_path / "first", "--no-resume"
    )
    assert "write its model over this one" in str(done.exception)


@pytest.mark.parametrize("place", [".", "model", "model/base"])
def test_a_run_does_not_write_over_the_model_it_starts_from(flags, model, tmp_path, place):
    start = tmp_path / place
    start.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        (start / file.name).write_bytes(file.read_bytes())
    for wrong in (["--model", start], ["--set", f"train.reference={start}"]):
        done = run(*flags, *FEW, *wrong, "--out", tmp_path, "--no-resume")
        assert isinstance(done.exception, InputError)
        assert "write its model over this one" in str(done.exception)


def test_the_small_model_can_be_the_reference(flags, model, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "folder", lambda progress: model)
    done = run(*flags, *FEW, "--set", "train.reference=tiny", "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_the_reference_is_kept_for_the_next_run(flags, tmp_path, monkeypatch):
    """Another weight and another folder, on the same rows: nothing is scored a second time."""
    from tradeoff.llm._scorer import Scorer

    counts, whole = [], Scorer.log_probs
    monkeypatch.setenv("TRADEOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        Scorer,
        "log_probs",
        lambda self, items, bar, groups, *weights: (
            counts.append(sum(map(len, groups))) or whole(self, items, bar, groups, *weights)
        ),
    )
    for place, lam in enumerate((0.5, 0.4, 0.6)):
        done = run(*flags, *FEW, "--lam", lam, "--out", tmp_path / str(place))
        assert done.exit_code == 0, done.output
    # Training pairs and held-out ones, in the first run only.
    assert len(counts) == 2
    settings = (tmp_path / "0" / "run.toml").read_text("utf-8")
    assert "reference_cache" not in settings


def test_a_reference_that_is_not_there_is_named(flags, tmp_path):
    done = run(*flags, *FEW, "--set", "train.reference=nowhere", "--out", tmp_path)
    assert isinstance(done.exception, InputError)
    assert done.exception.field == "reference"


def test_random_weights_of_a_configuration(flags, tmp_path):
    done = run(*flags, *FEW, "--random-weights", "--seed", "3", "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output


def test_the_small_model_and_its_rows_are_the_default(model, tmp_path, monkeypatch):
    few = tiny.Language(sft_rows=30, preference_rows=30, test_rows=6, documents=1)
    found = tiny.generate(few)
    monkeypatch.setattr(tiny, "folder", lambda progress: model)
    monkeypatch.setattr(tiny, "data", lambda: found)
    done = run(*FEW, "--rows", "20", "--out", tmp_path, "--json")
    data = json.loads(done.stdout)["data"]
    assert {name: part["rows"] for name, part in data.items()} == {
        "sft": 20,
        "preference": 20,
        "sft_test": 6,
        "preference_test": 6,
    }


# ---------------------------------------------------------------------- other processes


def command(*arguments: Any, module: str = "tradeoff") -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(flags, tmp_path, number, status):
    arguments = ["train", *flags, "--steps", "100000", "--out", tmp_path, "--json"]
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (log.exists() and '"train"' in log.read_text("utf-8")):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    process.send_signal(number)
    out, said = process.communicate(timeout=30)
    assert process.returncode == status
    assert "interrupted: stopping after this update" in said
    record = json.loads(out)
    (saved,) = (tmp_path / "checkpoints").glob("step-*")
    assert saved.name == f"step-{record['steps']:08d}"
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_two_processes_of_torchrun_speak_with_one_voice(flags, tmp_path):
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "tradeoff.cli", "train", *flags, *FEW, "--out", tmp_path, "--json"]
    done = subprocess.run(
        command(*launch[1:], module=launch[0]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    steps = [(line["kind"], line["step"]) for line in map(json.loads, lines)]
    assert len(steps) == len(set(steps))
