"""The style of the library's pictures, and the writing of the dossier's figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tradeoff import plots
from tradeoff.plots import BOUND, FRONT, IDEAL, LOOKS, WIDTH, Look, figure, label_line, look

__all__ = [
    "BOUND",
    "FRONT",
    "IDEAL",
    "LOOKS",
    "WIDTH",
    "Look",
    "as_pdf",
    "figure",
    "files",
    "kept",
    "label_line",
    "look",
    "save",
    "write",
]

_PDF: ContextVar[bool] = ContextVar("pdf", default=False)
_KEPT: ContextVar[dict[Path, bytes] | None] = ContextVar("kept", default=None)


def save(fig: Figure, out: Path, name: str) -> None:
    """Draw the files of :func:`files`; they are written at once, or at the end of :func:`kept`."""
    pictures: dict[Path, bytes] = {}
    # Fonts in PDF as TrueType outlines, which publishers ask for and editors can search.
    with mpl.rc_context({"pdf.fonttype": 42}):
        for path in files(out, name):
            pictures[path] = plots.drawn(fig, path.suffix)
    waiting = _KEPT.get()
    if waiting is None:
        write(pictures)
    else:
        waiting |= pictures


def write(pictures: Mapping[Path, bytes]) -> None:
    """Write pictures, and remove a PDF of an earlier run, which could show other numbers."""
    plots.write(pictures)
    for path in pictures:
        if path.with_suffix(".pdf") not in pictures:
            path.with_suffix(".pdf").unlink(missing_ok=True)


@contextmanager
def kept() -> Iterator[dict[Path, bytes]]:
    """Context manager that holds saved figures in memory, to be written after their numbers."""
    waiting: dict[Path, bytes] = {}
    token = _KEPT.set(waiting)
    try:
        yield waiting
    finally:
        _KEPT.reset(token)


@contextmanager
def as_pdf(wanted: bool = True) -> Iterator[None]:
    """Context manager in which figures are also written as PDF."""
    token = _PDF.set(wanted)
    try:
        yield
    finally:
        _PDF.reset(token)


def files(out: Path, name: str) -> list[Path]:
    """The files of a figure in all requested formats."""
    suffixes = (".svg", ".png", ".pdf") if _PDF.get() else (".svg", ".png")
    return [out / "figures" / f"{name}{suffix}" for suffix in suffixes]


def apart(levels: dict[str, float], ratio: float) -> dict[str, float]:
    """Positions of labels on a log axis, moved up until neighbours differ by a factor ``ratio``."""
    places: dict[str, float] = {}
    for name in sorted(levels, key=levels.__getitem__):
        least = ratio * max(places.values(), default=0.0)
        places[name] = max(levels[name], least)
    return places
