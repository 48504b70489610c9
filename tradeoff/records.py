"""Results on disk and for machines: plain JSON values, files that are complete or absent."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST, ENOTEMPTY
from pathlib import Path
from typing import Any

import numpy as np

from tradeoff.files import reported

TEMPORARY = ("partial", "old")
"""What the names of unfinished and replaced folders begin with, behind a dot."""


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
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it when all went well.

    The name keeps the suffix, from which many writers tell the format, and is one of its own, so
    that no two threads or processes write to one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, TEMPORARY[0])
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@reported
@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As :func:`replacing`, for a folder, which is made; an older one of its name goes.

    Where several processes make one folder that was not there when they began, the first that
    completes it wins, since others may be reading it by then.
    """
    partial, old = (_beside(path, word) for word in TEMPORARY)
    existed = path.exists()
    partial.mkdir(parents=True)
    try:
        yield partial
        while True:
            if existed:
                shutil.rmtree(old, ignore_errors=True)
                with suppress(FileNotFoundError):
                    path.replace(old)
            try:
                partial.replace(path)
                break
            except OSError as error:
                # Another one stands here by now.
                if error.errno not in (EEXIST, ENOTEMPTY):
                    raise
                if not existed:
                    break
    except BaseException:
        with suppress(OSError):
            old.replace(path)
        raise
    finally:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f".{word}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


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
