"""The log of a run: one JSON object a line, and the trackers of accelerate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from tradeoff import _seals
from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.records import flush, replacing
from tradeoff.schedules import Schedule

LOG = "metrics.jsonl"
"""Name of the log in the output folder of a run."""


class Journal:
    """Log lines of a run in memory and, with a folder, in the file ``metrics.jsonl``.

    Parameters
    ----------
    folder
        Output folder of the run; ``None``: nothing is written.
    accelerator
        The accelerator; only its main process writes.
    """

    def __init__(self, folder: Path | None, accelerator: Any) -> None:
        self.lines: list[dict[str, Any]] = []
        self.accelerator = accelerator
        self.path = None if folder is None else folder / LOG
        self._written = _seals.LineSeal()

    def open(self, config: TrainConfig, schedule: Schedule) -> None:
        """Start the trackers."""
        if config.trackers:
            settings = {"schedule": json.dumps(schedule.to_dict()), "seed": config.seed}
            self.accelerator.init_trackers("tradeoff", config=settings)

    def close(self) -> None:
        """End the trackers; the process group stays, as the model is still read through it."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []

    @property
    def exists(self) -> bool:
        """Whether a run has already written here."""
        return self.path is not None and self.path.exists()

    def has(self, kind: str, step: int) -> bool:
        """Whether there is a line of this kind after `step` updates."""
        return any(line["kind"] == kind and line["step"] == step for line in self.lines)

    def restart(self, content: bytes) -> None:
        """Restore the log as it was at a checkpoint; an empty log begins anew."""
        if self.path is None:
            return
        self.lines = [dict(json.loads(line)) for line in content.splitlines()]
        self._written = _seals.LineSeal()
        self._written.add(content)
        # All processes read before one writes.
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with replacing(self.path) as partial:
                partial.write_bytes(content)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; `line["step"]` counts the updates done.

        Raises
        ------
        InputError
            If a value is not one that JSON has; arrays and tensors become numbers and lists.
        """
        line = {name: _plain(value, name) for name, value in line.items()}
        self.lines.append(line)
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
        self.accelerator.log(numbers, step=line["step"])
        if self.path is not None and self.accelerator.is_main_process:
            text = _as_json(line).encode()
            with self.path.open("ab") as file:
                file.write(text)
            self._written.add(text)

    def seal(self, *, sync: bool) -> dict[str, Any]:
        """Flush the log to the disk, and return the count and hash of the lines of this process."""
        if sync and self.path is not None and self.path.exists():
            flush(self.path)
        return self._written.seal()

    def table(self, kind: str) -> pd.DataFrame:
        """Lines of one kind, "train" or "evaluation"."""
        rows = [line for line in self.lines if line["kind"] == kind]
        return pd.DataFrame(rows).drop(columns="kind", errors="ignore")


def _plain(value: Any, name: str) -> Any:
    """A value of a line as numbers, texts, lists and dictionaries; a callback may add any."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(part, name) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, name) for part in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise InputError(
        "the log holds numbers, texts, lists and dictionaries only",
        field=name,
        value=value,
        remedy="Let the callback add one of these to the record.",
    )


def _as_json(line: dict[str, Any]) -> str:
    """A line as JSON; a value that is not finite becomes null."""
    return f"{json.dumps(_finite(line), allow_nan=False)}\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
