"""What a run writes down: one JSON object a line, and the trackers of accelerate."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.records import replacing
from tradeoff.schedules import Schedule


class Journal:
    """Lines of a run, kept in memory and, given a folder, in ``metrics.jsonl``.

    Parameters
    ----------
    folder
        Output folder of the run; ``None``: nothing is written.
    accelerator
        Of accelerate; only its main process writes.
    """

    def __init__(self, folder: Path | None, accelerator: Any) -> None:
        self.lines: list[dict[str, Any]] = []
        self.accelerator = accelerator
        self._path = None if folder is None else folder / "metrics.jsonl"

    def open(self, config: TrainConfig, schedule: Schedule) -> None:
        """Start the trackers."""
        if config.trackers:
            settings = {"schedule": json.dumps(schedule.to_dict()), "seed": config.seed}
            self.accelerator.init_trackers("tradeoff", config=settings)

    def close(self) -> None:
        """End the trackers; not the process group, which the model is still read through."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []

    @property
    def exists(self) -> bool:
        """Whether a run has written here before."""
        return self._path is not None and self._path.exists()

    def has(self, kind: str, step: int) -> bool:
        """Whether there is a line of this kind after `step` updates."""
        return any(line["kind"] == kind and line["step"] == step for line in self.lines)

    def restart(self, step: int) -> None:
        """Forget what was written after `step` updates, or all of it if there were none."""
        if self._path is None:
            return
        kept = []
        if step and self._path.exists():
            found = [_parsed(self._path, *line) for line in enumerate(_whole_lines(self._path), 1)]
            # A checkpoint stands between the log line and the evaluation of its step.
            kept = [e for e in found if (e["step"], e["kind"] != "train") <= (step, False)]
        self.lines = kept
        # All have read before one writes.
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with replacing(self._path) as partial:
                partial.write_text("".join(map(_as_json, kept)), encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; `line["step"]` counts the updates done."""
        self.lines.append(line)
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
        self.accelerator.log(numbers, step=line["step"])
        if self._path is not None and self.accelerator.is_main_process:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_as_json(line))

    def table(self, kind: str) -> pd.DataFrame:
        """Lines of one kind, "train" or "evaluation"."""
        rows = [line for line in self.lines if line["kind"] == kind]
        return pd.DataFrame(rows).drop(columns="kind", errors="ignore")


def _as_json(line: dict[str, Any]) -> str:
    """One line; a value that is not finite, which JSON lacks, becomes null."""
    plain = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
    }
    return f"{json.dumps(plain, allow_nan=False)}\n"


def _parsed(path: Path, row: int, text: str) -> dict[str, Any]:
    try:
        line = dict(json.loads(text))
        if isinstance(line["kind"], str) and isinstance(line["step"], int):
            return line
        reason = "kind is no text, or step no whole number"
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error)
    raise InputError(
        f"the log cannot be read: {reason}",
        file=path,
        row=row,
        value=text.strip(),
        remedy="Remove this line; the run then goes on without it.",
    )


def _whole_lines(path: Path) -> list[str]:
    """Lines that were written to their end: a killed run may leave half of one."""
    return [line for line in path.read_text("utf-8").splitlines(keepends=True) if line[-1] == "\n"]
