"""Runs of a study that kill their worker process, and errors with any text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joblib.externals.loky.process_executor import BrokenProcessPool
from pandas.testing import assert_frame_equal

from tradeoff import study
from tradeoff.study import _calls, engines, processes
from tradeoff.study.processes import Died

LIGHT = '''
import ctypes
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).parent


def act(how):
    """End as told, or answer; each call leaves a line in a log."""
    with (HERE / "log").open("a") as log:
        log.write(f"{how}\\n")
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "unreadable":
        return Unreadable()
    return how


class Unreadable:
    def __reduce__(self):
        return int, ("no number",)
'''
HEAVY = """
import pandas as pd
from {light} import act

TEXTS = eval((__import__("pathlib").Path(__file__).parent / "texts").read_text())


def run(configuration):
    act(configuration["how"])
    return pd.DataFrame({{"x": [1.0]}})


def run_many(configurations):
    return [run(c) for c in configurations]


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fail(configuration):
    text = TEXTS[configuration["text"]]
    if text == "mute":
        raise Mute
    if text == "leave":
        raise SystemExit(4)
    raise ValueError(text)
"""
TEXTS = [
    "half of a pair: \ud83d",
    b"\xff\xfe no UTF-8".decode("utf-8", "surrogateescape"),
    "null \0 within",
    "long " * 1_000_000,
    "a\nb\r\n\u2028\x1b[31m",
    "",
    "mute",
    "leave",
]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """A module that imports nothing large, and one for studies; workers can import both."""
    light, heavy = (f"{kind}_{tmp_path.name}" for kind in ("light", "heavy"))
    (tmp_path / f"{light}.py").write_text(LIGHT)
    (tmp_path / f"{heavy}.py").write_text(HEAVY.format(light=light))
    (tmp_path / "texts").write_text(repr(TEXTS).encode("ascii", "backslashreplace").decode())
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__(light), __import__(heavy)
    del sys.modules[light], sys.modules[heavy]


@pytest.mark.slow
def test_each_death_is_charged_to_its_call(lab: Any, tmp_path: Path) -> None:
    acts = ["a", "exit", "b", "kill", "segfault", "c"]
    answers = list(processes.stream(lab[0].act, [(act,) for act in acts], 2, 1))
    assert sorted(answer for answer in answers if isinstance(answer, str)) == ["a", "b", "c"]
    died = {a.arguments[0]: a.how for a in answers if isinstance(a, Died)}
    assert len(answers) == len(acts)
    ends = {"exit": "EXIT(3)", "kill": "SIGKILL", "segfault": "SIGSEGV"}
    assert set(died) == set(ends)
    assert [act for act, end in ends.items() if end not in died[act]] == []
    # A call that runs when the process is killed is made twice, and no other.
    log = (tmp_path / "log").read_text().split()
    assert {log.count(act) for act in acts} <= {1, 2}


class Pool:
    """Stands for a pool of processes that breaks at any moment, also between two submissions."""

    def __init__(self, deadly: set[int], moments: Iterator[bool]) -> None:
        self._deadly, self._moments = deadly, moments
        self._open: list[tuple[Future[int], int]] = []
        self._broken = False

    def submit(self, function: Any, call: int) -> Future[int]:
        if self._open and next(self._moments):
            self.act()
        if self._broken:
            raise BrokenProcessPool("a worker died")
        self._open.append((Future(), call))
        return self._open[-1][0]

    def act(self) -> None:
        """Let the calls end in the order of their submission; a deadly one breaks the pool."""
        for future, call in self._open:
            self._broken |= call in self._deadly
            if self._broken:
                future.set_exception(BrokenProcessPool("a worker died"))
            else:
                future.set_result(call)
        self._open.clear()


@given(st.data(), st.integers(1, 4), st.integers(1, 7))
def test_each_call_has_one_answer_whenever_a_worker_dies(
    data: st.DataObject, workers: int, calls: int
) -> None:
    deadly = data.draw(st.sets(st.integers(0, calls - 1)))
    moments = iter(lambda: data.draw(st.booleans()), None)
    pools: list[Pool] = []

    @contextmanager
    def pool(*_: Any) -> Iterator[Pool]:
        pools.append(Pool(deadly, moments))
        yield pools[-1]

    def wait(running: Any, **settings: Any) -> Any:
        pools[-1].act()
        return futures.wait(running, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_pool", pool)
        patch.setattr(processes, "wait", wait)
        answers = list(processes.stream(int, [(i,) for i in range(calls)], workers, 1))
    died = [a.arguments[0] for a in answers if isinstance(a, Died)]
    assert sorted(died) == sorted(deadly)
    assert sorted(a for a in answers if not isinstance(a, Died)) == sorted(
        set(range(calls)) - deadly
    )


def test_a_result_that_cannot_be_read_is_the_failure_of_its_call(lab: Any) -> None:
    (answer,) = processes.stream(lab[0].act, [("unreadable",)], 1, 1)
    assert "un-serialize" in answer.how


def test_an_early_stop_ends_the_workers(lab: Any) -> None:
    import psutil

    answers = processes.stream(lab[0].act, [("a",), ("b",), ("c",)], 2, 1)
    assert next(answers) in "ab"
    workers = {p for p in psutil.Process().children() if "loky" in " ".join(p.cmdline())}
    answers.close()
    assert not [p for p in workers if p.is_running() and "popen_loky" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_a_worker_that_dies_is_the_failure_of_its_run(lab: Any, tmp_path: Path) -> None:
    grid = [{"how": how} for how in ("a", "kill", "b")]
    table = study.run(
        lab[1].run_many, grid, tmp_path / "s", jobs=2, batch=3, progress=False, on_error="record"
    )
    assert table.x.notna().tolist() == [True, False, True]
    assert table.error.isna().tolist() == [True, False, True]
    assert table.error[1].startswith("WorkerDied: the process ended before the run did: SIGKILL")
    found = study.status(lab[1].run_many, grid, tmp_path / "s")
    assert (found.done, found.failed, found.missing) == (2, 1, 0)
    assert_frame_equal(study.collect(lab[1].run_many, grid, tmp_path / "s"), table)


def test_a_death_stops_a_study_that_is_to_stop(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stream(function: Any, arguments: Any, **_: Any) -> Iterator[Any]:
        for one in arguments:
            asked.append(one[1])
            yield Died(one, "SIGKILL(-9)") if 1 in one[1] else function(*one)

    monkeypatch.setattr(engines, "stream", stream)
    grid = [{"how": how} for how in "abcd"]
    with pytest.raises(study.RunError, match=r"run 0 failed: WorkerDied.*SIGKILL\(-9\)"):
        study.run(lab[1].run_many, grid, tmp_path / "s", batch=2, progress=False)
    assert asked == [(0, 1)]
    asked.clear()
    table = study.run(
        lab[1].run_many, grid, tmp_path / "s", batch=2, progress=False, on_error="record"
    )
    assert table.run[table.error.notna()].tolist() == [1]
    assert asked == [(0, 1), (2, 3), (0,), (1,)]


# ---------------------------------------------------------------------- texts of errors


def test_errors_of_any_text_are_stored(lab: Any, tmp_path: Path) -> None:
    grid = study.grid(text=range(len(TEXTS)))
    settings: dict[str, Any] = {"backend": "sequential", "progress": False, "on_error": "record"}
    table = study.run(lab[1].fail, grid, tmp_path / "s", **settings)
    assert_frame_equal(pd.read_parquet(tmp_path / "s" / "table.parquet"), table)
    assert_frame_equal(study.collect(lab[1].fail, grid, tmp_path / "s"), table)
    errors = table.error.tolist()
    assert errors[0] == "ValueError: half of a pair: \\ud83d"
    assert errors[1] == "ValueError: \\udcff\\udcfe no UTF-8"
    assert errors[2] == "ValueError: null \\x00 within"
    assert "characters left out" in errors[3]
    assert len(errors[3]) <= _calls.LONGEST
    assert errors[4] == f"ValueError: {TEXTS[4]}"
    assert errors[5:] == [
        "ValueError: ", "Mute: its text cannot be made: RuntimeError", "SystemExit: 4",
    ]  # fmt: skip
    for file in (tmp_path / "s" / "runs").glob("*.error.json"):
        record = json.loads(file.read_text("utf-8"))
        assert "Traceback" in record["traceback"]
        assert len(record["traceback"]) <= _calls.LONGEST_TRACE
    with pytest.raises(study.RunError, match=r"half of a pair: \\ud83d"):
        study.run(lab[1].fail, grid, tmp_path / "s", **{**settings, "on_error": "raise"})


@given(st.text(st.characters(codec=None, categories=None)), st.integers(1, 40))
def test_every_text_can_be_stored(text: str, times: int) -> None:
    found = _calls.storable(text * times, limit=100)
    assert found.encode("utf-8").decode("utf-8") == found
    assert "\0" not in found
    assert len(found) <= 100
    assert _calls.storable(found, limit=100) == found


def test_texts_of_configurations_that_utf8_lacks_are_json(lab: Any, tmp_path: Path) -> None:
    grid = [{"how": "a", "note": "half \ud83d"}, {"how": "b", "note": "whole"}]
    table = study.run(lab[1].run, grid, tmp_path / "s", backend="sequential", progress=False)
    assert table.note.tolist() == ['"half \\ud83d"', '"whole"']
