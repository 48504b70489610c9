"""Processes that are killed before or in the middle of numbered writes, and at random times.

A killed training, study or figure is started again with the same call. The content of its folder
must then equal that of an undisturbed one: the same files, the same bytes of weights, optimiser and
tables, the same lines of the log, and nothing else. Earlier finished files must be whole at every
moment.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llm_runs

from tests.attack import _children, _faults, _lab
from tests.attack._outcome import Outcome, spread
from tests.attack._setup import copied, difference, exact, intact, names, place, train

PROMISE = "A process killed at any moment ends with the very same result when called again."
TRIES, FULL = 48, 400

RUN: dict[str, Any] = {"save_every": 2, "keep": 2, "log_every": 1}
FORMS: dict[str, dict[str, Any]] = {
    "training": RUN,
    "training of adapters": {**RUN, "lora": llm_runs.LORA, "schedule": "maxright"},
    "training with a cache": {**RUN, "cache": True, "keep": 1, "schedule": "sft-dpo"},
}
LONG = {**RUN, "steps": 40, "save_every": 1, "evaluate_every": 10}
ROUNDS = 3
"""Number of kills of one run at random times, before it may finish."""


def run(tries: int, seed: int) -> Outcome:
    """Kill `tries` times."""
    subjects: dict[str, _Training] = {kind: _Training(settings) for kind, settings in FORMS.items()}
    subjects |= {
        "a finished training": _Again(RUN),
        "a training begun anew": _Anew(RUN),
        "study": _Study(),
        "figure": _Figure(),
    }
    kinds: dict[str, Any] = {
        kind: partial(_at_writes, kind, subject) for kind, subject in subjects.items()
    }
    kinds["training, at random times"] = _at_times
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spread(tries, seed, kinds)


# ---------------------------------------------------------------------- subjects


class _Training:
    """A training in an empty folder."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def prepare(self, folder: Path) -> None:
        """Make the files that exist before the call."""

    def call(self, folder: Path) -> None:
        train(folder, self.settings)

    def kept(self, folder: Path) -> str | None:
        """Description of what is lost right after a kill; None if nothing is."""
        return None


class _Again(_Training):
    """The same call after a finished run, whose model must exist at every moment."""

    def prepare(self, folder: Path) -> None:
        train(folder, self.settings)

    def kept(self, folder: Path) -> str | None:
        model = folder / "model"
        whole = {"model.safetensors", "config.json", "tokenizer.json"} <= names(model)
        if whole and all(intact(path) for path in model.iterdir()):
            return None
        return "the finished model is not there any more"


class _Anew(_Training):
    """A call that removes an earlier run with another schedule."""

    def prepare(self, folder: Path) -> None:
        train(folder, {**self.settings, "schedule": "mix"})

    def call(self, folder: Path) -> None:
        train(folder, self.settings, resume=False)


class _Study(_Training):
    """A study of four runs."""

    def __init__(self) -> None:
        super().__init__({})

    def call(self, folder: Path) -> None:
        _lab.run(folder)


class _Figure(_Training):
    """A figure with its numbers and its stamp."""

    def __init__(self) -> None:
        super().__init__({})

    def call(self, folder: Path) -> None:
        from analysis.dossier import runner
        from analysis.fernando2024.dossier import DOSSIER

        runner.STAMPS = folder / "stamps"
        runner.run(DOSSIER, "certified_front", folder, fast=True)


# ---------------------------------------------------------------------- kills


def _killed_at(subject: _Training, folder: Path, at: int, torn: bool) -> None:
    """Run the call in a child, and kill it at one of its writes."""
    with _faults.Watch(folder, at, _faults.torn if torn else _faults.killed):
        subject.call(folder)


def _counted(subject: _Training, folder: Path) -> int:
    """Run the call in a child, and count its writes."""
    with _faults.Watch(folder) as watch:
        subject.call(folder)
    return watch.count


def _at_writes(
    kind: str, subject: _Training, tries: int, rng: random.Random, outcome: Outcome
) -> None:
    with place() as root:
        # One folder for all, because stamps contain their path.
        start, folder = root / "start", root / "work"
        start.mkdir()
        subject.prepare(start)
        counted = _children.call(_counted, subject, copied(start, folder))
        if counted.status != 0:
            outcome.add(kind, f"undisturbed, it ends with {counted.status}: {counted.text[-200:]}")
            return
        expected, writes = exact(folder), counted.value
        for _ in range(tries):
            copied(start, folder)
            ats = [rng.randint(1, writes)]
            if rng.random() < 0.3:  # the second call is killed, too
                ats.append(rng.randint(1, writes))
            problem = None
            for at in ats:
                _children.call(_killed_at, subject, folder, at, rng.random() < 0.5)
                problem = problem or subject.kept(folder)
            problem = problem or _ended(partial(_children.call, _counted, subject, folder))
            problem = problem or difference(exact(folder), expected)
            said = " and ".join(f"write {at}" for at in ats)
            outcome.add(kind, problem and f"killed at {said} of {writes}: {problem}")


def _ended(call: Callable[[], _children.Ended]) -> str | None:
    ended = call()
    if ended.hung:
        return "the next call does not end"
    return f"the next call fails: {ended.text[-300:]}" if ended.status else None


def _at_times(tries: int, rng: random.Random, outcome: Outcome) -> None:
    kind = "training, at random times"
    with place() as root:
        (root / "whole").mkdir()
        train(root / "whole", LONG)
        expected = exact(root / "whole")
        done = 0
        while done < tries:
            folder = root / f"run-{done}"
            folder.mkdir()
            rounds = min(ROUNDS, tries - done)
            for _ in range(rounds):
                process = llm_runs.start(llm_runs.train_here, folder, LONG)
                time.sleep(rng.uniform(0.05, 1.5))
                process.kill()
                process.join()
            problem = _ended(partial(_children.call, train, folder, LONG))
            problem = problem or difference(exact(folder), expected)
            outcome.add(kind, problem, tries=rounds)
            done += rounds
