"""Where a figure finds the results of others: in the folder that it is drawn into, or the paper's.

Figures and claims build on stored studies. A result in the folder of ``--out`` counts if its full
form was run there; the paper's own stored result takes its place, and is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from analysis.dossier import stored_results

_FOLDER: ContextVar[Path | None] = ContextVar("folder", default=None)
_BORROWED: ContextVar[dict[str, Path] | None] = ContextVar("borrowed", default=None)


@contextmanager
def reading_from(folder: Path) -> Iterator[dict[str, Path]]:
    """Read results from a folder in this block.

    Yields what was not run in full there and is read from the paper's folder instead, by name, with
    the place where it would have been.
    """
    borrowed: dict[str, Path] = {}
    tokens = _FOLDER.set(folder), _BORROWED.set(borrowed)
    try:
        yield borrowed
    finally:
        _FOLDER.reset(tokens[0])
        _BORROWED.reset(tokens[1])


def place(paper: Path, name: str) -> Path:
    """File of a figure's stored result.

    Parameters
    ----------
    paper
        Folder of the paper, whose result counts where the folder of the block has none.
    name
        The figure.
    """
    kept, folder = paper / "results" / f"{name}.json", _FOLDER.get()
    if folder is None or folder.resolve() == paper.resolve():
        return kept
    own = folder / "results" / kept.name
    if own.exists() and stored_results.read(own)["provenance"]["form"] == "full":
        return own
    if (borrowed := _BORROWED.get()) is not None:
        borrowed[name] = own
    return kept


def folders(paper: Path) -> tuple[Path, ...]:
    """Folders with results beside those of figures; what a later one has counts."""
    return tuple(dict.fromkeys((paper, _FOLDER.get() or paper)))
