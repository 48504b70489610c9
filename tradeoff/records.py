"""Reading and writing of results: plain JSON values, and files that are complete or absent."""

from __future__ import annotations

import ctypes
import json
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST, ENOTEMPTY
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tradeoff import _leftovers
from tradeoff.errors import InputError
from tradeoff.files import reported


def plain(value: Any, digits: int = 6) -> Any:
    """Convert a result to JSON values; floats have ``digits`` significant digits, NaN is null."""
    if isinstance(value, dict):
        return {str(k): plain(v, digits) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return plain(value.item(), digits)
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v, digits) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}") if np.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


@reported
@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to, and rename it if there was no error.

    The temporary name keeps the suffix, from which many writers choose the format. It is unique, so
    that no two threads or processes write to one file. Leftovers of killed processes in the folder
    are removed.

    Parameters
    ----------
    path
        The file to write; its folder is made.
    sync
        Wait until the file is on disk, so that it also survives a loss of power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    partial = _leftovers.beside(path, _leftovers.PARTIAL)
    try:
        yield partial
        _share(partial)
        if sync:
            flush(partial)
        partial.replace(path)
        if sync:
            flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@reported
@contextmanager
def replacing_folder(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """As :func:`replacing`, for a folder, which replaces an older one of its name.

    The older folder exists until the new one takes its place. The exchange is atomic where the
    system can exchange two names. If several processes make a folder that did not exist, the one
    that completes first wins, because others may already read its folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    partial, old = (_leftovers.beside(path, kind) for kind in (_leftovers.PARTIAL, _leftovers.OLD))
    existed = path.exists()
    partial.mkdir()
    try:
        yield partial
        inside = [partial, *partial.rglob("*")]
        for place in inside:
            _share(place)
            if sync:
                flush(place)
        _put(partial, path, old, existed)
        if sync:
            flush(path.parent)
    except BaseException:
        with suppress(OSError):
            old.replace(path)
        raise
    finally:
        for folder in (partial, old):
            _leftovers.remove(folder)


def discard(path: Path) -> None:
    """Rename and then remove a file or folder, so that a partly removed one has another name."""
    going = _leftovers.beside(path, _leftovers.REMOVED)
    with suppress(FileNotFoundError):
        path.replace(going)
    _leftovers.remove(going)


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handles of folders, and writes their names itself.
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(partial: Path, path: Path, old: Path, existed: bool) -> None:
    """Rename a complete folder to its final name."""
    while True:
        if existed:
            if _exchange(partial, path):
                return
            _leftovers.remove(old)
            with suppress(FileNotFoundError):
                path.replace(old)
        try:
            partial.replace(path)
            return
        except OSError as error:
            # Another process has made the folder.
            if error.errno not in (EEXIST, ENOTEMPTY):
                raise
            if not existed:
                return


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names atomically; return whether the system can."""
    system = ctypes.CDLL(None) if os.name == "posix" else None
    names = os.fsencode(first), os.fsencode(second)
    if (linux := getattr(system, "renameat2", None)) is not None:
        return bool(linux(_HERE, names[0], _HERE, names[1], ctypes.c_uint(_EXCHANGE)) == 0)
    if (mac := getattr(system, "renamex_np", None)) is not None:
        return bool(mac(*names, ctypes.c_uint(_EXCHANGE)) == 0)
    return False


_HERE, _EXCHANGE = -100, 2
"""Constants of the C library: AT_FDCWD, and RENAME_EXCHANGE, on macOS RENAME_SWAP."""


def _share(path: Path) -> None:
    """Give a file that only its owner may read the default mode of files."""
    if not path.is_file() or path.stat().st_mode & 0o777 != 0o600:
        return
    plain = _leftovers.beside(path, _leftovers.PARTIAL)
    plain.touch()
    try:
        path.chmod(plain.stat().st_mode & 0o777)
    finally:
        plain.unlink()


def _clear_once(folder: Path) -> None:
    """Remove leftovers of killed processes when this process first writes to a folder."""
    if folder not in _CLEARED:
        _CLEARED.add(folder)
        _leftovers.clear(folder)


_CLEARED: set[Path] = set()


EXACT = 17
"""Digits with which a float comes back as it was."""


def write_json(path: Path, content: Any, *, digits: int = 6) -> Path:
    """Write :func:`plain` JSON, complete or not at all, and return the path."""
    text = json.dumps(plain(content, digits), indent=1, ensure_ascii=False)
    with replacing(path) as partial:
        partial.write_text(f"{text}\n", "utf-8")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text("utf-8"))


def cache_folder() -> Path:
    """Folder of the models that the package makes: ``$TRADEOFF_CACHE``, or the user's cache."""
    given = os.environ.get("TRADEOFF_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "tradeoff"


def load_json(path: str | PathLike[str], *, remedy: str) -> Any:
    """Read a JSON file, whose objects must not repeat a key.

    Raises
    ------
    InputError
        If the file does not exist, is not JSON, or repeats a key.
    """
    read = partial(json.loads, object_pairs_hook=_once, parse_constant=_constant)
    return _loaded(path, read, "JSON", remedy)


def load_toml(path: str | PathLike[str], *, remedy: str) -> dict[str, Any]:
    """Read a TOML file; errors as for :func:`load_json`."""
    return dict(_loaded(path, tomllib.loads, "TOML", remedy))


def _loaded(path: str | PathLike[str], read: Callable[[str], Any], kind: str, remedy: str) -> Any:
    try:
        return read(Path(path).read_text("utf-8-sig"))  # editors may write a mark of order first
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"the file cannot be read as {kind}: {reason}"
        raise InputError(problem, file=str(path), remedy=remedy) from error


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {doubled!r} occurs twice in one object")
    return found
