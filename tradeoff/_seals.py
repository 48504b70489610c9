"""Seals by SHA-256, which detect any change of a file, a folder or the beginning of a log.

A single file contains its own seal, see :func:`sealed`. A folder has a sealed manifest,
``seal.json``, with the size and hash of each file. A growing log is sealed up to its last line, see
:class:`LineSeal`.
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
"""Bytes before the seal in a file."""
BLANK = b"0" * hashlib.sha256().digest_size * 2
"""Bytes in the place of the seal while the file is hashed."""
MANIFEST = "seal.json"


class Broken(ValueError):
    """Error for a file that differs from what was written.

    Parameters
    ----------
    file
        The file.
    problem
        What is wrong with it, as a clause.
    row
        Line of the file, from 1, if known.
    """

    def __init__(self, file: Path, problem: str, row: int | None = None) -> None:
        self.file, self.problem, self.row = file, problem, row
        super().__init__(f"{file.name}: {problem}")


# ---------------------------------------------------------------------- one file


def sealed(content: bytes) -> bytes:
    """The content of a file, with its seal written after the last :data:`MARK`."""
    before, mark, after = content.rpartition(MARK)
    after = after[len(BLANK) :]
    seal = hashlib.sha256(b"".join((before, mark, BLANK, after))).hexdigest().encode()
    return b"".join((before, mark, seal, after))


def intact(content: bytes) -> bool:
    """Whether a file has a seal and has not changed since it was sealed."""
    return MARK in content and content == sealed(content)


def digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; it is read in pieces."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file; several are hashed in parallel."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(digest, paths))


WORKERS = min(8, os.cpu_count() or 1)
"""Threads that hash files; hashing releases the GIL."""


# ---------------------------------------------------------------------- a folder


def seal_folder(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of a complete folder.

    Parameters
    ----------
    folder
        The folder; all files in it, at any depth, are listed.
    about
        Further JSON values to store in the sealed manifest.
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
    """Compare a folder with its manifest, and return the ``about`` of :func:`seal_folder`.

    Files that the manifest does not list are ignored.

    Parameters
    ----------
    folder
        A folder that :func:`seal_folder` has sealed.
    leave_out
        Files of which only the size is checked, because nothing is read from them.

    Raises
    ------
    Broken
        For the first file, or manifest, that is absent or has changed.
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


class LineSeal:
    """Running count and hash of the lines of a log while it is written."""

    def __init__(self) -> None:
        self.count, self.bytes = 0, 0
        self._digest = hashlib.sha256()

    def add(self, lines: bytes) -> None:
        """Add whole lines."""
        self.count += lines.count(b"\n")
        self.bytes += len(lines)
        self._digest.update(lines)

    def seal(self) -> dict[str, Any]:
        """Numbers of lines and bytes, and hash, of all lines so far."""
        return {"lines": self.count, "bytes": self.bytes, "sha256": self._digest.hexdigest()}


def check_lines(path: Path, written: Mapping[str, Any]) -> bytes:
    """Check the lines that :meth:`LineSeal.seal` has sealed, and return them without later lines.

    Raises
    ------
    Broken
        If they have changed. The error has the number of the first line that is not JSON, if any.
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
    """Number, from 1, of the first whole line that is not JSON; None if all are JSON."""
    for row, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            json.loads(line)
        except ValueError:
            return row
    return None
