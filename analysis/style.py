"""The look of the library's own pictures, and where the dossier's figures are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tradeoff import plots
from tradeoff.plots import BOUND, FRONT, IDEAL, LOOKS, WIDTH, Look, figure, label_line, look
from tradeoff.records import replacing

__all__ = [
    "BOUND",
    "FRONT",
    "IDEAL",
    "LOOKS",
    "WIDTH",
    "Look",
    "as_pdf",
    "complete",
    "figure",
    "label_line",
    "look",
    "save",
]

_PDF: ContextVar[bool] = ContextVar("pdf", default=False)


def save(fig: Figure, out: Path, name: str) -> None:
    """Write ``figures/NAME.svg`` and ``.png`` under ``out``, and ``.pdf`` within :func:`as_pdf`."""
    folder = out / "figures"
    plots.save(fig, folder, name)
    if not _PDF.get():
        # One of an earlier run would show other numbers than the two just written.
        (folder / f"{name}.pdf").unlink(missing_ok=True)
        return
    # Fonts as TrueType outlines, which publishers ask for and editors can search.
    with mpl.rc_context({"pdf.fonttype": 42}), replacing(folder / f"{name}.pdf") as partial:
        fig.savefig(partial, metadata={"CreationDate": None})


@contextmanager
def as_pdf(wanted: bool = True) -> Iterator[None]:
    """Figures saved in this block are also written as PDF."""
    token = _PDF.set(wanted)
    try:
        yield
    finally:
        _PDF.reset(token)


def complete(out: Path, name: str) -> bool:
    """Whether every form of a figure that is asked for stands in its folder."""
    suffixes = (".svg", ".png", ".pdf") if _PDF.get() else (".svg", ".png")
    return all((out / "figures" / f"{name}{suffix}").exists() for suffix in suffixes)


def apart(levels: dict[str, float], ratio: float) -> dict[str, float]:
    """Places of labels on a log axis, moved up until they are ``ratio`` apart."""
    places: dict[str, float] = {}
    for name in sorted(levels, key=levels.__getitem__):
        least = ratio * max(places.values(), default=0.0)
        places[name] = max(levels[name], least)
    return places
