"""On a disk that is full, read-only or gone, every command gives one error and loses nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.dossier import ledger, report, runner, style
from analysis.fernando2024.dossier import DOSSIER
from tradeoff import cli, files, plots
from tradeoff.errors import InputError
from tradeoff.records import read_json, replacing, replacing_folder, write_json

CODES = [errno.ENOSPC, errno.EROFS, errno.ENOENT]
FIGURE, CLAIM = "certified_front", "sequential-gap-log-cosh"
SMALL = ["--radius", "5", "--features", "64", "--candidates", "2", "--solves", "3", "--steps", "4"]
COMMANDS: dict[str, list[str]] = {
    "reproduce": ["reproduce", "--fast"],
    "figures": ["figures", FIGURE],
    "claims": ["claims"],
    "analyse": ["analyse", "--sft", "sft.jsonl", "--preference", "preference.jsonl", *SMALL],
    "front": ["front", "--accuracy", "0.3", "--dimension", "2", "--prompts", "2"],
    "simulate": ["simulate", "--steps", "4", "--replicas", "2", "--schedule", "mix"],
}
"""Commands that are cheap enough to fail at every file that they write."""
DEAR = {
    "train": ["train", "--steps", "2"],
    "evaluate": ["evaluate", "absent"],
    "export": ["export", "absent"],
}


def command(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    """Exit status and standard error of a command; no traceback reaches a user."""
    try:
        cli.main([str(argument) for argument in arguments])
        status: Any = 0
    except SystemExit as stop:
        status = stop.code or 0
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return int(status), error


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write rows, and a dossier with one figure and one claim; return the output folder."""
    from analysis.fernando2024.convex import certified_front

    words = [f"{a}{b}" for a in "abcd" for b in "xyz"]
    sft = [{"prompt": f"say {w}", "completion": f"{w} it is"} for w in words]
    pairs = [{"prompt": f"say {w}", "chosen": f"kindly {w}", "rejected": w} for w in words]
    for name, rows in {"sft": sft, "preference": pairs}.items():
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, "utf-8")

    def draw(out: Path, fast: bool = False) -> dict[str, Any]:
        with style.figure() as (fig, _):
            style.save(fig, out, FIGURE)
        return {"fast": fast}

    monkeypatch.chdir(tmp_path)
    # The drawing itself does not matter here, and takes most of the time.
    monkeypatch.setattr(plots, "drawn", lambda *_: bytes(48 * 1024))
    monkeypatch.setattr(certified_front, "main", draw)
    monkeypatch.setitem(DOSSIER.__dict__, "figures", (FIGURE,))
    monkeypatch.setitem(DOSSIER.__dict__, "studies", ())
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    claims = [claim for claim in ledger.claims(DOSSIER.folder / "claims.toml") if claim.id == CLAIM]
    monkeypatch.setattr(ledger, "claims", lambda path: claims)
    monkeypatch.setattr(report, "context", lambda *_: {})
    monkeypatch.setattr(report, "render", lambda *_: "dossier")
    monkeypatch.setattr(report, "render_page", lambda *_: "page")
    return tmp_path / "out"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], list[Path]]]:
    """Make the n-th write and all later ones fail; return the list of written files."""

    def fail_at(number: int, code: int) -> list[Path]:
        begun: list[Path] = []
        writing = files.writing

        @contextlib.contextmanager
        def watched(path: Path) -> Iterator[None]:
            begun.append(path)
            with writing(path):
                if len(begun) >= number:
                    raise OSError(code, os.strerror(code), str(path))
                yield

        monkeypatch.setattr(files, "writing", watched)
        return begun

    yield fail_at
    monkeypatch.undo()


# ---------------------------------------------------------------------- before computing


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", [*COMMANDS, *DEAR])
def test_a_folder_is_tried_before_anything_is_computed(
    name: str, code: int, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    # Without rows, problem or model, commands fail before they compute anything.
    for place in small.parent.glob("*.jsonl"):
        place.unlink()
    arguments = {**COMMANDS, **DEAR}[name]
    status, error = command(capsys, *arguments, "--out", small)
    assert status == 2
    assert error.startswith(f"error: {small}, field 'out': cannot write to the output folder")
    assert os.strerror(code) in error
    assert not small.exists()


def test_the_default_folder_is_tried_too(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    for name in ("reproduce", "figures", "claims", "analyse"):
        status, error = command(capsys, *COMMANDS[name])
        assert (status, "cannot write to the output folder" in error) == (2, True)


def test_a_folder_need_not_be_there_and_is_not_made(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    assert files.check_writable(place) == place
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"Not a directory.*give another folder"):
        files.check_writable(place)


@pytest.mark.parametrize(("needed", "words"), [(2**10, "1.0 KiB"), (3 * 2**40, "3072.0 GiB")])
def test_a_disk_too_small_is_told_in_numbers(
    needed: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.check_writable(tmp_path, needed=1)
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: free)
    with pytest.raises(InputError, match=f"has 1000 bytes free, and at least {words} will be"):
        files.check_writable(tmp_path, needed=needed)


# ---------------------------------------------------------------------- while computing


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_write_that_fails_is_one_error_and_nothing_earlier_is_lost(
    name: str, small: Path, disk: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arguments = [*COMMANDS[name], "--out", small]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "STAMPS", small.parent / "other")
        begun = disk(10**9, 0)
        assert command(capsys, *arguments)[0] == 0
    order = [path.suffix for path in begun]
    pictures = [i for i, suffix in enumerate(order) if suffix in (".svg", ".png")]
    assert not pictures or order.index(".json") < pictures[0]
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    assert before
    for number in range(1, len(begun) + 1):
        code = CODES[number % len(CODES)]
        monkeypatch.setattr(files, "writing", _writing)
        disk(number, code)
        shutil.rmtree(small.parent / "stamps", ignore_errors=True)
        status, error = command(capsys, *arguments)
        assert status == 2
        assert error.splitlines()[-1].startswith("error: ")
        assert f"cannot be written: {os.strerror(code)}. " in error
        left = {path for path in small.rglob("*") if path.is_file()}
        assert left == set(before)
        assert all(path.stat().st_size for path in left)


_writing = files.writing


def test_a_folder_that_vanishes_is_made_again(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small.mkdir()
    module = DOSSIER.module(FIGURE)
    draw = module.main

    def vanish(out: Path, fast: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = draw(out, fast)
        shutil.rmtree(out)
        return found

    monkeypatch.setattr(module, "main", vanish)
    assert command(capsys, *COMMANDS["figures"], "--out", small)[0] == 0
    assert read_json(small / "results" / f"{FIGURE}.json")["figure"] == FIGURE
    assert len(list((small / "figures").iterdir())) == 2


@pytest.mark.parametrize("text", ["{}", "x/{}"])
def test_other_errors_of_the_system_are_one_line_too(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", text.format("kernels.nbi"))

    monkeypatch.setattr("tradeoff.doctor.examine", fail)
    status, error = command(capsys, "doctor")
    assert status == 2
    place = text.format("kernels.nbi")
    assert error.startswith(f"error: {place}: cannot be used: Permission denied. ")
    assert len(error.splitlines()) == 1


def test_doctor_finds_folders_that_are_full(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from tradeoff import doctor

    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
    monkeypatch.setattr(doctor, "examine", lambda: tuple(doctor.folders()))
    with pytest.raises(SystemExit, match=r"^1$"):
        cli.main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)["findings"]
    found = [finding for finding in found if finding["name"] != "real text"]  # only read
    assert all(finding["value"].endswith("No space left on device") for finding in found)
    assert all(finding["remedy"] for finding in found)


def test_output_that_cannot_be_printed_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code = (
        "import sys, types; import tradeoff; from tradeoff import cli, doctor\n"
        "doctor.examine = tuple; doctor.healthy = lambda *_, **__: True\n"
        "cli.main(['doctor', '--json'])"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "No space left on device" in line


# ---------------------------------------------------------------------- who reports what


class RustError(Exception):
    """An error as in safetensors and tokenizers, with the error number only in the text."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left"),
        RustError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RustError("No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("writer", [replacing, replacing_folder])
def test_what_libraries_raise_is_understood(writer: Any, error: Exception, tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    with pytest.raises(InputError) as caught, writer(place):
        raise error
    assert str(caught.value) == (
        f"{place}: cannot be written: No space left on device. Free space there, or give another "
        "folder; what was written before is kept."
    )
    assert caught.value.__cause__ is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("a"), RuntimeError("os error 28"), KeyError("b")])
def test_errors_that_are_not_of_a_disk_stay(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "a.json"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("code", sorted(files._REMEDIES))
def test_every_refusal_has_a_remedy(code: int) -> None:
    found = files.refusal(OSError(code, os.strerror(code), "x"))
    assert found is not None
    assert str(found).startswith(f"x: cannot be used: {os.strerror(code)}. ")
    assert found.remedy == files._REMEDIES[code]
    assert files.refusal(OSError("odd")) is not None
    assert files.refusal(OSError(code, "y", b"x\xff")) is not None
    assert files.refusal(OSError(code, "y", 3)) is not None


# ---------------------------------------------------------------------- a real one


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB, where the tests may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_that_fills_up(tmpfs: Path, small: Path, capsys: Any) -> None:
    import torch
    from safetensors.torch import save_file

    out = tmpfs / "out"
    arguments = [*COMMANDS["front"], "--out", out]
    assert command(capsys, *arguments)[0] == 0
    whole = read_json(out / "front.json")
    for left in (0, 8, 40):  # Sizes in KiB: too small for a try, for the numbers, for a picture.
        filler = tmpfs / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(tmpfs).free - 1024 * left))
        status, error = command(capsys, *arguments)
        assert status == 2
        assert error.splitlines()[-1].startswith("error: ")
        assert "No space left on device" in error
        assert read_json(out / "front.json") == whole
        assert sorted(p.name for p in out.iterdir()) == ["front.json", "front.png", "front.svg"]
        with pytest.raises(InputError, match="No space left"), replacing_folder(out / "m") as new:
            save_file({"a": torch.zeros(100_000)}, new / "a.safetensors")
        filler.unlink()
    assert command(capsys, *arguments)[0] == 0


def test_a_disk_that_may_only_be_read(tmpfs: Path, small: Path, capsys: Any) -> None:
    write_json(tmpfs / "out" / "front.json", {"a": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    for name in COMMANDS:
        status, error = command(capsys, *COMMANDS[name], "--out", tmpfs / "out")
        assert (status, "Read-only file system" in error) == (2, True)
    with pytest.raises(InputError, match="Read-only"):
        write_json(tmpfs / "out" / "front.json", {"a": 2})
    assert read_json(tmpfs / "out" / "front.json") == {"a": 1}
