"""The plan of a study: its runs by position, and which of them are stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tradeoff.errors import InputError
from tradeoff.files import writing
from tradeoff.records import replacing
from tradeoff.study import _calls, store
from tradeoff.study.addresses import Configuration, Dependency, Task, canonical, plain, task

Function = Callable[[Any], Any] | str | Task


@dataclass
class StudyPlan:
    """The runs of a study with their results and errors, by position of the configuration."""

    task: Task
    folder: Path
    configurations: list[Configuration]
    addresses: list[str]
    done: dict[int, pa.Table] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


def make(
    function: Function,
    configurations: Iterable[Mapping[str, Any]],
    folder: str | Path,
    depends: Sequence[Dependency],
) -> StudyPlan:
    """Check the arguments of a study, and compute the address of each run."""
    work, place, found = _task(function, depends), Path(folder), [plain(c) for c in configurations]
    if place.exists() and not place.is_dir():
        raise InputError("this is a file", file=place, remedy="Name a folder for the results.")
    if not found:
        raise InputError("no configurations", remedy="Give at least one; see study.grid.")
    seen: dict[str, int] = {}
    for i, configuration in enumerate(found):
        for key in store.RESERVED:
            if key in configuration:
                raise InputError(
                    "the table has a column of this name", field=key, remedy="Rename the key."
                )
        first = seen.setdefault(canonical(configuration), i)
        if first != i:
            raise InputError(
                f"configuration {i} repeats configuration {first} (counted from 0)",
                value=configuration,
                remedy="Give each once; repetitions differ in a key such as the seed.",
            )
    return StudyPlan(work, place, found, [work.address(c) for c in found])


def _task(function: Function, depends: Sequence[Dependency]) -> Task:
    if not isinstance(function, Task):
        return task(function, depends)
    if depends:
        remedy = "Give them to study.task, which made the task."
        raise InputError("a task has its own dependencies", field="depends", remedy=remedy)
    return function


def read_stored(plan: StudyPlan, *, move_aside: bool) -> None:
    """Read the stored results; a damaged file is renamed and computed again, or an error."""
    for i, address in enumerate(plan.addresses):
        path = store.run_file(plan.folder, address)
        if path.exists():
            try:
                plan.done[i] = store.read_run(path, canonical(plan.configurations[i]))
            except store.Damaged as damage:
                aside = store.free_name(path.with_suffix(".damaged"))
                if not move_aside:
                    raise InputError(
                        f"a stored result is damaged: {damage}",
                        remedy=f"study.run moves it to {aside.name} and computes it anew.",
                    ) from damage
                with writing(path):
                    path.replace(aside)
                text = f"A stored result is damaged and computed anew; it is kept as {aside.name}."
                warnings.warn(f"{text} {damage}", stacklevel=3)
        elif not move_aside and (error := store.read_error(store.error_file(plan.folder, address))):
            plan.failed[i] = error


def batches(plan: StudyPlan, size: int | None, alike: Sequence[str]) -> list[list[int]]:
    """Positions of the missing runs, in one list for each call."""
    if size is not None and size < 1:
        raise InputError("not a batch size", field="batch", value=size, remedy="Use 1 or more.")
    for key in alike:
        if size is None or not any(key in c for c in plan.configurations):
            raise InputError(
                "there is no batch size, or no configuration has this key",
                field="alike",
                value=key,
                remedy="Name keys of the configurations, and give a batch size.",
            )
    missing = [i for i in range(len(plan.configurations)) if i not in plan.done]
    groups: dict[str, list[int]] = {}
    for i in missing:
        shared = {key: plan.configurations[i].get(key) for key in alike}
        groups.setdefault(canonical(shared), []).append(i)
    step = size or 1
    return [g[k : k + step] for g in groups.values() for k in range(0, len(g), step)]


def keep(plan: StudyPlan, i: int, result: _calls.Outcome, on_error: str) -> None:
    """Store one outcome, or raise the error that stops the study."""
    configuration, address = plan.configurations[i], plan.addresses[i]
    failure = store.error_file(plan.folder, address)
    if isinstance(result, _calls.Misfit):
        raise InputError(
            f"{plan.task.name} returned {result.found} instead of {result.wanted}",
            value=configuration,
            remedy="Return one DataFrame per configuration; with `batch`, return a list of them.",
        )
    if not isinstance(result, _calls.Failure):
        path = store.run_file(plan.folder, address)
        plan.done[i] = store.write_run(path, result, configuration)
        with writing(failure):
            failure.unlink(missing_ok=True)
    elif on_error == "raise":
        raise _calls.RunError(i, configuration, result)
    else:
        store.write_error(failure, configuration, result.message, result.trace)
        plan.failed[i] = result.message


def write_table(plan: StudyPlan) -> pd.DataFrame:
    """Write the table of all runs, and return it."""
    table = store.combine(plan.configurations, plan.done, plan.failed)
    path = plan.folder / "table.parquet"
    with replacing(path) as partial:
        pq.write_table(table, partial)
    return table.to_pandas()
