"""The lock of an output folder, so that one run at a time writes there.

There are two signs of an owner. The operating system holds a lock while a process lives, and
releases it when the process ends in any way. A file beside the lock names the owner, for messages
and for file systems whose locks are not seen by other machines.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tradeoff import _leftovers
from tradeoff.errors import InputError
from tradeoff.records import read_json, replacing

LOCK, OWNER = ".lock", ".owner.json"
"""Files in an output folder: the lock, and the name of the owner while it writes."""


@dataclass(frozen=True)
class Owner:
    """A process that writes to a folder.

    Attributes
    ----------
    pid
        Process number on its machine.
    host
        Name of the machine.
    started
        Start of the process, in seconds since 1970; process numbers are used again.
    """

    pid: int
    host: str
    started: float

    @classmethod
    def here(cls) -> Owner:
        """The owner that is this process."""
        import psutil

        return cls(os.getpid(), socket.gethostname(), psutil.Process().create_time())

    @property
    def dead(self) -> bool:
        """Whether its process has ended; False for another machine, where this is not known."""
        return self.host == socket.gethostname() and not _leftovers.runs(self.pid, self.started)

    def __str__(self) -> str:
        """Description in messages."""
        since = datetime.fromtimestamp(self.started, UTC)
        return f"process {self.pid} on {self.host}, started {since:%Y-%m-%d %H:%M:%S} UTC"


class Lock:
    """The right to write to a folder, from :meth:`take` to :meth:`release`.

    Parameters
    ----------
    folder
        The output folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock

        self.folder = folder
        self._lock = FileLock(folder / LOCK, timeout=0)

    def take(self) -> None:
        """Take the lock, also from an owner that ended without releasing it.

        Raises
        ------
        InputError
            If the owner of the folder is alive, or may be alive on another machine.
        """
        from filelock import Timeout

        try:
            self._lock.acquire()
        except Timeout:
            raise _owned(self.folder, owner_of(self.folder)) from None
        except OSError as error:
            raise InputError(
                f"the output folder cannot be locked: {error.strerror or error}",
                file=self.folder,
                remedy="Give another one, on a file system that has locks.",
            ) from error
        before = owner_of(self.folder)
        if before is not None and not before.dead:
            self._lock.release()
            raise _owned(self.folder, before)
        with replacing(self.folder / OWNER) as partial:
            # records.write_json would round, but times must be exact.
            partial.write_text(json.dumps(asdict(Owner.here())), "utf-8")

    def release(self) -> None:
        """Release the lock; do nothing if this process is not the owner."""
        if self._lock.is_locked:
            (self.folder / OWNER).unlink(missing_ok=True)
            self._lock.release()


@contextmanager
def owned(folder: Path | None, accelerator: Any) -> Iterator[None]:
    """Context manager with the lock of a folder; unfinished files of dead runs are removed.

    The main process holds the lock, and all processes get its error.

    Raises
    ------
    InputError
        See :meth:`Lock.take`.
    """
    if folder is None:
        yield
        return
    lock = Lock(folder)
    problem: list[Any] = [_problem(lock) if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]
    try:
        yield
    finally:
        lock.release()


def _problem(lock: Lock) -> InputError | None:
    """Take a lock, and return its error, if any."""
    try:
        lock.take()
        for place in (lock.folder, lock.folder / "checkpoints"):
            _leftovers.clear(place, owned=True)
    except InputError as error:
        return error
    return None


def owner_of(folder: Path) -> Owner | None:
    """The owner that the folder names; None if it names none or cannot be read."""
    try:
        found = read_json(folder / OWNER)
        names = [field.name for field in fields(Owner)]
        pid, host, started = (found[name] for name in names)
        return Owner(int(pid), str(host), float(started))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _owned(folder: Path, owner: Owner | None) -> InputError:
    named = "another process" if owner is None else str(owner)
    remedy = "Wait for it or stop it, or give another output folder."
    if owner is not None and owner.host != socket.gethostname():
        remedy += f" If it has ended, remove {OWNER} from the folder."
    return InputError(f"another run writes to this folder: {named}", file=folder, remedy=remedy)
