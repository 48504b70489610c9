"""One run at a time in an output folder: who writes there, and what was left by who is dead.

Two things say so. The operating system holds a lock for as long as a process lives, and gives it
up when the process ends, however it ends. A file beside the lock names the owner, for messages and
for file systems on which such locks reach no other machine.
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

from tradeoff import leftovers
from tradeoff.errors import InputError
from tradeoff.records import read_json, replacing

LOCK, OWNER = ".lock", ".owner.json"
"""Files in an output folder: what is locked, and who writes there for as long as it does."""


@dataclass(frozen=True)
class Owner:
    """A process that writes to a folder.

    Attributes
    ----------
    pid
        Its number on its machine.
    host
        Name of the machine.
    started
        When the process started, in seconds since 1970. Numbers of processes are used again.
    """

    pid: int
    host: str
    started: float

    @classmethod
    def here(cls) -> Owner:
        """What this process would be named by."""
        import psutil

        return cls(os.getpid(), socket.gethostname(), psutil.Process().create_time())

    @property
    def dead(self) -> bool:
        """Whether its process has ended; of another machine this is not known, so it has not."""
        return self.host == socket.gethostname() and not leftovers.runs(self.pid, self.started)

    def __str__(self) -> str:
        """As messages name it."""
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
        """Become the owner, in place of one that ended without releasing the folder, if any.

        Raises
        ------
        InputError
            If the owner of the folder lives, or may live on another machine.
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
            # Not records.write_json, which rounds: times must be told apart.
            partial.write_text(json.dumps(asdict(Owner.here())), "utf-8")

    def release(self) -> None:
        """Let others write; nothing happens where this is not the owner."""
        if self._lock.is_locked:
            (self.folder / OWNER).unlink(missing_ok=True)
            self._lock.release()


@contextmanager
def owned(folder: Path | None, accelerator: Any) -> Iterator[None]:
    """Let no other run write to the folder while entered; what dead ones left unfinished goes.

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
    """The error of taking a lock, if there is one."""
    try:
        lock.take()
        for place in (lock.folder, lock.folder / "checkpoints"):
            leftovers.clear(place, owned=True)
    except InputError as error:
        return error
    return None


def owner_of(folder: Path) -> Owner | None:
    """Who the folder says writes there; None if nobody, or it cannot be read."""
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
