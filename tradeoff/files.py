"""What a disk refuses: one error with file, reason and remedy, and checks before computing.

Writers in Python, Arrow and Rust report a full, read-only or vanished disk each in its own way.
:func:`refusal` reads them all. Every file of the project is written within :func:`writing`, mostly
by the writers of :mod:`tradeoff.records`.
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
"""How the errors of libraries written in Rust end, such as safetensors and tokenizers."""
_BLOCK = 4096
"""Bytes written to try a folder: an empty file fits on a full disk."""
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
    """Return what the operating system refused as an error with a remedy.

    Parameters
    ----------
    error
        Of the operating system, or of a library that has passed one on as text.
    file
        What was written; None: the file that `error` names, if any.

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
    """Raise what the operating system refuses while entered as an error that names the file.

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
    """Enter :func:`writing` around a context manager whose first argument is what it writes."""

    @wraps(writer)
    @contextmanager
    def within(path: Path, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Path]:
        with writing(path), writer(path, *args, **kwargs) as partial:
            yield partial

    return within


def check_writable(
    folder: Path, *, needed: int = 0, what: str = "output folder", field: str | None = None
) -> Path:
    """Try a folder before anything is computed for it; nothing is created that stays.

    Parameters
    ----------
    folder
        It need not be there: then the nearest folder above that is gets tried.
    needed
        Bytes that will be written at least.
    what, field
        What messages call the folder, and the setting that names it.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If nothing can be written there, or the disk has not the bytes needed.
    """
    # Of a folder that may not be looked into, `Path.exists` raises; this one says no.
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
    """Bytes of all files below a folder; 0 where there is none."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found += os.lstat(os.path.join(place, name)).st_size
    return found


def _size(count: int) -> str:
    """Bytes as a reader wants them."""
    size, units = float(count), ("bytes", "KiB", "MiB", "GiB")
    for unit in units:
        if size < 1024 or unit == units[-1]:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
