"""Errors of writing files, with file, reason and remedy, and checks before computing.

Writers in Python, Arrow and Rust report a full, read-only or vanished disk in different ways.
:func:`refusal` understands them all. Every file of the project is written within :func:`writing`,
mostly by the writers of :mod:`tradeoff.records`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

from tradeoff.errors import InputError

P = ParamSpec("P")
_NATIVE = re.compile(r"\(os error (\d+)\)")
"""End of the error messages of Rust libraries such as safetensors and tokenizers."""
_BLOCK = 4096
"""Bytes written to test a folder; an empty file would fit on a full disk."""
_FULL = "Free space there, or give another folder; what was written before is kept."
_READ_ONLY = "Give a folder that you may write."
_DENIED = "Give another one, or change its permissions."
_GONE = "It was moved or removed, or never there; make it again, or give another folder."
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOENT: _GONE,
    errno.ESTALE: _GONE,
    errno.ENOTDIR: "A file is where a folder is needed; give another folder.",
    errno.EEXIST: "A file is where a folder is needed; give another folder.",
    errno.EISDIR: "A folder is where a file is needed; move it away.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.EMFILE: "Raise the limit on open files: ulimit -n.",
}


def refusal(error: BaseException, file: str | Path | None = None) -> InputError | None:
    """Convert an error of the operating system to an error with a remedy.

    Parameters
    ----------
    error
        An error of the operating system, or of a library whose message contains one.
    file
        The file that was being written; None: the file that `error` names, if any.

    Returns
    -------
    InputError or None
        None for an error that is not about files.
    """
    native = _NATIVE.search(str(error))
    if isinstance(error, OSError):
        code = error.errno
    elif native:
        code = int(native[1])
    else:
        return None
    reason = _first_line(error) if code is None else os.strerror(code)
    remedy = _REMEDIES.get(code or 0, "Look at this file and its disk, then run again.")
    if file is not None:
        return InputError(f"cannot be written: {reason}", file=file, remedy=remedy)
    named = error.filename if isinstance(error, OSError) else None
    if not isinstance(named, str | bytes):
        return InputError(f"a file, or the output, cannot be used: {reason}", remedy=remedy)
    return InputError(f"cannot be used: {reason}", file=os.fsdecode(named), remedy=remedy)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors of the operating system in the block to errors that name the file.

    Raises
    ------
    InputError
        See :func:`refusal`.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = refusal(error, path)
        if found is None:
            raise
        raise found from error


def reported(
    writer: Callable[Concatenate[Path, P], AbstractContextManager[Path]],
) -> Callable[Concatenate[Path, P], AbstractContextManager[Path]]:
    """Decorate a context manager, whose first argument is a path, with :func:`writing`."""

    @wraps(writer)
    @contextmanager
    def within(path: Path, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Path]:
        with writing(path), writer(path, *args, **kwargs) as partial:
            yield partial

    return within


def check_writable(
    folder: Path, *, needed: int = 0, what: str = "output folder", field: str | None = None
) -> Path:
    """Check that a folder can be written to, before anything is computed; leave no file.

    Parameters
    ----------
    folder
        The folder. If it does not exist, its nearest existing parent is tested.
    needed
        Least number of bytes that will be written.
    what, field
        Name of the folder in messages, and the setting that names it.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder cannot be written to, or the disk has too little free space.
    """
    # `Path.exists` raises for a folder without permission; `os.path.exists` returns False.
    above = (place for place in (folder, *folder.parents) if os.path.exists(place))
    there = next(above, Path())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_BLOCK))
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        problem = f"cannot write to the {what}: {error.strerror}"
        remedy = _REMEDIES.get(error.errno or 0, _READ_ONLY)
        raise InputError(problem, file=folder, field=field, remedy=remedy) from error
    if free < needed:
        raise InputError(
            f"the disk of the {what} has {_size(free)} free, and at least {_size(needed)} will be"
            " written",
            file=folder,
            field=field,
            remedy="Free space there, or give another folder.",
        )
    return folder


def size_of(folder: Path) -> int:
    """Total bytes of all files below a folder; 0 if it does not exist."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found += os.lstat(os.path.join(place, name)).st_size
    return found


def _size(count: int) -> str:
    """Format a number of bytes with a unit."""
    size, units = float(count), ("bytes", "KiB", "MiB", "GiB")
    for unit in units:
        if size < 1024 or unit == units[-1]:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
