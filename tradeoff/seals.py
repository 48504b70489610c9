"""Seals by SHA-256: whatever has changed in a file, a folder or the beginning of a log is found.

A file of one piece carries its seal within, see :func:`sealed`. A folder has a manifest,
``seal.json``, with the size and hash of each file, which is sealed itself. A log that is added to
is sealed as far as it goes, see :class:`Lines`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MARK = b"tradeoff.sha256="
"""What stands before the seal within a file."""
BLANK = b"0" * hashlib.sha256().digest_size * 2
"""What stands in the seal's place while the file is hashed."""
MANIFEST = "seal.json"


class Broken(ValueError):
    """A file that is not what was written.

    Parameters
    ----------
    file
        Which one.
    problem
        What is wrong with it, as a clause.
    row
        Line of the file, from 1, where that is known.
    """

    def __init__(self, file: Path, problem: str, row: int | None = None) -> None:
        self.file, self.problem, self.row = file, problem, row
        super().__init__(f"{file.name}: {problem}")


# ---------------------------------------------------------------------- one file


def sealed(content: bytes) -> bytes:
    """The content of a file with its seal in place of what follows the last :data:`MARK`."""
    before, mark, after = content.rpartition(MARK)
    after = after[len(BLANK) :]
    seal = hashlib.sha256(b"".join((before, mark, BLANK, after))).hexdigest().encode()
    return b"".join((before, mark, seal, after))


def intact(content: bytes) -> bool:
    """Whether a file has a seal and is as it was sealed."""
    return MARK in content and content == sealed(content)


def digest(path: Path) -> str:
    """SHA-256 of a file, read piece by piece, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file; several are read at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(digest, paths))


WORKERS = min(8, os.cpu_count() or 1)
"""Threads that hash; Python lets them run side by side."""


# ---------------------------------------------------------------------- a folder


def seal_folder(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of a folder that is complete.

    Parameters
    ----------
    folder
        All files in it, at any depth, are listed.
    about
        What else is sealed, as JSON values.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": found}
        for path, found in zip(paths, digests(paths), strict=True)
    }
    content = {"about": dict(about or {}), "files": files, "seal": (MARK + BLANK).decode()}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_bytes(sealed(f"{text}\n".encode()))


def check_folder(folder: Path, *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Compare a folder with its manifest, and return what else was sealed.

    Files that the manifest does not list are left alone.

    Parameters
    ----------
    folder
        Which :func:`seal_folder` has sealed.
    leave_out
        Files of which only the size is looked at, as nothing is read from them.

    Raises
    ------
    Broken
        For the first file that is absent or not as it was written, the manifest among them.
    """
    manifest = _manifest(folder)
    files = {folder / name: about for name, about in manifest["files"].items()}
    for path, written in files.items():
        _check_size(path, written["bytes"])
    chosen = [path for path in files if path.relative_to(folder).as_posix() not in leave_out]
    for path, found in zip(chosen, digests(chosen), strict=True):
        if found != files[path]["sha256"]:
            raise Broken(path, "it is not as it was written, as its SHA-256 shows")
    return dict(manifest["about"])


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Broken(path, "the seal is absent, as in what older versions wrote") from None
    except OSError as error:
        raise Broken(path, f"the seal cannot be read: {error.strerror or error}") from error
    if not intact(content):
        raise Broken(path, "the seal itself is not as it was written")
    return dict(json.loads(content))


def _check_size(path: Path, written: int) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise Broken(path, "it is absent") from None
    except OSError as error:
        raise Broken(path, f"it cannot be read: {error.strerror or error}") from error
    if size != written:
        raise Broken(path, f"it has {size:,} bytes, and {written:,} were written")


# ---------------------------------------------------------------------- a log


class Lines:
    """Counts and hashes the lines of a log while they are written."""

    def __init__(self) -> None:
        self.count, self.bytes = 0, 0
        self._digest = hashlib.sha256()

    def add(self, lines: bytes) -> None:
        """Take up whole lines, which are being written."""
        self.count += lines.count(b"\n")
        self.bytes += len(lines)
        self._digest.update(lines)

    def seal(self) -> dict[str, Any]:
        """Numbers and hash of all lines so far."""
        return {"lines": self.count, "bytes": self.bytes, "sha256": self._digest.hexdigest()}


def check_lines(path: Path, written: Mapping[str, Any]) -> bytes:
    """The lines that :meth:`Lines.seal` has sealed; later ones of the file are left out.

    Raises
    ------
    Broken
        If they are not as they were written; with the line, where one of them is no JSON.
    """
    try:
        with path.open("rb") as file:
            content = file.read(written["bytes"])
    except FileNotFoundError:
        content = b""
        if written["bytes"]:
            raise Broken(path, "it is absent") from None
    except OSError as error:
        raise Broken(path, f"it cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() == written["sha256"]:
        return content
    expected = f"its first {written['lines']} lines are not as they were written"
    if len(content) < written["bytes"]:
        lines = content.count(b"\n")
        expected = f"it has {lines} whole lines, and {written['lines']} were written"
    raise Broken(path, expected, _unreadable(content))


def _unreadable(content: bytes) -> int | None:
    """The first whole line that is no JSON, from 1; None if all are."""
    for row, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            json.loads(line)
        except ValueError:
            return row
    return None
