"""Stamps, which show whether a stored figure equals what its sources would draw.

A stamp holds how a figure was made (sources, form, versions of packages, files that were read) and
the hash of every file that it wrote. A figure with any difference is drawn again.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tradeoff.records import read_json

_READ: ContextVar[set[Path] | None] = ContextVar("read", default=None)
_NOTED: ContextVar[set[Path] | None] = ContextVar("noted", default=None)
_WRONG = (OSError, ValueError, TypeError, AttributeError, RecursionError)
"""Errors that damaged JSON raises."""


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names in a folder; empty if it cannot be read."""
    if path.is_dir():
        names = "\0".join(sorted(each.name for each in path.iterdir()))
        return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def stamp(out: Path, made: Mapping[str, Any], files: Iterable[Path]) -> dict[str, Any]:
    """Make a stamp: how a figure was made, and the hashes of its files, by path below `out`."""
    hashes = {str(path.relative_to(out)): digest(path) for path in files}
    return {**made, "files": hashes}


def moved(inputs: Mapping[str, str], old: Path, new: Path) -> dict[str, str]:
    """The inputs of a figure after its copy from a folder to another.

    A figure reads the results of its own folder, and those of the paper where its own has none.
    """
    found: dict[str, str] = {}
    for name, known in inputs.items():
        path = Path(name)
        if old.resolve() not in path.parents:
            found[name] = known
        elif (own := new.resolve() / path.relative_to(old.resolve())).exists():
            if known:
                found[str(own)] = known
        elif known:
            found |= {name: known, str(own): ""}
    return found


def difference(place: Path, out: Path, wanted: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Reason to draw a figure again, in a few words; empty if it is up to date.

    Parameters
    ----------
    place
        File of the stamp.
    out
        Folder of the figure.
    wanted
        How the figure would be made now.
    files
        Files that the figure must have.
    """
    if not place.exists():
        return "not drawn here before"
    try:
        found = dict(read_json(place))
        inputs, hashes = dict(found.get("inputs", {})), dict(found["files"])
    except (*_WRONG, KeyError):
        return "its stamp cannot be read"
    for name, value in wanted.items():
        if found.get(name) != value:
            return f"other {name}"
    for path in files:
        if str(path.relative_to(out)) not in hashes:
            return f"{path.name} is not drawn yet"
    for name, known in hashes.items():
        if digest(out / name) != known:
            return f"{name} is not as it was written"
    changed = (name for name, known in inputs.items() if digest(Path(name)) != known)
    return next((f"{name} has changed" for name in changed), "")


def note(folder: Path) -> None:
    """Count a folder, also an absent one, as read: files that come make the figure out of date."""
    if (noted := _NOTED.get()) is not None:
        noted.add(folder.resolve())


@contextmanager
def reading(*folders: Path) -> Iterator[dict[str, str]]:
    """Context manager that collects the hash of each file below some folders that Python opens.

    Folders of :func:`note` are added. The hashes are there when the block has ended. Reads of other
    processes and threads are not seen.
    """
    found: dict[str, str] = {}
    seen: set[Path] = set()
    noted: set[Path] = set()
    tokens = _READ.set(seen), _NOTED.set(noted)
    try:
        yield found
    finally:
        _READ.reset(tokens[0])
        _NOTED.reset(tokens[1])
    found |= {str(folder): digest(folder) for folder in sorted(noted)}
    places = [folder.resolve() for folder in folders]
    for path in sorted(seen):
        if any(place in path.parents for place in places) and (content := digest(path)):
            found[str(path)] = content


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    seen = _READ.get() if event == "open" else None
    if seen is not None and isinstance(arguments[0], str | os.PathLike):
        seen.add(Path(os.path.realpath(arguments[0])))


sys.addaudithook(_watch)
