"""Faults at the n-th write below a folder, by any library.

Python reports every file operation to audit hooks, and an exception of a hook stops the operation.
Wrappers report the writes of libraries with native code.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
Fault = Callable[[str, Path], None]
"""Called with the operation and the path; it raises, kills this process, or does nothing."""


class Watch:
    """Context manager that counts writes below a folder and calls `fault` at number `at`, from 1.

    With `lasting`, `fault` is also called at every later write.
    """

    def __init__(
        self, root: Path, at: int = 0, fault: Fault | None = None, *, lasting: bool = False
    ) -> None:
        self.root, self.at, self.fault, self.lasting = str(root.resolve()), at, fault, lasting
        self.count, self._inside = 0, False

    def see(self, operation: str, path: str) -> None:
        """Count one write and call the fault if it is due."""
        if self._inside or not path.startswith(self.root):
            return
        self.count += 1
        if self.fault and (self.count == self.at or (self.lasting and 0 < self.at < self.count)):
            self._inside = True
            try:
                self.fault(operation, Path(path))
            finally:
                self._inside = False

    def __enter__(self) -> Watch:
        _announce_writes()
        _watches.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _watches.remove(self)


_watches: list[Watch] = []
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches or event not in OPERATIONS:
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
        return
    if (path := _absolute(event, arguments)) is not None:
        for watch in _watches:
            watch.see(event, path)


def _absolute(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The path of an operation; shutil.rmtree gives paths relative to an open folder."""
    path = arguments[0]
    if isinstance(path, int):
        return None
    path, descriptor = os.fsdecode(path), arguments[-1]
    if event in ("os.remove", "os.rmdir") and isinstance(descriptor, int) and descriptor >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), path)
    return os.path.abspath(path)


def _announce_writes() -> None:
    """Install the hook, which cannot be removed, and the wrappers of native writers."""
    global _installed
    if _installed:
        return
    _installed = True
    import pyarrow.parquet as pq
    import safetensors.torch

    sys.addaudithook(_hook)
    safetensors.torch.serialize_file = _announced(safetensors.torch.serialize_file, 1)
    pq.write_table = _announced(pq.write_table, 1)


def _announced(write: Any, position: int) -> Any:
    def announced(*arguments: Any, **options: Any) -> Any:
        target = arguments[position]
        if isinstance(target, str | Path):
            path = os.path.abspath(target)
            for watch in list(_watches):
                watch.see("native", path)
        return write(*arguments, **options)

    return announced


# ---------------------------------------------------------------------- faults


def killed(operation: str, path: Path) -> None:
    """Kill this process before the write, as the operating system would."""
    os.kill(os.getpid(), signal.SIGKILL)


def torn(operation: str, path: Path) -> None:
    """Kill this process in the middle of the write."""
    if operation in ("open", "native") and not path.is_dir():
        with path.open("ab") as file:
            file.write(b'{"ki')
    killed(operation, path)


def refused(number: int) -> Fault:
    """Make a fault that raises an error of the system; a full disk still allows removals."""

    def refuse(operation: str, path: Path) -> None:
        frees = operation in ("os.remove", "os.rmdir", "os.rename")
        if not (number == errno.ENOSPC and frees):
            if operation == "native":  # with the error type of the writing library
                from safetensors import SafetensorError

                text = f"I/O error: {os.strerror(number)} (os error {number})"
                raise (
                    SafetensorError(text)
                    if path.suffix == ".safetensors"
                    else OSError(number, os.strerror(number), str(path))
                )
            raise OSError(number, os.strerror(number), str(path))

    return refuse


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Make the operating system refuse bytes of a file beyond `limit`, also from native code."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
