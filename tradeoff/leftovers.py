"""What writers that were killed have left beside their files, and who may remove it.

A file or folder that is not complete, or that goes, has a name that says which process on which
machine made it. Others remove it once that process has ended.
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
"""First part of such a name: not complete yet; replaced, and put back if nothing took its place;
on its way out."""
_NAME = re.compile(rf"\.({PARTIAL}|{OLD}|{REMOVED})-(\d+)-([0-9a-f]+)-(.+)", re.DOTALL)
_CLOSE = 2.0
"""Seconds within which two readings of one moment lie; clocks are adjusted."""


def beside(path: Path, kind: str) -> Path:
    """A name of its own beside `path`, with the same suffix, for what this process makes."""
    token = f"{_machine()}{secrets.token_hex(4)}"
    return path.with_name(f".{kind}-{os.getpid()}-{token}-{path.name}")


def clear(folder: Path, *, owned: bool = False) -> None:
    """Remove what killed processes have left in a folder, and put back what they had replaced.

    Parameters
    ----------
    folder
        Where to look; it may be absent.
    owned
        Nobody else writes there, as this process holds its lock: then what this process and other
        machines have left goes, too.
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
    """Remove a file or folder that may be absent, or that another process removes as well."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def runs(pid: int, started: float | None = None) -> bool:
    """Whether there is such a process on this machine.

    Parameters
    ----------
    pid
        Its number.
    started
        When it started, in seconds since 1970, as numbers are used again; None: at any time.
    """
    begun = _begun(pid)
    return begun is not None and (started is None or abs(begun - started) <= _CLOSE)


def _abandoned(path: Path, pid: int, token: str, owned: bool) -> bool:
    """Whether nobody is writing there any more."""
    if owned and pid == os.getpid():
        return True
    if not owned and not token.startswith(_machine()):
        return False  # Whether a process of another machine runs cannot be seen from here.
    try:
        about = path.stat()
    except OSError:
        return False
    begun = _begun(pid)
    return begun is None or begun > max(about.st_ctime, about.st_mtime) + _CLOSE


def _begun(pid: int) -> float | None:
    """When the process of this number started, 0 if that is hidden; None if there is none."""
    try:
        import psutil
    except ImportError:  # The core does without; what may run is left alone.
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
    """What numbers of processes belong to: a machine and, of containers, their own counting."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]
