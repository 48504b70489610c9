"""The command line as a user sees it: tables, JSON, files, errors, help."""

import gzip
import importlib
import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import tradeoff
from tradeoff import _terminal, checkout, progress
from tradeoff._terminal import show_summary, show_table
from tradeoff.cli import main

COMMANDS = ("reproduce", "figures", "claims", "advise", "analyse", "front", "simulate")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def write_rows(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


@pytest.fixture
def files(tmp_path):
    words = [f"{a}{b}" for a in "abcdefgh" for b in "xyzuv"]
    sft = [{"prompt": f"say {w}", "completion": f"{w} it is"} for w in words]
    preference = [
        {"prompt": f"say {w}", "chosen": f"kindly {w}", "rejected": f"{w} it is"} for w in words
    ]
    return (
        write_rows(tmp_path / "sft.jsonl", sft),
        write_rows(tmp_path / "preference.jsonl.gz", preference),
    )


SMALL = ("--radius", "5", "--features", "256", "--candidates", "4", "--solves", "4", "--steps", "8")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"tradeoff {command}" in out.replace("\n", " ")


def test_an_accuracy_that_is_not_reached_is_said(capsys):
    size = "--dimension", "2", "--prompts", "1", "--responses", "2"
    code, out, _ = run(capsys, "front", *size, "--accuracy", "1e-9")
    assert code == 0
    assert "above the 1e-09 asked" in out.replace("\n", " ")
    assert "asked" not in run(capsys, "front", *size, "--accuracy", "0.05")[1]


def test_warnings_are_lines_for_a_user(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run(capsys, "--version")
    said = warnings.formatwarning(UserWarning("a rate is low"), UserWarning, "trainer.py", 9)
    assert said == "warning: a rate is low\n"


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"{tradeoff.__version__}\n", "")


def test_front_as_json(capsys):
    code, out, _ = run(capsys, "front", "--seed", "1", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["certified_error"] <= 1e-3
    assert record["hypervolume"][0] <= record["hypervolume"][1]


def test_certified_bounds_are_never_rounded_inwards(capsys, tmp_path):
    given = ("front", "--seed", "1", "--accuracy", "1e-4", "--prompts", "4", "--dimension", "4")
    record = json.loads(run(capsys, *given, "--json", "--out", str(tmp_path))[1])
    assert record.pop("written")[0] == str(tmp_path / "front.json")
    assert json.loads((tmp_path / "front.json").read_text()) == record
    low, high = record["hypervolume"]
    assert f"{low:.6g}" != repr(low)
    text = run(capsys, *given)[1].replace("\n", " ")
    shown = [float(part) for part in re.findall(r"between ([\d.e-]+) and ([\d.e-]+)", text)[0]]
    assert low - 1e-4 <= shown[0] <= low < high <= shown[1] <= high + 1e-4
    (error,) = map(float, re.findall(r"certified error ([\d.e-]+)", text))
    assert record["certified_error"] <= error <= 1.2 * record["certified_error"]


def test_front_writes_a_figure_and_its_numbers(capsys, tmp_path):
    code, out, _ = run(capsys, "front", "--accuracy", "0.05", "--out", str(tmp_path))
    assert code == 0
    assert "hypervolume" in out
    assert {p.name for p in tmp_path.iterdir()} == {"front.json", "front.svg", "front.png"}


def test_simulate_is_repeatable_and_writes_parquet(capsys, tmp_path):
    arguments = ["simulate", "--steps", "50", "--replicas", "8", "--json"]
    _, first, _ = run(capsys, *arguments, "--out", str(tmp_path))
    _, second, _ = run(capsys, *arguments)
    assert first == second
    assert len(json.loads(first)) == 7
    assert set(pd.read_parquet(tmp_path / "simulate.parquet").replica) == set(range(8))


def test_few_replicas_have_wide_intervals_and_one_has_none(capsys, tmp_path):
    given = ["simulate", "--method", "mix", "--steps", "5"]
    arguments = [*given, "--replicas", "2", "--json", "--out", str(tmp_path)]
    (row,) = json.loads(run(capsys, *arguments)[1])
    runs = pd.read_parquet(tmp_path / "simulate.parquet")
    ends = runs[(runs.step == 5) & (runs.iterate == "last")].sft_loss
    assert row["± sft_loss"] == pytest.approx(12.706 * ends.sem(), rel=1e-4)
    shown = run(capsys, *given, "--replicas", "1")[1]
    assert "nan" not in shown
    assert "±" not in shown


def test_what_is_simulated_twice_counts_once(capsys):
    arguments = ["simulate", "--steps", "50", "--replicas", "4", "--json"]
    once = (*arguments, "--schedule", "mix", "--lam", "0.5")
    twice = (*once, "--schedule", "mix", "--lam", "0.5")
    assert run(capsys, *once) == run(capsys, *twice)


def test_brackets_in_file_names_and_texts_are_shown(capsys, files, tmp_path):
    sft, preference = files
    odd = tmp_path / "[bold] [/x].jsonl"
    odd.parent.mkdir()
    with open(sft) as given:
        odd.write_text(given.read() + "[1]\n", "utf-8")
    code, printed, _ = run(
        capsys, "analyse", "--sft", str(odd), "--preference", preference, *SMALL, "--skip-bad",
        "--out", str(tmp_path / "[/out]"),
    )  # fmt: skip
    joined = printed.replace("\n", "")
    assert code == 0
    assert f"dropped: {odd}, row 41" in joined
    assert "[/out]/analyse.json" in joined
    show_table(pd.DataFrame({"a [/b]": ["[/c] \\"]}), "[/d]")
    show_summary({"[/e]": "[/f]"})
    shown = capsys.readouterr().out
    assert all(f"[/{letter}]" in shown for letter in "bcdef")


def test_no_column_or_digit_is_lost_where_the_terminal_is_narrow(capsys, monkeypatch):
    monkeypatch.setattr(_terminal, "console", Console(width=20))
    numbers = {f"loss number {i}": [i + 0.1234] for i in range(6)}
    show_table(pd.DataFrame({"method": ["ALRIGHT"], **numbers}), "losses")
    said = capsys.readouterr().out
    assert "ALRIGHT" in said
    assert all(f"{i}.123" in said for i in range(6))


def test_analyse_prints_a_table_and_writes_everything(capsys, files, tmp_path):
    sft, preference = files
    out = tmp_path / "out"
    code, printed, _ = run(
        capsys, "analyse", "--sft", sft, "--preference", preference, *SMALL, "--out", str(out)
    )
    assert code == 0
    assert "SFT→DPO" in printed
    assert {p.name for p in out.iterdir()} == {"analyse.json", "analyse.svg", "analyse.png"}
    record = json.loads((out / "analyse.json").read_text())
    expected = {
        "warnings",
        "in_doubt",
        "summary",
        "policies",
        "front",
        "dropped",
        "remarks",
        "trust",
    }
    assert set(record) == expected


def test_analyse_names_the_bad_row_and_can_skip_it(capsys, files, tmp_path):
    sft, preference = files
    with open(sft, "a", encoding="utf-8") as file:
        file.write('{"prompt": "p"}\n')
    arguments = ["analyse", "--sft", sft, "--preference", preference, *SMALL]
    arguments += ["--out", str(tmp_path / "out"), "--json"]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "sft.jsonl" in err
    assert "row 41" in err
    assert not (tmp_path / "out").exists()
    code, out, _ = run(capsys, *arguments, "--skip-bad")
    assert code == 0
    record = json.loads(out)
    assert len(record["dropped"]) == 1
    assert [Path(file).is_file() for file in record["written"]] == [True] * 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("front", "--radius", "-1"), "radius"),
        (("simulate", "--lam", "2", "--steps", "5"), "lam"),
        (("front", "--conflict", "2"), "conflict"),
        (("simulate", "--conflict", "nan", "--steps", "5"), "conflict"),
        (("simulate", "--decay", "nan", "--steps", "5"), "decay"),
        (("simulate", "--decay", "-0.5", "--steps", "5"), "decay"),
        (("simulate", "--decay", "sine", "--steps", "5"), "decay"),
        (("simulate", "--rounds", "6", "--steps", "5"), "rounds"),
        (("simulate", "--limit", "nan", "--steps", "5"), "limit"),
        (("simulate", "--method", "mix", "--rounds", "2", "--steps", "5"), "rounds"),
        (("simulate", "--method", "mix", "--relative", "--steps", "5"), "relative"),
        (("figures", "no_such_figure"), "no such figure"),
        (("claims", "no-such-claim"), "no such claim"),
        (("analyse", "--sft", "absent.jsonl", "--preference", "absent.jsonl"), "absent.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_status_two(capsys, arguments, word):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert word in err
    assert err.startswith("error:")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("simulate", "--lam", "2", "--steps", "5"), "--lam"),
        (("simulate", "--step-size", "0", "--steps", "5"), "--step-size"),
        (("train", "--lam", "2"), "--lam"),
        (("train", "--steps", "0"), "--steps"),
        (("arena", "--sort", "name"), "--sort"),
    ],
)
def test_errors_name_the_option(capsys, arguments, option):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith(f"error: {option}: ")


def test_a_board_needs_a_backend_that_there_is(capsys, tmp_path):
    few = ("--method", "ipo", "--problem", "middle", "--backend", "cloud", "--out", str(tmp_path))
    code, _, err = run(capsys, "arena", *few)
    assert code == 2
    assert err.startswith("error: --backend: ")
    assert "dask" in err


def test_an_interrupted_command_says_what_is_kept(capsys, monkeypatch, tmp_path):
    importlib.import_module("tradeoff.arena.board")

    def stopped(*given, **settings):
        raise KeyboardInterrupt

    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["tradeoff.arena.board"], "board", stopped)
    code, _, err = run(capsys, "arena", "--out", str(tmp_path))
    assert code == 130
    kept = f"runs in {tmp_path} that have ended are kept, and the same command goes on"
    assert err == f"interrupted; {kept}\n"
    monkeypatch.setattr("tradeoff.convex.simulate", stopped)
    assert run(capsys, "simulate", "--steps", "5")[2] == "interrupted; nothing was written\n"


def test_claims_have_one_line_each(capsys):
    code, out, _ = run(capsys, "claims", "sequential-gap-log-cosh")
    assert code == 0
    assert "holds  sequential-gap-log-cosh  14.31  = 14.31  In the binary" in out.splitlines()[0]
    assert "for all radii." in out.splitlines()[0]


def test_a_log_has_lines_now_and_then_and_no_bar(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(progress, "EVERY", 0.0)
    list(progress.tqdm(range(3), desc="steps", file=log, mininterval=0))
    assert "\r" not in log.getvalue()
    assert "█" not in log.getvalue()
    assert "2/3" in log.getvalue()
    monkeypatch.setattr(progress, "EVERY", 60.0)
    quiet = io.StringIO()
    list(progress.tqdm(range(3), desc="steps", file=quiet, mininterval=0))
    assert quiet.getvalue() == ""


def test_a_line_of_a_run_in_a_log_has_its_own_losses_and_one_remaining_time(monkeypatch, capsys):
    from tradeoff.llm._bar import Bar

    monkeypatch.setattr(progress, "EVERY", 0.0)
    ticks = iter(range(0, 100, 5))
    with Bar(2, 0, 5, shown=True, clock=lambda: float(next(ticks))) as bar:
        bar._tqdm.mininterval = 0
        bar.set_postfix({"sft_loss": 2.0})
        bar.update({"sft": 1.5})
        bar.update({"sft": 1.25})
    lines = capsys.readouterr().err.splitlines()
    assert all(line.count("left") <= 1 and "s/it" not in line and "<" not in line for line in lines)
    assert all("sft 1.5000" in line and "00:10 left" in line for line in lines if " 1/2 " in line)
    assert all("sft 1.2500" in line and "00:00 left" in line for line in lines if " 2/2 " in line)
    assert " 2/2 " in lines[-1]


def test_mutations_run_from_the_command_line(capsys):
    code, out, _ = run(capsys, "claims", "sequential-gap-log-cosh", "--mutate", "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["mutation"] == "wrong-objective"
    assert found["broken"] is True
    code, out, _ = run(capsys, "claims", "sequential-gap-log-cosh", "--mutate")
    assert code == 0
    assert "1 of 1 mutations break their claim" in out
    code, out, _ = run(capsys, "claims", "sequential-gap-log-cosh")
    assert code == 0
    assert "1 identity or certificate" in out


def test_without_a_checkout_the_figures_say_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    code, _, err = run(capsys, "figures")
    assert code == 2
    assert "checkout" in err


def test_help_does_not_load_the_laboratory():
    code = "import sys; import tradeoff.cli; print({'torch', 'numba', 'scipy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_an_encoding_without_a_character_gets_an_escape(tmp_path):
    code = (
        "from tradeoff._terminal import prepare_streams, show_json, show_line\n"
        "prepare_streams()\n"
        "show_line('caf\\u00e9 [/x] \\U0001f600 \\ud83d')\n"
        "show_json({'a': 'caf\\u00e9'})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(checkout.ROOT), "COLUMNS": "20"},
        capture_output=True,
        check=True,
    )
    line, record = done.stdout.decode("ascii").splitlines()
    assert line == r"caf\xe9 [/x] \U0001f600 \ud83d"
    assert json.loads(record) == {"a": "caf\u00e9"}


OWN = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.schedules import Rule, Schedule


@dataclass(frozen=True, kw_only=True)
class Ramp(Schedule):
    name: ClassVar[str] = "ramp"

    def plan(self, steps):
        return self._plan(steps, Rule.DRAW, probability=np.linspace(0, self.lam, steps))
"""


def test_methods_of_the_users_own_run_from_the_command_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "my_schedules.py").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ["simulate", "--steps", "20", "--replicas", "2", "--json"]
    names = ("my_schedules:Ramp", "mix+pcgrad", "sft-dpo")
    chosen = [word for name in names for word in ("--method", name)]
    code, out, _ = run(capsys, *arguments, *chosen, "--lam", "0.3")
    assert code == 0
    assert [row["schedule"] for row in json.loads(out)] == ["ramp", "Mix, PCGrad", "SFT→DPO"]
    code, _, err = run(capsys, *arguments, "--method", "my_schedules:Nothing")
    assert code == 2
    assert "Nothing" in err
    for option in ("--method", "--schedule"):
        code, _, err = run(capsys, *arguments, option, "alrigth")
        assert code == 2
        assert err.startswith(f"error: {option}: unknown method (found 'alrigth'). ")
        assert "Did you mean alright" in err
