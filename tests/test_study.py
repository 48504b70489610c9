"""Studies: the same table on every backend and after interruptions; nothing is computed twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from tradeoff import study
from tradeoff.errors import InputError
from tradeoff.schedules import Alright, Mix
from tradeoff.study import _calls, addresses, engines, plans, store

SOURCE = '''
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent


def one(configuration):
    """Three rows of noise; each call leaves a line in a log."""
    with (HERE / "log").open("a") as log:
        log.write("call\\n")
    rng = np.random.default_rng([configuration["seed"], 7])
    lam = configuration["schedule"]["lam"]
    loss = rng.normal(size=3) + lam
    label = pd.Categorical([configuration["schedule"]["name"]] * 3)
    seed = configuration["seed"]
    return pd.DataFrame({"step": range(3), "label": label, "loss": loss, "seed": seed})


def many(configurations):
    return [one(c) for c in configurations]


def breaks(configuration):
    if configuration["seed"] == 2 and (HERE / "broken").exists():
        raise ZeroDivisionError("the third seed")
    configuration["seed"] = -1
    return pd.DataFrame({"x": [1]})


def breaks_many(configurations):
    return [breaks(c) for c in configurations]


def interrupted(configuration):
    if configuration["seed"] == 2 and not (HERE / "again").exists():
        raise KeyboardInterrupt
    return pd.DataFrame({"x": [1]})


def waits(configuration):
    if configuration["seed"] == 3 and (HERE / "slow").exists():
        time.sleep(60)
    return one(configuration)


def dies(configuration):
    os._exit(1)


def number(configuration):
    return 3.0


def mixed(configuration):
    return pd.DataFrame({"x": [1, "a"]})


def clashes(configuration):
    return pd.DataFrame({"seed": [99]})


def changing(configuration):
    return pd.DataFrame({"x": ["text" if configuration["seed"] else 1]})


def threads(configuration):
    from threadpoolctl import threadpool_info

    return pd.DataFrame({"threads": [max(pool["num_threads"] for pool in threadpool_info())]})


class Holder:
    def method(self, configuration):
        return pd.DataFrame()
'''
GRID = study.grid(schedule=[Mix(), Alright(lam=0.2)], seed=range(3))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A new module for each test, as a user would write it; workers can import it."""
    name = f"lab_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__(name)
    del sys.modules[name]


def calls_of(lab: ModuleType) -> int:
    log = lab.HERE / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def quietly(function: Any, configurations: Any, folder: Path, **settings: Any) -> pd.DataFrame:
    return study.run(
        function, configurations, folder, progress=False, **{"backend": "sequential", **settings}
    )


def test_a_task_on_other_files_is_that_of_these_files(lab: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text("1")
    assert study.task(lab.one).on([file]) == study.task(lab.one, [file])
    before = study.task(lab.one).on([file])
    file.write_text("2")
    assert before.on([file]).address({}) != before.address({})


def test_a_task_reads_its_sources_once(
    lab: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study.task(lab.one)
    monkeypatch.setattr(plans, "task", None)  # No other task may be made.
    table = quietly(made, GRID, tmp_path / "runs")
    assert study.status(made, GRID, tmp_path / "runs").done == len(GRID)
    pd.testing.assert_frame_equal(study.collect(made, GRID, tmp_path / "runs"), table)
    with pytest.raises(InputError, match="its own dependencies"):
        study.collect(made, GRID, tmp_path / "runs", depends=["json"])


# ---------------------------------------------------------------------- the table


def test_table_has_the_configurations_beside_the_results(lab: ModuleType, tmp_path: Path) -> None:
    table = quietly(lab.one, GRID, tmp_path / "s")
    assert list(table.columns) == [
        "run", "schedule.name", "schedule.lam", "seed", "schedule.probability", "step", "label",
        "loss",
    ]  # fmt: skip
    assert table.run.tolist() == [i for i in range(6) for _ in range(3)]
    assert table["schedule.lam"].tolist() == [0.5] * 9 + [0.2] * 9
    assert table.label.astype(str).tolist() == ["mix"] * 9 + ["alright"] * 9
    expected = [lab.one(c).loss.to_numpy() for c in GRID]
    np.testing.assert_array_equal(table.loss, np.concatenate(expected))
    assert_frame_equal(pd.read_parquet(tmp_path / "s" / "table.parquet"), table)


def test_stored_run_names_its_configuration(lab: ModuleType, tmp_path: Path) -> None:
    quietly(lab.one, GRID[:1], tmp_path)
    (file,) = (tmp_path / "runs").iterdir()
    stored = pq.read_schema(file).metadata[b"tradeoff.configuration"].decode()
    assert stored == addresses.canonical(GRID[0])
    assert file.stem == addresses.task(lab.one).address(GRID[0])


def test_what_is_stored_is_not_computed_again(lab: ModuleType, tmp_path: Path) -> None:
    few = quietly(lab.one, GRID[:2], tmp_path)
    assert calls_of(lab) == 2
    table = quietly(f"{lab.__name__}:one", GRID, tmp_path)
    assert calls_of(lab) == 6
    assert_frame_equal(
        table.loc[table.run < 2, ["seed", "step", "loss"]], few[["seed", "step", "loss"]]
    )
    assert_frame_equal(quietly(lab.one, GRID, tmp_path), table)
    assert_frame_equal(study.collect(lab.one, GRID, tmp_path), table)
    assert calls_of(lab) == 6


def test_order_is_that_of_the_configurations(lab: ModuleType, tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(GRID, len(GRID))
    quietly(lab.one, GRID, tmp_path)
    table = quietly(lab.one, shuffled, tmp_path)
    assert table.groupby("run").seed.first().tolist() == [c["seed"] for c in shuffled]


def test_configurations_may_differ_in_their_fields(lab: ModuleType, tmp_path: Path) -> None:
    odd = [{**GRID[0], "width": 2}, {**GRID[1], "width": "wide", "list": [1]}, GRID[2]]
    table = quietly(lab.one, odd, tmp_path)
    assert table.width[::3].tolist()[:2] == ["2", '"wide"']
    assert table.width.isna().tolist() == [False] * 6 + [True] * 3
    assert "list" not in table


def test_status_counts(lab: ModuleType, tmp_path: Path) -> None:
    assert asdict(study.status(lab.one, GRID, tmp_path)) == {"done": 0, "failed": 0, "missing": 6}
    quietly(lab.one, GRID[2:4], tmp_path)
    assert asdict(study.status(lab.one, GRID, tmp_path)) == {"done": 2, "failed": 0, "missing": 4}
    with pytest.raises(InputError, match="4 of 6 runs are not stored"):
        study.collect(lab.one, GRID, tmp_path)


# ---------------------------------------------------------------------- interruptions


def test_resume_after_an_exception(lab: ModuleType, tmp_path: Path) -> None:
    whole = quietly(lab.breaks, GRID, tmp_path / "whole")
    (tmp_path / "broken").touch()
    with pytest.raises(study.RunError, match=r"run 2 failed: ZeroDivisionError: the third") as e:
        quietly(lab.breaks, GRID, tmp_path / "cut")
    assert e.value.configuration == GRID[2]
    assert study.status(lab.breaks, GRID, tmp_path / "cut").done == 2
    (tmp_path / "broken").unlink()
    assert_frame_equal(quietly(lab.breaks, GRID, tmp_path / "cut"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sequential", "loky"])
def test_resume_after_a_kill(backend: str, lab: ModuleType, tmp_path: Path) -> None:
    seeds = study.grid(schedule=Mix(), seed=range(6))
    (tmp_path / "slow").touch()
    code = (
        "from tradeoff import study; from tradeoff.schedules import Mix\n"
        f"study.run('{lab.__name__}:waits', study.grid(schedule=Mix(), seed=range(6)),"
        f" {str(tmp_path / 'cut')!r}, backend={backend!r}, jobs=2, progress=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("cut/runs/[0-9a-f]*.parquet"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "slow").unlink()
    assert study.status(lab.waits, seeds, tmp_path / "cut").missing in (1, 2, 3)
    resumed = quietly(lab.waits, seeds, tmp_path / "cut")
    assert_frame_equal(resumed, quietly(lab.waits, seeds, tmp_path / "whole"))


def test_an_interrupt_keeps_what_is_done(lab: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        quietly(lab.interrupted, GRID, tmp_path)
    assert study.status(lab.interrupted, GRID, tmp_path).done == 2
    (tmp_path / "again").touch()
    assert len(quietly(lab.interrupted, GRID, tmp_path)) == 6


# ---------------------------------------------------------------------- engines


@pytest.fixture
def expected(lab: ModuleType, tmp_path: Path) -> pd.DataFrame:
    return quietly(lab.one, GRID, tmp_path / "expected")


@pytest.mark.parametrize(
    ("backend", "jobs"),
    [("loky", 2), pytest.param("loky", 1, marks=pytest.mark.slow), ("threading", 3)],
)
def test_engines_agree(
    backend: str, jobs: int, lab: ModuleType, expected: pd.DataFrame, tmp_path: Path
) -> None:
    table = quietly(lab.one, GRID, tmp_path / backend, backend=backend, jobs=jobs)
    assert_frame_equal(table, expected)


@pytest.mark.parametrize("batch", [1, 2, 4, 100])
def test_batches_agree(batch: int, lab: ModuleType, expected: pd.DataFrame, tmp_path: Path) -> None:
    table = quietly(lab.many, GRID, tmp_path / "many", batch=batch)
    assert_frame_equal(table, expected)


def test_batches_agree_in_the_keys_that_must(lab: ModuleType, tmp_path: Path) -> None:
    plan = plans.make(lab.many, GRID, tmp_path, ())
    assert plans.batches(plan, 2, ("seed",)) == [[0, 3], [1, 4], [2, 5]]
    assert plans.batches(plan, 2, ("schedule",)) == [[0, 1], [2], [3, 4], [5]]


@pytest.mark.slow
def test_a_dask_scheduler_that_runs_is_used(
    lab: ModuleType, expected: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        monkeypatch.setattr(distributed, "LocalCluster", None)  # No other one is started.
        with dask.config.set({"scheduler-address": cluster.scheduler_address}):
            table = quietly(lab.one, GRID, tmp_path, backend="dask")
    assert_frame_equal(table, expected)


def test_a_dask_cluster_agrees(lab: ModuleType, expected: pd.DataFrame, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        table = quietly(lab.one, GRID, tmp_path / "d", backend="dask", client=client)
        assert_frame_equal(table, expected)
        many = quietly(lab.many, GRID, tmp_path / "m", backend="dask", client=client, batch=4)
        assert_frame_equal(many, expected)
        (tmp_path / "broken").touch()
        with pytest.raises(study.RunError, match=r"run [25] failed"):
            quietly(lab.breaks, GRID, tmp_path / "b", backend="dask", client=client)


@pytest.mark.slow
def test_a_cluster_of_its_own_tells_that_workers_died(lab: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(study.RunError, match="WorkerDied: the process ended before the run did"):
        quietly(lab.dies, GRID[:1], tmp_path, backend="dask", jobs=1)


@pytest.mark.slow
def test_libraries_keep_to_their_threads(lab: ModuleType, tmp_path: Path) -> None:
    for backend, threads in (("sequential", 1), ("loky", 1), ("threading", 1), ("threading", 2)):
        folder = tmp_path / f"{backend}{threads}"
        table = quietly(lab.threads, GRID[:2], folder, backend=backend, jobs=2, threads=threads)
        assert table.threads.max() <= threads


def test_ray_that_is_not_installed_is_named(
    lab: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"'ray' is not installed.*tradeoff\[cluster\]"):
        quietly(lab.one, GRID, tmp_path, backend="ray")


def test_progress_counts_runs(
    lab: ModuleType, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    quietly(lab.one, GRID[:2], tmp_path)
    study.run(lab.one, GRID, tmp_path, backend="sequential")
    assert "6/6" in capfd.readouterr().err


# ---------------------------------------------------------------------- runs that fail


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_failures_are_recorded_and_tried_again(
    batch: int | None, lab: ModuleType, tmp_path: Path
) -> None:
    function = lab.breaks if batch is None else lab.breaks_many
    (tmp_path / "broken").touch()
    table = quietly(function, GRID, tmp_path / "s", on_error="record", batch=batch)
    assert table.run[table.error.notna()].tolist() == [2, 5]
    assert table.error[2] == "ZeroDivisionError: the third seed"
    assert asdict(study.status(function, GRID, tmp_path / "s")) == {
        "done": 4, "failed": 2, "missing": 0,
    }  # fmt: skip
    assert_frame_equal(study.collect(function, GRID, tmp_path / "s"), table)
    (tmp_path / "broken").unlink()
    healed = quietly(function, GRID, tmp_path / "s", batch=batch)
    assert_frame_equal(healed, quietly(function, GRID, tmp_path / "w", batch=batch))
    assert study.status(function, GRID, tmp_path / "s").failed == 0


def test_exceptions_that_cannot_travel_still_tell(lab: ModuleType, tmp_path: Path) -> None:
    """InputError is such an exception: its arguments are not those with which it is pickled."""
    outcome = _calls.call(addresses.task(lab.breaks), (0,), [{}], False, 1, False)[1][0]
    assert isinstance(outcome, _calls.Failure)
    assert outcome.message == "KeyError: 'seed'"
    assert 'configuration["seed"]' in outcome.trace


# ---------------------------------------------------------------------- addresses

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
KEYS = st.text().filter(lambda key: "." not in key)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8
)
CONFIGURATIONS = st.dictionaries(KEYS, VALUES, max_size=5)


@pytest.mark.slow
@given(CONFIGURATIONS, st.randoms())
def test_canonical_text_holds_all_of_a_configuration_but_its_order(
    configuration: dict[str, Any], rng: random.Random
) -> None:
    text = addresses.canonical(configuration)
    items = list(configuration.items())
    rng.shuffle(items)
    assert addresses.canonical(dict(items)) == text
    assert text.isascii()
    assert json.loads(text) == configuration
    assert addresses.canonical(json.loads(text)) == text


@pytest.mark.slow
@given(CONFIGURATIONS, CONFIGURATIONS)
def test_different_configurations_have_different_texts(a: Any, b: Any) -> None:
    if a != b:
        assert addresses.canonical(a) != addresses.canonical(b)


def test_numpy_and_schedules_become_json() -> None:
    given = {"lam": np.float64(0.5), "n": np.int32(3), "x": np.arange(2), "s": Mix(), "t": (1, 2)}
    plain = addresses.plain(given)
    assert plain == {"lam": 0.5, "n": 3, "x": [0, 1], "s": {"name": "mix", "lam": 0.5}, "t": [1, 2]}
    assert {type(plain["lam"]), type(plain["n"])} == {float, int}


def test_address_follows_sources_and_configuration(lab: ModuleType, tmp_path: Path) -> None:
    file, extra, data = Path(lab.__file__), tmp_path / "lab_extra.py", tmp_path / "rows.jsonl"
    extra.write_text("x = 1\n")
    data.write_text("1\n")
    depends = ("lab_extra", data)

    def address(configuration: dict[str, Any] = GRID[0], name: Any = lab.one) -> str:
        return addresses.task(name, depends).address(configuration)

    first = address()
    assert address(dict(reversed(GRID[0].items()))) == first
    assert len({first, address(GRID[1]), address(name=lab.many)}) == 3
    file.write_text(f"# A comment is no change.\n{SOURCE}")
    assert address() == first
    extra.write_text("x = 2\n")
    second = address()
    data.write_text("2\n")
    third = address()
    file.write_text(SOURCE.replace("+ lam", "- lam"))
    assert len({first, second, third, address()}) == 4


def test_a_package_stands_for_all_below_it(lab: ModuleType, tmp_path: Path) -> None:
    inner = tmp_path / "lab_package" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").touch()
    before = addresses.task(lab.one, ["lab_package"])
    (inner / "deep.py").write_text("x = 1")
    assert addresses.task(lab.one, ["lab_package"]).code != before.code


@pytest.mark.parametrize("run_before", [True, False])
@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_an_edit_in_a_running_process_is_refused(
    backend: str, run_before: bool, lab: ModuleType, tmp_path: Path
) -> None:
    if run_before:
        quietly(lab.one, GRID[:1], tmp_path)
    Path(lab.__file__).write_text(SOURCE.replace("+ lam", "- lam"))
    with pytest.raises(RuntimeError, match="loaded other sources"):
        quietly(lab.one, GRID[:1], tmp_path, backend=backend, jobs=1)
    assert study.status(lab.one, GRID[:1], tmp_path).done == 0


def test_an_edit_that_does_not_count_is_no_obstacle(lab: ModuleType, tmp_path: Path) -> None:
    edited = SOURCE.replace("os._exit(1)", "os._exit(2)").replace("Three rows", "3 rows")
    Path(lab.__file__).write_text(f"# A comment.\n{edited}")
    quietly(lab.one, GRID[:1], tmp_path)


def test_an_edit_of_what_was_imported_before_the_package_is_refused(tmp_path: Path) -> None:
    code = (
        "import pathlib, earlier; from tradeoff import study;"
        "pathlib.Path(earlier.__file__).write_text('def f(c): return 2');"
        f"study.run('earlier:f', [{{}}], {str(tmp_path / 's')!r}, progress=False)"
    )
    (tmp_path / "earlier.py").write_text("def f(c): return 1")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "RuntimeError: earlier:f: this process loaded other sources" in done.stderr


# ---------------------------------------------------------------------- the grid


def test_grid_combines_and_filters() -> None:
    found = study.grid(lambda c: c["a"] < c["b"], a=[1, 2], b=(2, 3), name="text")
    assert found == [
        {"a": 1, "b": 2, "name": "text"},
        {"a": 1, "b": 3, "name": "text"},
        {"a": 2, "b": 3, "name": "text"},
    ]
    with pytest.raises(InputError, match=r"field 'a': the axis has no values"):
        study.grid(a=[])
    with pytest.raises(InputError, match=r"field 'a'.*JSON"):
        study.grid(a={1, 2})


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x", {1}, np.nan])
def test_values_beyond_json_are_named(value: Any, lab: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"field 'outer\.inner\[1\]'.*JSON cannot"):
        quietly(lab.one, [{"outer": {"inner": [0, value]}}], tmp_path)


@pytest.mark.parametrize(
    ("configurations", "message"),
    [
        ([{"a": 1}, {"b": 1}, {"a": 1}], "configuration 2 repeats configuration 0"),
        ([], "no configurations"),
        ([{"run": 1}], "'run': the table has a column of this name"),
        ([{"a.b": 1}], "text without dots"),
        ([{"a": {1: 1}}], "text without dots"),
    ],
)
def test_bad_configurations(
    configurations: list[Any], message: str, lab: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        quietly(lab.one, configurations, tmp_path)


def test_functions_that_cannot_be_imported(lab: ModuleType, tmp_path: Path) -> None:
    def nested(configuration: dict[str, Any]) -> pd.DataFrame:
        return pd.DataFrame()

    for function in (
        nested, lambda c: c, partial(nested), lab.Holder().method, "no_module:f",
        f"{lab.__name__}:absent", f"{lab.__name__}:HERE", "no colon",
    ):  # fmt: skip
        with pytest.raises(InputError, match="import by name"):
            quietly(function, GRID, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "returned a float instead of a DataFrame"),
        ("many", "run 0 failed: TypeError"),
        ("mixed", "does not fit into Parquet"),
        ("clashes", "field 'seed': the table has another column"),
        ("changing", "do not fit into one table"),
    ],
)
def test_results_that_are_no_table(
    name: str, message: str, lab: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises((InputError, study.RunError), match=message):
        quietly(getattr(lab, name), GRID, tmp_path)


def test_batches_return_one_table_a_configuration(lab: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a list that holds a float instead of a list of 6"):
        quietly(_numbers_in(lab), GRID, tmp_path, batch=9)
    with pytest.raises(InputError, match="a float instead of a list of 2 DataFrames"):
        quietly(lab.number, GRID, tmp_path, batch=2)


def _numbers_in(lab: ModuleType) -> str:
    Path(lab.HERE, f"{lab.__name__}_b.py").write_text("def f(cs):\n    return [1.0 for c in cs]\n")
    return f"{lab.__name__}_b:f"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jobs": 0}, "'jobs'"),
        ({"threads": 0}, "'threads'"),
        ({"batch": 0}, "'batch'"),
        ({"batch": 2, "alike": ("sede",)}, "'alike'.*sede"),
        ({"alike": ("seed",)}, "give a batch size"),
        ({"client": object()}, "only Dask has a client"),
        ({"depends": ["no_such_module"]}, "no_such_module"),
        ({"depends": [Path("no-such-file")]}, "no-such-file"),
    ],
)
def test_bad_settings(
    settings: dict[str, Any], message: str, lab: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        quietly(lab.many, GRID, tmp_path, **settings)


def test_values_that_a_type_checker_refuses() -> None:
    with pytest.raises(InputError, match="unknown backend"):
        next(engines.stream(len, [], backend="slurm", jobs=1, threads=1))
    # The unwrapped function, since the tests' own type checker would raise first.
    with pytest.raises(InputError, match="'on_error'"):
        study.run.__wrapped__(len, [], "folder", on_error="ignore")  # type: ignore[attr-defined]


def test_a_file_in_place_of_the_folder(lab: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: this is a file"):
        quietly(lab.one, GRID, tmp_path / "file")


def test_a_disk_that_fails(
    lab: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(InputError, match=r"No space left.*Free space"):
            quietly(lab.one, GRID, tmp_path)
    assert not list((tmp_path / "runs").iterdir())
    assert len(quietly(lab.one, GRID, tmp_path)) == 18


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_damaged_files_are_kept_aside(damage: str, lab: ModuleType, tmp_path: Path) -> None:
    whole = quietly(lab.one, GRID, tmp_path / "s")
    address = addresses.task(lab.one).address
    file, other = (tmp_path / "s" / "runs" / f"{address(c)}.parquet" for c in GRID[1:3])
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[60] ^= 0xFF
    broken = {"cut": content[:-20], "flip": content, "other": other.read_bytes()}[damage]
    file.write_bytes(broken)
    with pytest.raises(InputError, match=f"damaged: .*{file.name}"):
        study.collect(lab.one, GRID, tmp_path / "s")
    for count in (1, 2):
        file.write_bytes(broken)
        with pytest.warns(UserWarning, match=f"damaged.*{file.name}"):
            assert_frame_equal(quietly(lab.one, GRID, tmp_path / "s"), whole)
        assert calls_of(lab) == 6 + count
        assert len(list((tmp_path / "s" / "runs").glob("*.damaged*"))) == count
    with warnings.catch_warnings():
        assert_frame_equal(quietly(lab.one, GRID, tmp_path / "s"), whole)


@pytest.mark.slow
def test_no_flipped_bit_goes_unnoticed(lab: ModuleType, tmp_path: Path) -> None:
    quietly(lab.breaks, GRID[:1], tmp_path)
    (file,) = (tmp_path / "runs").iterdir()
    text, content = addresses.canonical(GRID[0]), file.read_bytes()
    store.read_run(file, text)
    for bit in range(0, 8 * len(content), 13):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(store.Damaged):
            store.read_run(file, text)


def test_files_of_earlier_versions_are_read(lab: ModuleType, tmp_path: Path) -> None:
    whole = quietly(lab.one, GRID, tmp_path)
    for file in (tmp_path / "runs").iterdir():
        table = pq.read_table(file)
        kept = {k: v for k, v in table.schema.metadata.items() if k != store.SEAL}
        pq.write_table(table.replace_schema_metadata(kept), file)
    assert_frame_equal(quietly(lab.one, GRID, tmp_path), whole)
    assert calls_of(lab) == 6


@pytest.mark.parametrize("content", [b'{"err', b"[]", b"{}", b"\xff"])
def test_damaged_records_of_failures_are_named(
    content: bytes, lab: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    whole = quietly(lab.breaks, GRID, tmp_path, on_error="record")
    file = next((tmp_path / "runs").glob("*.error.json"))
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{file.name}: the record of a failed run") as caught:
        study.collect(lab.breaks, GRID, tmp_path)
    assert caught.value.remedy
    assert_frame_equal(quietly(lab.breaks, GRID, tmp_path, on_error="record"), whole)
