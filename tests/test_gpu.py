"""Files for a GPU machine, measurements there, and their results."""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from analysis.dossier.cells import MISSING
from analysis.fernando2024 import tables
from analysis.fernando2024.costs import gpu_run
from analysis.fernando2024.real import smol_jobs, smol_plan, smol_runs, smol_stored, smol_study
from analysis.gpu import __main__ as command
from analysis.gpu import calls, pack, parts, results, sharing
from tradeoff.errors import InputError
from tradeoff.records import read_json, write_json


def measured(
    device: str, method: str, speed: float, share: float | None, step: str = "llama-3-8b"
) -> dict[str, Any]:
    one = {
        "tokens_per_second": speed,
        "model_flops_utilisation": share,
        "peak_memory_bytes": 2**30,
    }
    return {
        "step": step,
        "method": method,
        "setting": {
            "text": "helpful",
            "setting": {"shape": "llama-3-8b", "checkpointing": "lean" in step},
        },
        "machine": {"device": device},
        "rounds": [one, {"out_of_memory": True}],
    }


def store(where: Path, *found: dict[str, Any]) -> None:
    for one in found:
        write_json(results.place(where, one["step"] + one["machine"]["device"], one["method"]), one)


def test_results_of_a_gpu_are_shown_and_a_rehearsal_is_not(tmp_path: Path) -> None:
    store(
        tmp_path,
        measured("H100", "preference-only", 150.0, 0.5),
        measured("H100", "trl-dpo", 100.0, None),
        measured("H100", "preference-only", 80.0, 0.3, "llama-3-8b lean"),
        measured("H200", "trl-dpo", 300.0, None, "llama-3-8b lean"),
        measured("cpu", "preference-only", 1.0, None),
    )
    found = gpu_run.measured(results.read(tmp_path))
    assert set(found["devices"]) == {"H100", "H200"}
    assert {(one["step"], one["kept"], one["tokens_per_second"]) for one in found["to_trl"]} == {
        ("llama-3-8b, H100", (True, True), 1.5),
        ("llama-3-8b lean, H100", (False, True), 0.8),
    }
    assert {one["trl"] for one in found["to_trl"]} == {"llama-3-8b, H100"}
    shown = tables.gpu({"gpu_run": found})
    assert list(shown["MFU (%)"]) == ["30", MISSING, "50", MISSING]
    assert "H100" in gpu_run.words(found)["said"]


def test_without_a_run_the_figure_and_the_table_say_so(tmp_path: Path) -> None:
    found = gpu_run.measured(results.read(tmp_path))
    assert gpu_run.words(found) == {"said": "There is no GPU run yet.", "rounds": "0"}
    assert tables.gpu({"gpu_run": found}).iloc[0, 0] == gpu_run.NONE


def test_a_bundle_brings_every_result_back(tmp_path: Path) -> None:
    store(tmp_path / "there", measured("H100", "mix", 1.0, None))
    results.bundle(tmp_path / "there", tmp_path / "bundle.json")
    (path,) = results.unpack(tmp_path / "bundle.json", tmp_path / "here")
    assert read_json(path) == read_json(tmp_path / "there" / path.name)


def test_a_study_adds_up_over_calls(tmp_path: Path) -> None:
    here = tmp_path / "here"
    for device, runs in (("H200", "ab"), ("H100", "bc"), ("H200", "d")):
        there = tmp_path / device / runs
        for name in runs:
            place = there / "runs" / f"{name}.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"{name} of the {device}")
        one = measured(device, "all", 1.0, None, results.STUDY)
        write_json(results.place(there, results.STUDY, "all"), one)
        results.bundle(there, there / "bundle.json")
        results.archive((there / "runs").glob("*"), there / "bundle.tar.gz")
        results.unpack(there / "bundle.json", here)
    said = read_json(results.place(here, results.STUDY, "all"))
    assert said["machine"]["device"] == "H200 and H100"
    with tarfile.open(results.runs(here)) as packed:
        content = {m.name: packed.extractfile(m) for m in packed.getmembers()}
        said = {name: file.read().decode() for name, file in content.items() if file}
    assert said == {
        "runs/a.parquet": "a of the H200",
        "runs/b.parquet": "b of the H200",
        "runs/c.parquet": "c of the H100",
        "runs/d.parquet": "d of the H200",
    }


def test_a_name_in_a_bundle_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "bundle.json", {"../x": measured("H100", "mix", 1.0, None)})
    with pytest.raises(InputError, match="name of a result"):
        results.unpack(tmp_path / "bundle.json", tmp_path)


def test_what_was_measured_in_another_way_is_measured_anew(tmp_path: Path) -> None:
    one = measured("H100", "mix", 1.0, None)
    path = write_json(tmp_path / "x.json", one)
    assert len(results.known(path, one)) == 2
    assert results.known(path, one | {"machine": {"device": "H200"}}) == []


def test_the_wheel_travels_without_dossiers(tmp_path: Path) -> None:
    wheel = tmp_path / "tradeoff-1-py3-none-any.whl"
    record = "tradeoff-1.dist-info/RECORD"
    names = ("tradeoff/a.py", f"{pack.DOSSIERS}figure.png", "tradeoff-1.dist-info/METADATA")
    with ZipFile(wheel, "w") as made:
        for name in names:
            made.writestr(name, f"content of {name}")
        made.writestr(record, "".join(f"{name},sha256=x,1\n" for name in (*names, record)))
    pack.slim(wheel)
    with ZipFile(wheel) as found:
        assert found.testzip() is None
        assert found.namelist() == [names[0], names[2], record]
        assert found.read(names[0]).decode() == f"content of {names[0]}"
        lines = found.read(record).decode().splitlines()
    assert lines == [f"{name},sha256=x,1" for name in (names[0], names[2], record)]


def test_the_model_is_put_together_of_its_parts_and_checked(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(bytes(range(256)) * 99)
    packed = gzip.compress(model.read_bytes())
    about = {"sha256": parts.sha256(model)}
    for call, content in (
        ("first", packed[:100]),
        ("second", packed[100:150]),
        ("third", packed[150:]),
    ):
        part = tmp_path / call / f"model.part-{call}"
        part.parent.mkdir()
        part.write_bytes(content)
        write_json(
            part.parent / parts.MANIFEST,
            {"model": about, "files": {part.name: {"sha256": parts.sha256(part)}}},
        )
    assert parts.model(tmp_path).read_bytes() == model.read_bytes()
    (tmp_path / parts.MODEL).unlink()
    (tmp_path / "third" / "model.part-third").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match="not the file that was packed"):
        parts.model(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["first", "second"])
def test_the_rehearsal_runs_the_steps_of_a_call(call: str, tmp_path: Path) -> None:
    given = [call, "--rehearse", "--out", str(tmp_path), "--pack", str(tmp_path)]
    steps = ["pythia-1b"] if call == "first" else ["llama-3-8b profile"]
    methods = ["preference-only"]
    again = [*given, "--methods", *methods, "--steps", *steps]
    assert command.main(again) == 0
    where = tmp_path / "results" / "gpu"
    (path,) = where.glob("*.json")
    (one,) = read_json(path)["rounds"]
    assert one["tokens_per_second"] > 0
    assert one["followed"][0] == 0
    assert ("operators" in one) == (call == "second")
    stamp = path.stat().st_mtime_ns
    assert command.main(again) == 0  # The result exists, so nothing is measured.
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_the_study_of_a_call_is_outside_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at a time, in processes; a killed call leaves what was bundled."""
    monkeypatch.setattr(smol_study, "KEEP_SECONDS", 0.0)
    bundle = tmp_path / "bundle.json"
    given = ["third", "--rehearse", "--jobs", "2", "--methods", "sft-dpo", "evenly"]
    assert command.main([*given, "--out", str(tmp_path), "--bundle", str(bundle)]) == 0
    (study,) = read_json(bundle)["study--all"]["rounds"]
    assert study["done"] == study["runs"] == 10
    assert list(study["found"]["generated"]["methods"]) == ["sft-dpo", "evenly"]
    with tarfile.open(bundle.with_suffix(".tar.gz")) as found:
        assert len(found.getnames()) >= study["runs"]
    written = results.unpack(bundle, tmp_path / "here")
    assert written[-1] == results.runs(tmp_path / "here")
    monkeypatch.setattr(smol_runs, "FOLDER", tmp_path / "elsewhere")
    form = smol_plan.formed("fast", methods=["sft-dpo", "evenly"])
    # The folder of the study may have runs of figures, too, and twins among them.
    assert smol_study.adopt(form, written[-1]) >= study["runs"]
    assert all(smol_stored.exact(smol_study.comparison(form, "generated")))


def test_runs_that_take_too_long_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    late = threading.Event()
    monkeypatch.setattr(smol_jobs, "one", lambda c, known: late.wait(c["seconds"]))
    monkeypatch.setattr(smol_jobs, "task", lambda runs: None)
    runs = [{"seconds": 0.0, "name": "short"}, {"seconds": 60.0, "name": "long"}]
    with ThreadPoolExecutor(2) as pool:
        ended = list(smol_jobs.at_once(pool, 2, runs, time.monotonic() + 0.2, grace=0.2))
        late.set()
    assert [c["name"] for c in ended] == ["short"]


def test_a_run_that_fails_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(c: dict[str, Any], known: None) -> None:
        if c["name"] == "bad":
            raise InputError("it cannot be", remedy="None.")

    monkeypatch.setattr(smol_jobs, "one", fail)
    monkeypatch.setattr(smol_jobs, "task", lambda runs: None)
    runs = [{"pair": "x", "name": name, "seed": 0} for name in ("bad", "good", "good", "good")]
    with ThreadPoolExecutor(1) as pool:
        ended = list(smol_jobs.at_once(pool, 2, runs, time.monotonic() + 60))
        assert [c["name"] for c in ended] == ["good"] * 3
        assert "failed: x, bad, 0" in capsys.readouterr().err
        with pytest.raises(InputError, match="cannot be"):
            list(smol_jobs.at_once(pool, 2, runs[:1] * 3, time.monotonic() + 60))


def test_an_unknown_method_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["first", "--rehearse", "--out", str(tmp_path), "--methods", "none-such"]
    assert command.main(given) == 2
    assert "none-such" in capsys.readouterr().err


def test_without_the_service_processes_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sharing, "ELSEWHERE", str(tmp_path))
    with sharing.shared(tmp_path / "mps") as shared:
        assert not shared
    assert not (tmp_path / "mps").exists()


@pytest.mark.parametrize("works", [True, False])
def test_a_service_is_stopped_and_used_only_where_a_context_can_be_made(
    works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, calls = tmp_path / sharing.CONTROL, tmp_path / "calls"
    control.write_text(f'#!/bin/sh\nif [ -z "$1" ]; then read line; fi\necho "$1$line" >>{calls}\n')
    control.chmod(0o755)
    monkeypatch.setattr(sharing, "ELSEWHERE", str(tmp_path))
    monkeypatch.setattr(sharing, "_CONTEXT", f"raise SystemExit({int(not works)})")
    pipe = "CUDA_MPS_PIPE_DIRECTORY"
    with sharing.shared(tmp_path / "mps") as shared:
        assert shared is works
        assert (pipe in os.environ) is works
    assert calls.read_text().split() == ["-d", "quit"]
    assert pipe not in os.environ


def test_a_call_goes_on_with_stored_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PAPER", tmp_path)
    of_the_checkout = results.runs(tmp_path / "results" / "gpu")
    came = results.runs(tmp_path / "third")

    def found(*more: str) -> Path | None:
        given = ["third", "--pack", str(tmp_path), *more]
        return calls.stored_runs(command.parser().parse_args(given))

    assert found() is None
    for file in (of_the_checkout, came):
        file.parent.mkdir(parents=True)
    of_the_checkout.touch()
    assert found() == of_the_checkout
    assert found("--rehearse") is None
    came.touch()
    assert found() == found("--rehearse") == came


def test_an_archive_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tar\.gz: there is no such archive"):
        pack.write(tmp_path / "pack", wheels=False, runs=tmp_path / "nowhere.tar.gz")
    assert not (tmp_path / "pack").exists()
