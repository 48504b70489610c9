"""Temporary files of killed processes: their names, and their removal.

A file or folder that is incomplete, replaced or being removed has a name with the process and the
machine that made it. Other processes remove it once that process has ended.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

PARTIAL, OLD, REMOVED = "partial", "old", "removed"
"""First part of such a name. "partial": not complete yet. "old": replaced; it is put back if
nothing took its place. "removed": being removed."""
_NAME = re.compile(rf"\.({PARTIAL}|{OLD}|{REMOVED})-(\d+)-([0-9a-f]+)-(.+)", re.DOTALL)
_CLOSE = 2.0
"""Tolerance in seconds when two times are compared, because clocks are adjusted."""


def beside(path: Path, kind: str) -> Path:
    """A unique temporary name beside `path`, with the same suffix, that names this process."""
    token = f"{_machine()}{secrets.token_hex(4)}"
    return path.with_name(f".{kind}-{os.getpid()}-{token}-{path.name}")


def clear(folder: Path, *, owned: bool = False) -> None:
    """Remove leftovers of killed processes in a folder, and put back files that they replaced.

    Parameters
    ----------
    folder
        The folder; it may be absent.
    owned
        Whether this process holds the lock of the folder, so that no other writes there. Leftovers
        of this process and of other machines are then removed too.
    """
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        found = _NAME.fullmatch(path.name)
        if found is None or not _abandoned(path, int(found[2]), found[3], owned):
            continue
        target = folder / found[4]
        if found[1] == OLD and not target.exists():
            with suppress(OSError):
                path.rename(target)
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or folder that may be absent, or that another process removes too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def runs(pid: int, started: float | None = None) -> bool:
    """Whether a process runs on this machine.

    Parameters
    ----------
    pid
        Number of the process.
    started
        Its start, in seconds since 1970, because numbers are used again; None: any.
    """
    begun = _begun(pid)
    return begun is not None and (started is None or abs(begun - started) <= _CLOSE)


def _abandoned(path: Path, pid: int, token: str, owned: bool) -> bool:
    """Whether the process that made a leftover has ended."""
    if owned and pid == os.getpid():
        return True
    if not owned and not token.startswith(_machine()):
        return False  # It is not known whether a process of another machine still runs.
    try:
        about = path.stat()
    except OSError:
        return False
    begun = _begun(pid)
    return begun is None or begun > max(about.st_ctime, about.st_mtime) + _CLOSE


def _begun(pid: int) -> float | None:
    """Start of the process of this number; 0 if it is unknown, None if there is no process."""
    try:
        import psutil
    except ImportError:  # The core does not need psutil; the process is assumed to run.
        return 0.0
    try:
        process: Any = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0


@cache
def _machine() -> str:
    """Hash of the machine and, in a container, of its own numbering of processes."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]
