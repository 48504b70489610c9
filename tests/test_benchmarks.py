"""The history of benchmarks: ratios that got worse are found. Nothing is timed here."""

import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command
from benchmarks import history, measure
from tradeoff.records import read_json

HERE, ELSEWHERE = "a processor, 2 cores", "another, 8 cores"


def line(ratio, machine=HERE, benchmark="front"):
    return {"benchmark": benchmark, "machine": machine, "ratios": {"ours": ratio}}


def test_a_ratio_is_compared_with_the_median_of_the_last_runs_on_such_a_machine():
    earlier = [line(100.0), *map(line, (9.0, 10.0, 11.0, 2.0, 30.0)), line(99.0, ELSEWHERE)]
    assert history.worse(line(5.1), earlier, 2.0) == []
    assert history.worse(line(4.9), earlier, 2.0) == ["front: ours is 4.9, and was 10"]
    assert history.worse(line(4.9, benchmark="simulate"), earlier, 2.0) == []
    assert history.worse(line(0.1), [line(9.0, ELSEWHERE)], 2.0) == []


def test_every_stored_result_holds_its_ratios_and_the_history_is_of_known_ones():
    for name, paths in history.RATIOS.items():
        stored = read_json(measure.RESULTS / f"{name}.json")
        assert set(history.ratios(name, stored)) == set(paths)
    stored = history.read()
    assert {old["benchmark"] for old in stored} == set(history.RATIOS)
    for old in stored:
        assert set(old) == {"benchmark", "commit", "date", "machine", "ratios"}
        assert set(old["ratios"]) <= set(history.RATIOS[old["benchmark"]])


def test_a_reference_that_is_absent_has_no_ratio():
    assert history.ratios("simulate", {"kernels_over_numpy": {"median": 2.0}}) == {
        "kernels_over_numpy": 2.0
    }


@pytest.mark.parametrize(("ratio", "status"), [(8.0, 0), (4.0, 1)])
def test_the_check_writes_nothing_and_a_run_adds_a_line(
    tmp_path, monkeypatch, capsys, ratio, status
):
    numbers = {"numpy_over_simulate": {"median": ratio}}
    fake = SimpleNamespace(main=lambda: numbers)
    monkeypatch.setitem(sys.modules, "benchmarks.imports", fake)
    monkeypatch.setattr(history, "machine", lambda: HERE)
    file = tmp_path / "history.jsonl"
    old = {**line(10.0, benchmark="imports"), "ratios": {"numpy_over_simulate": 10.0}}
    history.append(old, file)
    monkeypatch.setattr(history.append, "__defaults__", (file,))
    monkeypatch.setattr(history.read, "__defaults__", (file,))
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    assert command.main(["imports", "--check", "--factor", "2"]) == status
    assert history.read() == [old]
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]
    assert ("worse by more than 2 times: imports" in capsys.readouterr().err) == bool(status)
    assert command.main(["imports", "--factor", "2"]) == status
    assert history.read()[-1]["ratios"] == {"numpy_over_simulate": ratio}
    assert (tmp_path / "imports.json").exists()
