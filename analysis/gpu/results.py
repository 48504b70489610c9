"""Results of the calls: a small JSON file for each method of a step, and one bundle of all."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analysis.dossier import stamps
from analysis.dossier.stored_results import fields_of
from analysis.fernando2024.stored import PAPER
from tradeoff.errors import InputError
from tradeoff.records import plain, replacing, write_json

STUDY = "study"
"""Step of the study on the real model."""
AND = " and "
KEYS = ("step", "method", "setting", "machine", "rounds")
"""What every result has; ``rounds`` holds one measurement each."""


def folder(out: Path | None) -> Path:
    """Where results are, of the paper's folder by default."""
    return (out or PAPER) / "results" / "gpu"


def place(where: Path, step: str, method: str) -> Path:
    """File of one method of a step."""
    return where / f"{slug(step)}--{slug(method)}.json"


def slug(name: str) -> str:
    """A name as files have it."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def known(path: Path, about: Mapping[str, Any]) -> list[Any]:
    """Rounds that were measured before in the same way, on such a machine."""
    if not path.exists():
        return []
    found = fields_of(path)
    same = all(plain(about[key]) == found.get(key) for key in KEYS[:-1])
    return list(found["rounds"]) if same else []


def keep(path: Path, about: Mapping[str, Any], rounds: list[Any]) -> Path:
    """Write the rounds measured so far."""
    return write_json(path, {**about, "rounds": rounds})


def runs(where: Path) -> Path:
    """Archive of the runs of the study on the real model, with which another call can go on."""
    return where / "study--runs.tar.gz"


def read(where: Path) -> dict[str, Any]:
    """Every result of a folder, by the name of its file."""
    stamps.note(where)
    found = {path.stem: fields_of(path) for path in sorted(where.glob("*.json"))}
    for name, one in found.items():
        if missing := [key for key in KEYS if key not in one]:
            remedy = "Measure it anew: remove the file, and run the call again."
            raise InputError(
                "not a result of analysis.gpu",
                file=where / f"{name}.json", field=missing[0], remedy=remedy,
            )  # fmt: skip
    return found


def bundle(where: Path, file: Path) -> None:
    """Write all results into one file."""
    write_json(file, read(where))


def archive(stored: Iterable[Path], file: Path) -> None:
    """Write the stored runs of a study into one file, which ``smol_study --adopt`` takes."""
    with replacing(file) as partial, tarfile.open(partial, "w:gz") as made:
        for path in sorted(stored):
            made.add(path, f"runs/{path.name}")


def merge(came: Path, file: Path) -> None:
    """Add the runs of an archive to another one, which keeps those that it has."""
    with TemporaryDirectory() as folder:
        for one in (came, file):
            if one.is_file():
                with tarfile.open(one) as packed:
                    packed.extractall(folder, filter="data")
        archive(Path(folder, "runs").glob("*"), file)


def unpack(file: Path, where: Path) -> list[Path]:
    """Write the results of a bundle as single files, and add the runs that came with it.

    A study adds up over calls: its result names the devices of all of them.
    """
    found = fields_of(file)
    written = []
    for name, one in found.items():
        if slug(name) != name.replace("--", "-"):  # It becomes the name of a file.
            raise InputError("not a name of a result", file=file, field=name, remedy="Pack anew.")
        path = where / f"{name}.json"
        if one["step"] == STUDY and path.exists():
            one["machine"]["device"] = devices(fields_of(path), one)
        written.append(write_json(path, one))
    if (came := file.with_suffix(".tar.gz")).is_file():
        merge(came, runs(where))
        written.append(runs(where))
    return written


def devices(*found: Mapping[str, Any]) -> str:
    """Names of the devices of results, each once."""
    names = [name for one in found for name in one["machine"]["device"].split(AND)]
    return AND.join(dict.fromkeys(names))
