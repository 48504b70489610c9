"""Checkpoints of a run: trained weights and optimiser as safetensors, the rest as JSON.

A checkpoint gets its name only when it is complete and sealed. So a run that is killed while it
writes resumes from the checkpoint before. The seal covers all files of the checkpoint and the log
so far.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tradeoff import _leftovers, _seals
from tradeoff.errors import InputError
from tradeoff.llm import _saved
from tradeoff.records import discard, read_json, replacing_folder

_NAME = re.compile(r"step-(\d{8})")


def write(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    *,
    keep: int,
    log: dict[str, Any],
    spare: Collection[int] = (),
    sync: bool = True,
) -> Path:
    """Write ``step-XXXXXXXX/`` with one safetensors file per entry of `tensors` and `state.json`.

    Parameters
    ----------
    folder
        Folder of all checkpoints of the run.
    step
        Updates done.
    tensors, state
        The content of the checkpoint.
    keep
        Number of newest checkpoints to keep; older ones are removed, except `spare`.
    log
        Seal of the log so far, from ``LineSeal.seal`` of the module of seals.
    spare
        Steps whose checkpoints are not removed.
    sync
        Wait until all of it is on the disk.
    """
    target = named(folder, step)
    _leftovers.clear(folder, owned=True)
    with replacing_folder(target, sync=sync) as partial:
        for name, content in tensors.items():
            save_file(_apart(content), partial / f"{name}.safetensors")
        # records.write_json would round, but a resumed run must be exact.
        text = json.dumps({**state, "files": sorted(tensors)}, indent=1)
        (partial / "state.json").write_bytes(f"{text}\n".encode())
        _seals.seal_folder(partial, {"step": step, "log": log})
    remove_older(folder, keep, spare)
    return target


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the processor's memory, unless they are there; none shares another's memory."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in places else plain
        places.add(place)
    return found


def remove_older(folder: Path, keep: int, spare: Collection[int] = ()) -> None:
    """Remove all but the `keep` newest and those of the steps `spare`."""
    for path in checkpoints(folder)[:-keep]:
        if step_of(path) not in spare:
            discard(path)


def remove_all(folder: Path) -> None:
    """Remove the checkpoints for a run that begins anew."""
    for path in checkpoints(folder):
        discard(path)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def step_of(path: Path) -> int | None:
    """Number of updates at a checkpoint, by its folder's name; None for another name."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else int(found[1])


def named(folder: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` updates, which may be absent."""
    return folder / f"step-{step:08d}"


def read(path: Path, log: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], bytes]:
    """Read tensors by file and name, the state, and the log up to the checkpoint.

    Parameters
    ----------
    path
        The checkpoint.
    log
        Log of the run.

    Raises
    ------
    InputError
        If a file is absent or changed. The error names an older intact checkpoint, and how to
        resume from it.
    """
    try:
        lines = _checked(path, log)
        found = dict(read_json(path / "state.json"))
        files = {name: path / f"{name}.safetensors" for name in found.pop("files")}
        return {name: dict(load_file(file)) for name, file in files.items()}, found, lines
    except _seals.Broken as error:
        what = "log" if error.file == log else "checkpoint"
        problem = f"the {what} cannot be read: {error.problem}"
        remedy = _way_on(path, log)
        raise InputError(problem, file=error.file, row=error.row, remedy=remedy) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        problem = f"the checkpoint cannot be read: {error}"
        raise InputError(problem, file=path, remedy=_way_on(path, log)) from error


def intact(path: Path, log: Path | None = None) -> bool:
    """Whether a checkpoint, and the log up to it if given, are as they were written."""
    try:
        _checked(path, log)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _checked(path: Path, log: Path | None) -> bytes:
    """Check a checkpoint and its log against the seal, and return the log up to it."""
    about = _seals.check_folder(path)
    _saved.check((path / "state.json").read_text("utf-8"), step_of(path))
    return b"" if log is None else _seals.check_lines(log, about["log"])


def _way_on(path: Path, log: Path) -> str:
    """Remedy for a checkpoint that cannot be used."""
    older = [one for one in checkpoints(path.parent) if one.name < path.name]
    for one in reversed(older):
        if intact(one, log):
            newer = [p.name for p in checkpoints(path.parent) if p.name > one.name]
            return (
                f"Remove {', '.join(newer)} from {path.parent}; the same command then goes on from "
                f"{one.name}, which is intact."
            )
    if intact(path):
        return (
            f"No older checkpoint has its log either. Its weights are intact: begin a run from "
            f"them, --model {path}, in another output folder."
        )
    return (
        "There is no older checkpoint that is intact: restore it from a copy, or begin anew with "
        "--no-resume."
    )


def rendered_on(path: Path) -> str | None:
    """The date that chat templates wrote in a run; None if there is none or it is not known."""
    try:
        return read_json(path / "state.json").get("date")
    except (OSError, ValueError, AttributeError):  # `read` reports this error
        return None


def check_same_run(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise an error for a checkpoint of another schedule, other settings or other rows."""
    found = state.get("identity", {})
    for name, expected in identity.items():
        if not _same(found.get(name), expected):
            begin = "Resume with the settings it was made with"
            if name == "model":
                begin = "Load the model from which it began; training has changed it in memory"
            raise InputError(
                f"the checkpoint belongs to another run: its {name} differs from {expected!r}",
                file=path,
                field=name,
                value=found.get(name),
                remedy=f"{begin}, or give another output folder.",
            )


def _same(found: Any, expected: Any) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    if isinstance(found, dict) and isinstance(expected, dict):
        same = all(_same(found[name], expected[name]) for name in found if name in expected)
        return found.keys() == expected.keys() and same
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return isinstance(found, bool) == isinstance(expected, bool) and bool(found == expected)
