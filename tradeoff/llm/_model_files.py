"""Files of a model's folder that are absent, cut short, or only pointers to other files."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tradeoff.errors import InputError

INDEX = "model.safetensors.index.json"
_WEIGHTS = ".safetensors"
_POINTER = b"version https://git-lfs"
_POINTER_SIZE = 1024
"""Largest size of a pointer of Git LFS, in bytes."""


def check_place(path: str) -> None:
    """Reject a path of the file system that is not a folder; hub names are not looked up.

    Raises
    ------
    ValueError
        If there is a file, or there is nothing and the path is no hub name.
    """
    if Path(path).is_file():
        raise ValueError("a model is a folder, and this is a file")
    if is_local(path) and not Path(path).exists():
        raise ValueError("there is no such folder")


def is_local(path: str) -> bool:
    """Whether a path cannot be a hub name, which is a name or owner/name."""
    return path.startswith((".", "/", "~", "\\")) or path.count("/") > 1 or ":" in path


def check_small(folder: str | Path) -> None:
    """Check that no file of a folder beside its weights is a pointer of Git LFS.

    A hub name is not looked up.

    Raises
    ------
    InputError
        If there is such a pointer.
    """
    for file in _files(Path(folder)):
        if file.suffix != _WEIGHTS:
            _check_pointer(file)


def check_weights(folder: str | Path) -> None:
    """Check that the files of weights of a folder are there and whole, by their headers.

    A hub name is not looked up.

    Raises
    ------
    InputError
        If the index names an absent file, a file has no header that fits it, or there are pickled
        files alone.
    """
    place = Path(folder)
    files = sorted({*_files(place), *_named(place / INDEX)})
    if not any(file.suffix == _WEIGHTS or file.name == INDEX for file in files):
        for file in files:
            if file.name.startswith("pytorch_model") and file.suffix == ".bin":
                raise InputError(
                    "these weights are pickled, and such files are never read",
                    file=file,
                    remedy="Save them as safetensors, by save_pretrained where they are trusted.",
                )
    for file in files:
        if file.suffix == _WEIGHTS:
            _check_header(file)


def _files(place: Path) -> list[Path]:
    return sorted(file for file in place.iterdir() if file.is_file()) if place.is_dir() else []


def _check_pointer(file: Path) -> None:
    if file.stat().st_size > _POINTER_SIZE:
        return
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) != _POINTER:
            return
    raise InputError(
        "this is a pointer of Git LFS and not the file itself",
        file=file,
        remedy="Fetch the file, by git lfs pull in its repository or from the hub.",
    )


def _named(index: Path) -> set[Path]:
    """The files of an index, which `_pretrained` checks; none if there is no index or one file."""
    if not index.is_file() or (index.parent / "model.safetensors").is_file():
        return set()
    try:
        names = json.loads(index.read_text("utf-8"))["weight_map"].values()
        return {index.parent / str(name) for name in names if str(name).endswith(_WEIGHTS)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _check_header(file: Path) -> None:
    try:
        _check_pointer(file)
        with safe_open(file, framework="np"):
            return
    except FileNotFoundError:
        problem, remedy = f"{INDEX} names this file, which is absent", "Copy it there."
    except (OSError, SafetensorError) as error:
        problem = f"the weights cannot be read: {error}"
        remedy = "Copy it again; it may have been cut short."
    raise InputError(problem, file=file, remedy=remedy)
