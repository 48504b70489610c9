"""Token ids on disk: Arrow files that `datasets` maps into memory, for sets larger than memory.

An entry is a folder whose name is a SHA-256 of everything that it depends on: the rows with their
origins, the tokenizer with its template, the settings, and the versions of the code. So only a run
with the same data finds it. Its file has a checksum; a damaged entry is made again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, Generic, SupportsIndex, TypeVar

import numpy as np
from jaxtyping import Int

from tradeoff.data.spool import encoded
from tradeoff.errors import InputError
from tradeoff.llm._data import Example, Pair, Tokenised
from tradeoff.llm.agreement import Disagreement
from tradeoff.llm.models import tokenizer_fingerprint
from tradeoff.records import replacing_folder

T = TypeVar("T", bound=Example | Pair)
_FORMAT = 1
_TOKENS, _ABOUT = "tokens.arrow", "about.json"
_MADE_BY = ("transformers", "tokenizers")


class Stored(Sequence[T], Generic[T]):
    """A sequence of items in a memory-mapped file; items are made on access.

    Parameters
    ----------
    path
        The Arrow file.
    kind
        `Example` or `Pair`.
    shift
        Number of tokens by which the loss starts later, at most up to the last token of the shorter
        side.
    """

    def __init__(self, path: Path, kind: type[T], shift: int = 0) -> None:
        from datasets import Dataset

        self.path, self.kind, self.shift = path, kind, shift
        self._table = Dataset.from_file(str(path)).with_format("numpy")

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self._at(place) for place in range(*index.indices(len(self))))
        return self._at(index)

    def _at(self, index: SupportsIndex) -> T:
        row = self._table[int(index)]
        sides = [row[name].astype(np.int64) for name in _columns(self.kind)]
        last = min(map(len, sides)) - 1
        start = int(row["start"])
        kind: Any = self.kind
        made: T = kind(*sides, min(start + self.shift, last) if self.shift else start)
        return made

    def extents(self) -> tuple[Int[np.ndarray, "n sides"], Int[np.ndarray, " n"]]:
        """Number of tokens of each sequence and the start of the loss, without making the items."""
        import pyarrow.compute as pc

        table = self._table.data
        sides = [
            np.asarray(pc.list_value_length(table.column(name)), np.int64)
            for name in _columns(self.kind)
        ]
        lengths = np.column_stack(sides)
        starts = np.asarray(table.column("start"), np.int64)
        if self.shift:
            starts = np.minimum(starts + self.shift, lengths.min(axis=1) - 1)
        return lengths, starts

    def shifted(self, shift: int) -> Stored[T]:
        """The same items, with a loss that starts `shift` tokens later."""
        return Stored(self.path, self.kind, shift)


def place(
    cache: str | PathLike[str],
    rows: Sequence[Any],
    tokenizer: Any,
    settings: dict[str, Any],
) -> Path:
    """The folder of an entry, named by a hash of everything that the entry depends on.

    Parameters
    ----------
    cache
        Folder of all entries.
    rows
        Rows in order, with their origins.
    tokenizer, settings
        Tokenizer and settings of the tokenisation.

    Raises
    ------
    InputError
        If rows are of an unknown kind, or the cache cannot be written to.
    """
    content = hashlib.sha256()
    for row in rows:
        content.update(encoded(row))
    versions = {name: version(name) for name in _MADE_BY}
    made_of = {
        "format": _FORMAT,
        **versions,
        **settings,
        "rows": content.hexdigest(),
        "source": str(getattr(rows, "source", "")),
        "tokenizer": [type(tokenizer).__name__, tokenizer_fingerprint(tokenizer)],
        # The date of a template is among them.
        "arguments": repr(sorted(tokenizer.init_kwargs.items(), key=str)),
    }
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return Path(cache) / f"tokens-{name}"


def kept(
    folder: Path, kind: type[T], make: Callable[[Callable[[Sequence[T]], object]], Tokenised[T]]
) -> Tokenised[T]:
    """Get the entry of a folder, which is made if absent or damaged.

    Parameters
    ----------
    folder
        From :func:`place`.
    kind
        `Example` or `Pair`.
    make
        Called with a function to which it passes items, some at a time; it returns all else about
        them.

    Raises
    ------
    InputError
        If no items are left, or the folder cannot be written to.
    """
    if folder.exists():
        try:
            return _read(folder, kind)
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{folder} is damaged and made again: {error}", stacklevel=4)
    try:
        with replacing_folder(folder) as partial:
            _write(partial, kind, make)
        return _read(folder, kind)
    except OSError as error:
        problem = f"tokens cannot be kept on disk: {error.strerror or error}"
        remedy = "Give another row_cache, or make space there."
        raise InputError(problem, file=folder, field="row_cache", remedy=remedy) from error


def _write(folder: Path, kind: type[Any], make: Callable[[Any], Tokenised[Any]]) -> None:
    import datasets
    from datasets.arrow_writer import ArrowWriter

    columns = _columns(kind)
    tokens = datasets.Sequence(datasets.Value("int32"))
    features = datasets.Features(
        dict.fromkeys(columns, tokens) | {"start": datasets.Value("int64")}
    )
    with ArrowWriter(path=str(folder / _TOKENS), features=features) as writer:

        def keep(items: Sequence[Any]) -> None:
            if items:
                sides = {
                    name: [item.sequences[i].astype(np.int32) for item in items]
                    for i, name in enumerate(columns)
                }
                writer.write_batch({**sides, "start": [item.start for item in items]})

        found = make(keep)
        writer.finalize()
    np.save(folder / "rows.npy", np.asarray(found.rows, np.int64))
    content = {
        "sha256": {name: _digest(folder / name) for name in (_TOKENS, "rows.npy")},
        "counts": {name: getattr(found, name) for name in _COUNTS},
        "dropped": [error.__reduce__()[1] for error in found.dropped],
        "findings": [asdict(finding) for finding in found.findings],
    }
    (folder / _ABOUT).write_text(json.dumps(content, default=str), "utf-8")


_COUNTS = ("too_long", "truncated", "fingerprint", "identical", "cut_equal")


def _read(folder: Path, kind: type[T]) -> Tokenised[T]:
    about = json.loads((folder / _ABOUT).read_text("utf-8"))
    for name, expected in about["sha256"].items():
        if _digest(folder / name) != expected:
            raise ValueError(f"{name} has another checksum")
    items: Stored[T] = Stored(folder / _TOKENS, kind)
    rows = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False)
    dropped = tuple(_as_error(*fields) for fields in about["dropped"])
    findings = tuple(Disagreement(**fields) for fields in about["findings"])
    return Tokenised(items, rows, **about["counts"], dropped=dropped, findings=findings)


def _as_error(message: str, problem: str, settings: dict[str, Any]) -> InputError:
    """Rebuild an error from its stored message and fields."""
    error = InputError(problem, **settings)
    error.args = (message,)
    return error


def _columns(kind: type[Any]) -> tuple[str, ...]:
    return ("chosen", "rejected") if kind is Pair else ("tokens",)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
