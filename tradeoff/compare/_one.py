"""One run of a comparison, in this process or in a worker's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tradeoff import experiment
from tradeoff.compare.grid import Planned
from tradeoff.errors import InputError, RowWarning
from tradeoff.llm import models, snapshots
from tradeoff.records import discard, load_json, plain, write_json

_ANEW = "Remove this folder; the run is then made anew."
DONE = "compared.json"
"""What a finished run was made of; it is written last."""
_FREE = ("reference_cache", "row_cache", "trackers", "fsync", "keep", "log_every", "save_every")
"""Settings that change no result."""


def train_one(
    run: Planned,
    folder: Path,
    sources: Mapping[str, str],
    rows: Mapping[str, Any] | None = None,
    *,
    keep_model: bool = False,
    progress: bool = False,
) -> int:
    """Train, or go on from the newest checkpoint; the number of the signal that stopped it, or 0.

    Parameters
    ----------
    run
        What is trained.
    folder
        Where it is written. Afterwards checkpoints are removed, and the model unless `keep_model`.
    sources
        Fingerprints of rows, model and tokenizer, which a later call compares.
    rows
        What :func:`tradeoff.experiment.read_rows` returns; read here by default.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", RowWarning)  # the same in every run
        read = experiment.read_rows(run.experiment) if rows is None else rows
        trainer = experiment.prepare(run.experiment, read, folder, progress=progress)
        try:
            result = trainer.train(progress=progress)
            experiment.write(trainer, result, folder)
        finally:
            trainer.accelerator.end_training()
    if result.signal:
        return result.signal
    said = list(dict.fromkeys(str(one.message) for one in caught))
    if not keep_model:
        discard(folder / models.MODEL)
    write_json(folder / DONE, {**made_of(run, sources), "warnings": said})
    discard(folder / snapshots.CHECKPOINTS)
    return 0


def made_of(run: Planned, sources: Mapping[str, str]) -> dict[str, Any]:
    """Settings, rows and model of a run, as JSON values that a later call compares."""
    found = asdict(run.experiment)
    for name in _FREE:
        del found["train"][name]
    return {"settings": found, **sources}


def is_done(run: Planned, folder: Path, sources: Mapping[str, str]) -> bool:
    """Whether a run has ended; its checkpoints are then removed, and its model stays if kept.

    Raises
    ------
    InputError
        If it was made of other settings, rows or another model.
    """
    if not (folder / DONE).exists():
        return False
    stored = _flat(load_json(folder / DONE, remedy=_ANEW))
    for name, value in _flat(made_of(run, sources)).items():
        if (found := stored.get(name)) != value:
            raise InputError(
                f"this run was made with another value than {value!r}",
                file=folder,
                field=name,
                value=found,
                remedy="Give another --out, or remove this folder.",
            )
    discard(folder / snapshots.CHECKPOINTS)
    return True


def has_model(folder: Path) -> bool:
    """Whether a finished run kept its model, or diverged and has none."""
    diverged = load_json(folder / "summary.json", remedy=_ANEW)["diverged_at"] is not None
    return diverged or (folder / models.MODEL).is_dir()


def warnings_of(folder: Path) -> list[str]:
    """What a finished run warned of."""
    stored = load_json(folder / DONE, remedy=_ANEW)
    return list(stored.get("warnings", []))


def _flat(table: Any, place: str = "") -> dict[str, Any]:
    """Values by dotted name, as JSON has them after the writer's rounding."""
    if isinstance(table, Mapping) and table:
        found: dict[str, Any] = {}
        for name, value in table.items():
            found |= _flat(value, f"{place}.{name}" if place else str(name))
        return found
    return {place: plain(table)}
