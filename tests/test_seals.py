"""All damage on disk is found: flipped bits, cut files, changed values of a state."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tradeoff import _leftovers, _seals, records
from tradeoff.records import discard, replacing, replacing_folder

TRIES = 120


def flip(path: Path, rng: random.Random, end: int | None = None) -> None:
    """Flip one bit of a file, of its first `end` bytes."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content) if end is None else end)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """Cut a file off somewhere."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def lengthen(path: Path, rng: random.Random) -> None:
    """Append bytes to a file."""
    with path.open("ab") as file:
        file.write(rng.randbytes(1 + rng.randrange(9)))


def absent(path: Path, rng: random.Random) -> None:
    """Remove a file."""
    path.unlink()


HARMS = (flip, flip, flip, cut, lengthen, absent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    (place / "inner").mkdir(parents=True)
    (place / "a.bin").write_bytes(random.Random(0).randbytes(300))
    (place / "inner" / "b.json").write_text('{"x": 1}', "utf-8")
    _seals.seal_folder(place, {"step": 7})
    return place


def test_a_folder_is_as_it_was_sealed(folder: Path) -> None:
    assert _seals.check_folder(folder) == {"step": 7}
    (folder / "notes").touch()  # unlisted files are not checked
    assert _seals.check_folder(folder) == {"step": 7}


def broken(folder: Path) -> Path | None:
    """The file that a seal reports as damaged."""
    try:
        _seals.check_folder(folder)
    except _seals.Broken as error:
        return error.file
    return None


def test_no_damage_to_a_folder_is_accepted(folder: Path) -> None:
    rng, accepted = random.Random(1), 0
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(whole) == 3
    for _ in range(TRIES):
        path = rng.choice(sorted(whole))
        rng.choice(HARMS)(path, rng)
        accepted += broken(folder) != path
        path.write_bytes(whole[path])
    assert accepted == 0
    assert _seals.check_folder(folder) == {"step": 7}


def test_a_file_that_is_left_out_is_looked_at_for_its_size(folder: Path) -> None:
    flip(folder / "a.bin", random.Random(2))
    _seals.check_folder(folder, leave_out={"a.bin"})
    with pytest.raises(_seals.Broken, match="not as it was written"):
        _seals.check_folder(folder)
    absent(folder / "a.bin", random.Random(2))
    with pytest.raises(_seals.Broken, match="absent"):
        _seals.check_folder(folder, leave_out={"a.bin"})


def test_no_bit_of_a_sealed_file_may_change(tmp_path: Path) -> None:
    content = _seals.sealed(b"before " + _seals.MARK + _seals.BLANK + b" after")
    assert _seals.intact(content)
    assert len(content) == len(b"before  after") + len(_seals.MARK + _seals.BLANK)
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        assert not _seals.intact(bytes(changed))
    assert not _seals.intact(content[:-1])
    assert not _seals.intact(content + b"x")


def test_a_log_is_sealed_as_far_as_it_goes(tmp_path: Path) -> None:
    lines, log = _seals.LineSeal(), tmp_path / "log"
    text = b'{"step": 1}\n{"step": 2}\n'
    lines.add(text[:12])
    lines.add(text[12:])
    assert lines.seal()["lines"] == 2
    log.write_bytes(text + b'{"step": 3')
    assert _seals.check_lines(log, lines.seal()) == text
    rng = random.Random(3)
    for harm in HARMS[:4]:
        log.write_bytes(text)
        harm(log, rng)
        with pytest.raises(_seals.Broken):
            _seals.check_lines(log, lines.seal())
    log.write_bytes(b"{" + text[1:11] + b"]" + text[11:])
    with pytest.raises(_seals.Broken) as error:
        _seals.check_lines(log, lines.seal())
    assert error.value.row == 1
    log.unlink()
    with pytest.raises(_seals.Broken, match="absent"):
        _seals.check_lines(log, lines.seal())
    assert _seals.check_lines(log, _seals.LineSeal().seal()) == b""


# ---------------------------------------------------------------------- names and modes


@pytest.fixture
def dead() -> Iterator[Any]:
    """Make names that are created meanwhile belong to a process that has ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # Larger than any process number of Linux.
        yield


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path, dead: Any) -> None:
    for kind in (_leftovers.PARTIAL, _leftovers.REMOVED):
        left = _leftovers.beside(tmp_path / "model", kind)
        left.mkdir()
        (left / "half").touch()
    (tmp_path / ".partial-notes").touch()
    elsewhere = tmp_path / f".partial-{2**22 + 1}-0123456789abcdef-model"  # Of another machine.
    elsewhere.mkdir()
    records._CLEARED.discard(tmp_path)
    records.write_json(tmp_path / "a.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.json",
        ".partial-notes",
        elsewhere.name,
    }


def test_a_folder_that_was_moved_away_when_its_writer_was_killed_is_put_back(
    tmp_path: Path, dead: Any
) -> None:
    old = _leftovers.beside(tmp_path / "model", _leftovers.OLD)
    old.mkdir()
    (old / "whole").touch()
    _leftovers.clear(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "whole"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_there_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    place, ended = tmp_path / "model", threading.Event()
    missing, looked = 0, 0

    def look() -> None:
        nonlocal missing, looked
        while not ended.is_set():
            missing += sum(not place.exists() for _ in range(10))
            looked += 1
            ended.wait(1e-4)

    def fill(number: int) -> None:
        with replacing_folder(place) as partial:
            (partial / "weights").write_text(str(number), "utf-8")

    if not exchange:
        monkeypatch.setattr(records, "_exchange", lambda first, second: False)
    fill(0)
    if exchange and not records._exchange(place, shutil.copytree(place, tmp_path / "other")):
        pytest.skip("this file system cannot exchange two names")
    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(1, 40):
        fill(number)
    ended.set()
    watcher.join()
    assert (place / "weights").read_text("utf-8") == "39"
    if exchange:
        assert looked > 3
        assert missing == 0
    assert not list(tmp_path.glob(".*"))


def test_a_removal_that_is_killed_leaves_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "step-00000002"
    place.mkdir()
    for name in ("a", "b"):
        (place / name).touch()

    def killed(path: Path) -> None:
        (path / "a").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(_leftovers, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        discard(place)
    monkeypatch.undo()
    assert not place.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".removed-")
    _leftovers.clear(tmp_path, owned=True)
    assert not list(tmp_path.iterdir())
    discard(place)  # Absent, which is allowed.


def test_files_have_the_modes_of_other_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as partial:
            partial.touch(mode=0o600)
            partial.chmod(0o600)  # Like temporary files.
        with replacing_folder(tmp_path / "b") as partial:
            (partial / "c").touch()
            (partial / "c").chmod(0o600)
            (partial / "program").touch()
            (partial / "program").chmod(0o750)
    finally:
        os.umask(before)
    modes = [tmp_path / "a", tmp_path / "b" / "c", tmp_path / "b" / "program"]
    assert [path.stat().st_mode & 0o777 for path in modes] == [0o640, 0o640, 0o750]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("sync", [True, False])
def test_what_is_saved_reaches_the_disk_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}"))
    )
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("names of open files are read from /proc")
    with replacing_folder(tmp_path / "b", sync=sync) as partial:
        (partial / "c").touch()
    with replacing(tmp_path / "a", sync=sync) as partial:
        partial.touch()
    names = [Path(name).name.split("-")[-1] for name in synced]
    parent = tmp_path.name.split("-")[-1]
    assert names == (["b", "c", parent, "a", parent] if sync else [])


def test_the_manifest_lists_each_file(folder: Path) -> None:
    found = json.loads((folder / _seals.MANIFEST).read_text("utf-8"))
    assert list(found["files"]) == ["a.bin", "inner/b.json"]
    assert found["files"]["a.bin"] == {"bytes": 300, "sha256": _seals.digest(folder / "a.bin")}
