"""Results on disk and for machines: plain JSON values, files that are complete or absent."""

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

from tradeoff import leftovers
from tradeoff.errors import InputError
from tradeoff.files import reported


def plain(value: Any, digits: int = 6) -> Any:
    """Turn a result into JSON values; floats keep ``digits`` significant digits, NaN is null."""
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
    """Give a temporary name beside ``path`` to write to, and rename it when all went well.

    The name keeps the suffix, from which many writers tell the format, and is one of its own, so
    that no two threads or processes write to one file. What killed processes left there goes.

    Parameters
    ----------
    path
        What will be written; its folder is made.
    sync
        Wait until the disk has it, so that it also survives a loss of power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    partial = leftovers.beside(path, leftovers.PARTIAL)
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
    """As :func:`replacing`, for a folder, which is made; an older one of its name goes.

    The older one is there until the new one takes its place, at one moment where the system can
    exchange two names. Where several processes make one folder that was not there when they began,
    the first that completes it wins, since others may be reading it by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    partial, old = (leftovers.beside(path, kind) for kind in (leftovers.PARTIAL, leftovers.OLD))
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
            leftovers.remove(folder)


def discard(path: Path) -> None:
    """Remove a file or folder that may be absent; killed half-way, it does not have its name."""
    going = leftovers.beside(path, leftovers.REMOVED)
    with suppress(FileNotFoundError):
        path.replace(going)
    leftovers.remove(going)


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handles of folders; it keeps their names by itself.
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(partial: Path, path: Path, old: Path, existed: bool) -> None:
    """Give a finished folder its name."""
    while True:
        if existed:
            if _exchange(partial, path):
                return
            leftovers.remove(old)
            with suppress(FileNotFoundError):
                path.replace(old)
        try:
            partial.replace(path)
            return
        except OSError as error:
            # Another one stands here by now.
            if error.errno not in (EEXIST, ENOTEMPTY):
                raise
            if not existed:
                return


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places at one moment; whether the system could."""
    system = ctypes.CDLL(None) if os.name == "posix" else None
    names = os.fsencode(first), os.fsencode(second)
    if (linux := getattr(system, "renameat2", None)) is not None:
        return bool(linux(_HERE, names[0], _HERE, names[1], ctypes.c_uint(_EXCHANGE)) == 0)
    if (mac := getattr(system, "renamex_np", None)) is not None:
        return bool(mac(*names, ctypes.c_uint(_EXCHANGE)) == 0)
    return False


_HERE, _EXCHANGE = -100, 2
"""Of the C library: paths as they are, AT_FDCWD; RENAME_EXCHANGE, on macOS RENAME_SWAP."""


def _share(path: Path) -> None:
    """Give a file that a library made for its owner alone the mode of any other file."""
    if not path.is_file() or path.stat().st_mode & 0o777 != 0o600:
        return
    plain = leftovers.beside(path, leftovers.PARTIAL)
    plain.touch()
    try:
        path.chmod(plain.stat().st_mode & 0o777)
    finally:
        plain.unlink()


def _clear_once(folder: Path) -> None:
    """Clear away what killed processes left, when this one first writes to a folder."""
    if folder not in _CLEARED:
        _CLEARED.add(folder)
        leftovers.clear(folder)


_CLEARED: set[Path] = set()


def write_json(path: Path, content: Any) -> Path:
    """Write :func:`plain` JSON, complete or not at all; returns the path."""
    text = json.dumps(plain(content), indent=1, ensure_ascii=False)
    with replacing(path) as partial:
        partial.write_text(f"{text}\n", "utf-8")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text("utf-8"))


def cache_folder() -> Path:
    """Where models made here are kept: ``$TRADEOFF_CACHE``, else the user's cache folder."""
    given = os.environ.get("TRADEOFF_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "tradeoff"


def load_json(path: str | PathLike[str], *, remedy: str) -> Any:
    """Read a JSON file in which each key of an object stands once.

    Raises
    ------
    InputError
        If there is no such file, or it is not JSON.
    """
    read = partial(json.loads, object_pairs_hook=_once, parse_constant=_constant)
    return _loaded(path, read, "JSON", remedy)


def load_toml(path: str | PathLike[str], *, remedy: str) -> dict[str, Any]:
    """Read a TOML file; errors as for :func:`load_json`."""
    return dict(_loaded(path, tomllib.loads, "TOML", remedy))


def _loaded(path: str | PathLike[str], read: Callable[[str], Any], kind: str, remedy: str) -> Any:
    try:
        return read(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"the file cannot be read as {kind}: {error}"
        raise InputError(problem, file=str(path), remedy=remedy) from error


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {doubled!r} occurs twice in one object")
    return found
