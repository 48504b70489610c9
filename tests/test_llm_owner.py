"""One writer: locks, owners that died, processes that do not know each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_runs import barrier, start, take_folder, train_here, trainer

from tradeoff import _leftovers
from tradeoff.errors import InputError
from tradeoff.llm import checkpoints, setup
from tradeoff.llm._owner import OWNER, Lock, Owner, owner_of
from tradeoff.llm.config import TrainConfig


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the end of the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def name(folder: Path, pid: int, started: float, host: str | None = None) -> None:
    entries = {"pid": pid, "host": host or socket.gethostname(), "started": started}
    (folder / OWNER).write_text(json.dumps(entries), "utf-8")


def started(pid: int) -> float:
    psutil = pytest.importorskip("psutil")
    return float(psutil.Process(pid).create_time())


def wait_for(done: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_owner_is_named_while_it_writes(tmp_path):
    lock, second = Lock(tmp_path), Lock(tmp_path)
    lock.take()
    assert owner_of(tmp_path) == Owner.here()
    with pytest.raises(InputError, match=rf"process {os.getpid()} on .*, started 2"):
        second.take()
    second.release()
    assert owner_of(tmp_path) == Owner.here()
    lock.release()
    assert owner_of(tmp_path) is None
    second.take()
    second.release()


def test_a_dead_owner_is_replaced(tmp_path, dead):
    name(tmp_path, dead, time.time())
    lock = Lock(tmp_path)
    lock.take()
    assert owner_of(tmp_path) == Owner.here()
    lock.release()


def test_a_number_that_is_used_again_is_another_process(tmp_path, other):
    name(tmp_path, other.pid, started(other.pid) - 3600)
    lock = Lock(tmp_path)
    lock.take()
    lock.release()


def test_a_live_owner_whose_lock_is_not_seen_is_respected(tmp_path, other):
    name(tmp_path, other.pid, started(other.pid))
    with pytest.raises(InputError, match=f"process {other.pid} on"):
        Lock(tmp_path).take()
    other.kill()
    wait_for(lambda: owner_of(tmp_path).dead)  # Before its exit status is read too.
    lock = Lock(tmp_path)
    lock.take()
    lock.release()


def test_an_owner_on_another_machine_may_live(tmp_path, dead):
    name(tmp_path, dead, time.time(), host="elsewhere")
    with pytest.raises(InputError, match=rf"on elsewhere.*remove \{OWNER}"):
        Lock(tmp_path).take()
    (tmp_path / OWNER).unlink()
    lock = Lock(tmp_path)
    lock.take()
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "host": 1, "started": []}'])
def test_an_owner_that_cannot_be_read_is_nobody(tmp_path, text):
    (tmp_path / OWNER).write_text(text, "utf-8")
    lock = Lock(tmp_path)
    lock.take()
    assert owner_of(tmp_path) == Owner.here()
    lock.release()


def test_only_what_the_dead_left_is_removed(tmp_path, other, dead):
    pids = {"dead": dead, "live": other.pid, "own": os.getpid()}
    for kind in ("partial", "old", "removed"):
        for whose, pid in pids.items():
            (tmp_path / f".{kind}-{pid}-0a-{whose}").mkdir()
    for whose in pids:
        (tmp_path / whose).mkdir()
    (tmp_path / f".partial-{dead}-0b-file.json").touch()
    (tmp_path / ".partial-notes").touch()
    _leftovers.clear(tmp_path, owned=True)
    hidden = {path.name.split("-")[-1] for path in tmp_path.glob(".*")}
    assert hidden == {"live", "notes"}
    assert all((tmp_path / whose).is_dir() for whose in pids)
    _leftovers.clear(tmp_path / "absent", owned=True)


@pytest.mark.slow
def test_of_processes_that_race_one_wins(tmp_path):
    """Five start at one moment; then the winner is killed too."""
    folder, together = tmp_path / "out", barrier(5)
    folder.mkdir()
    results = [tmp_path / f"{i}" for i in range(5)]
    racers = [start(take_folder, folder, result, together) for result in results]
    wait_for(lambda: all(result.exists() for result in results))
    said = [result.read_text("utf-8") for result in results]
    assert said.count("mine") == 1
    winner = racers[said.index("mine")]
    assert owner_of(folder).pid == winner.pid
    assert all(text == "mine" or "another run writes" in text for text in said)
    for racer in racers:
        racer.kill()
        racer.join()
    lock = Lock(folder)
    lock.take()
    lock.release()


@pytest.mark.slow
def test_a_second_run_in_one_folder_is_refused_and_takes_over_from_a_dead_one(tmp_path):
    settings = {"steps": 100_000, "save_every": 2, "evaluate_every": 50_000}
    first = start(train_here, tmp_path, settings)
    wait_for(lambda: checkpoints.checkpoints(tmp_path / "checkpoints"))
    second = trainer(output=tmp_path, **settings)
    with pytest.raises(InputError, match=f"another run writes to this folder: process {first.pid}"):
        second.train(progress=False)
    assert first.is_alive()
    first.kill()
    first.join()
    (tmp_path / f".partial-{first.pid}-0a-model").mkdir()
    (tmp_path / "checkpoints" / f".old-{first.pid}-0a-step").mkdir()
    third = trainer(output=tmp_path, **settings)
    third.callbacks = (stopped,)
    with pytest.raises(KeyboardInterrupt):
        third.train(resume=False, progress=False)
    assert not list(tmp_path.glob("**/.partial-*")) + list(tmp_path.glob("**/.old-*"))
    assert owner_of(tmp_path) is None


def stopped(run: Any, record: dict[str, Any]) -> None:
    raise KeyboardInterrupt


def test_processes_that_accelerate_does_not_see_are_an_error(monkeypatch):
    setup.accelerator(TrainConfig(), None)  # Decided for one process.
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"a launcher started 2 processes, but accelerate sees 1"):
        setup.accelerator(TrainConfig(), None)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="field 'WORLD_SIZE'"):
        setup.accelerator(TrainConfig(), None)
