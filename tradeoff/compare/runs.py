"""Runs on disk: what each trained, where it ended, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.llm import card, checkpoints, snapshots
from tradeoff.llm.journal import LOG
from tradeoff.methods import Method, restored
from tradeoff.records import read_json
from tradeoff.schedules import FORWARD

LOSSES = ("sft_loss", "preference_loss")
_BEYOND = ("schedule", "seed")
"""Entries of an identity that have a place of their own in a comparison."""


@dataclass(frozen=True)
class EndedRun:
    """A run that ended.

    Attributes
    ----------
    folder
        Its output folder.
    method
        What was trained.
    identity
        Settings, and fingerprints of rows and model, by name.
    start, end
        Held-out numbers of the policy before training and of the one that was saved.
    gradients
        Cost in gradients of a batch; a look at losses counts a third of one.
    tokens, seconds
        Cost of training, without evaluations.
    sources
        Where its rows came from, by name; empty for a run of an older version.
    diverged
        Whether it ended early, as a loss or weight was not finite.
    """

    folder: Path
    method: Method
    identity: Mapping[str, Any]
    start: Mapping[str, Any]
    end: Mapping[str, Any]
    gradients: float
    tokens: int
    seconds: float
    diverged: bool
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Root seed of its random draws."""
        return int(self.identity["seed"])

    @property
    def settings(self) -> dict[str, Any]:
        """All settings but method and seed."""
        return {name: value for name, value in self.identity.items() if name not in _BEYOND}


def read_runs(folders: Sequence[Path]) -> tuple[list[EndedRun], list[str]]:
    """The runs in some folders, and a remark on each that has not ended.

    Raises
    ------
    InputError
        If a folder holds no run, a file of one cannot be read, or none has ended.
    """
    found, remarks = [], []
    for folder in {folder.resolve(): folder for folder in folders}.values():
        run = read_run(folder)
        if isinstance(run, str):
            remarks.append(run)
        else:
            found.append(run)
    if not found:
        problem = f"none of {len(remarks)} runs has ended" if remarks else "there are no runs"
        remedy = "Give folders of `tradeoff train`, such as runs/*."
        raise InputError(problem, field="FOLDER", remedy=remedy)
    return found, remarks


def read_run(folder: Path) -> EndedRun | str:
    """One run; a sentence where it has not ended."""
    log = folder / LOG
    if not log.is_file():
        remedy = "Give output folders of `tradeoff train`, such as runs/*."
        raise InputError("there is no run in this folder", file=folder, remedy=remedy)
    if not (folder / "summary.json").is_file():
        return f"{folder} is left out: it has not ended"
    try:
        summary = read_json(folder / "summary.json")
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        identity = summary.get("identity") or _of_checkpoint(folder)
        return _run(folder, summary, lines, identity)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"the run cannot be read: {type(error).__name__}: {error}"
        remedy = "Train it again, or leave this folder out."
        raise InputError(problem, file=folder, remedy=remedy) from error


def _run(
    folder: Path, summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], identity: Any
) -> EndedRun | str:
    diverged = summary["diverged_at"] is not None
    if not (diverged or summary.get("stopped_early") or summary["steps"] >= identity["steps"]):
        done = f"{summary['steps']} of {identity['steps']} updates"
        return f"{folder} is left out: it was stopped after {done}"
    evaluations = {line["step"]: line for line in lines if line["kind"] == "evaluation"}
    saved = summary.get("best", {}).get("step", max(evaluations, default=None))
    end = evaluations.get(saved, {})
    if absent := [name for name in LOSSES if name not in end and not diverged]:
        remedy = "Give held-out rows, or train.holdout above 0."
        raise InputError("no held-out loss is known", file=folder, field=absent[0], remedy=remedy)
    updates = summary["updates"]
    batch = identity.get("batch_size", 1)
    method = restored(identity["schedule"])
    passes = method.sft.forwards * updates["sft"] + end.get("probe_rows", 0) / batch
    return EndedRun(
        folder=folder,
        method=method,
        identity=identity,
        start=evaluations.get(0, {}),
        end=end,
        gradients=sum(updates.values()) + FORWARD * passes,
        tokens=int(summary["tokens"]),
        seconds=float(summary["seconds"]),
        diverged=diverged,
        sources=card.sources(folder),
    )


def _of_checkpoint(folder: Path) -> Any:
    """The identity of a run of an older version, whose summary lacks it."""
    found = checkpoints.checkpoints(folder / snapshots.CHECKPOINTS)
    if not found:
        remedy = "Train it again; a summary then says what it was trained on."
        raise InputError("rows and model of this run are unknown", file=folder, remedy=remedy)
    return read_json(found[-1] / "state.json")["identity"]
