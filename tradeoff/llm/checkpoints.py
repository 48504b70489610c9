"""The state of a run on disk: trained weights and optimiser as safetensors, the rest as JSON.

A checkpoint takes its name only when it is complete, so a run that is killed while writing goes
on from the one before.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tradeoff.errors import InputError
from tradeoff.llm.owner import remove_unfinished
from tradeoff.records import read_json, replacing_folder

_STATE = {"files", "identity", "known", "meter", "optimizer", "positions", "step", "tally"}
_NAME = re.compile(r"step-(\d{8})")


def write(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    keep: int,
    spare: Collection[int] = (),
) -> Path:
    """Write ``step-XXXXXXXX/`` with one safetensors file per entry of `tensors` and `state.json`.

    Older checkpoints beyond the `keep` newest are then removed, except those of the steps `spare`.
    """
    target = named(folder, step)
    remove_unfinished(folder)
    with replacing_folder(target) as partial:
        for name, content in tensors.items():
            plain = {key: value.detach().cpu().contiguous() for key, value in content.items()}
            save_file(plain, partial / f"{name}.safetensors")
        # Not records.write_json, which rounds: what is resumed must be exact.
        text = json.dumps({**state, "files": sorted(tensors)}, indent=1)
        (partial / "state.json").write_text(f"{text}\n", encoding="utf-8")
    remove_older(folder, keep, spare)
    return target


def remove_older(folder: Path, keep: int, spare: Collection[int] = ()) -> None:
    """Remove all but the `keep` newest and those of the steps `spare`."""
    for path in checkpoints(folder)[:-keep]:
        if step_of(path) not in spare:
            shutil.rmtree(path)


def remove_all(folder: Path) -> None:
    """Clear the way for a run that begins anew."""
    for path in checkpoints(folder):
        shutil.rmtree(path)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def step_of(path: Path) -> int | None:
    """Updates done at a checkpoint, by the name of its folder; None for another name."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else int(found[1])


def named(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates is, or would be."""
    return folder / f"step-{step:08d}"


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file and name, and the state.

    Raises
    ------
    InputError
        If a file is absent or damaged.
    """
    remedy = "Remove this checkpoint; the run then goes on from the one before."
    try:
        found = dict(read_json(path / "state.json"))
        if absent := sorted(_STATE - set(found)):
            raise ValueError(f"state.json lacks {absent[0]!r}")
        files = {name: path / f"{name}.safetensors" for name in found.pop("files")}
        return {name: dict(load_file(file)) for name, file in files.items()}, found
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        problem = f"the checkpoint cannot be read: {error}"
        raise InputError(problem, file=path, remedy=remedy) from error


def rendered_on(path: Path) -> str | None:
    """The date that chat templates wrote in a run; None if they wrote none, or it is not known."""
    try:
        return read_json(path / "state.json").get("date")
    except (OSError, ValueError, AttributeError):  # `read` says what is wrong with it
        return None


def check_same_run(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse a checkpoint of another schedule, of other settings or of other rows."""
    found = state.get("identity", {})
    for name, expected in identity.items():
        if found.get(name) != expected:
            raise InputError(
                f"the checkpoint belongs to another run: its {name} differs from {expected!r}",
                file=path,
                field=name,
                value=found.get(name),
                remedy="Resume with the settings it was made with, or give another output folder.",
            )
