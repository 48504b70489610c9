"""Style of all figures: readable in grey, with a marker and a line style for each method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tradeoff.records import replacing
from tradeoff.schedules import SCHEDULES, Alright, Sequential

RC: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "savefig.dpi": 160,
    "svg.fonttype": "path",
    "svg.hashsalt": "tradeoff",
}
WIDTH = 7.2
"""Inches across the page."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of one method in all figures."""

    color: str
    marker: str
    line: Any

    def line_style(self, **extra: Any) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a line with markers."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, **extra}

    def dots(self, **extra: Any) -> dict[str, Any]:
        """Keyword arguments of matplotlib for markers without a line."""
        return {"color": self.color, "marker": self.marker, "linestyle": "none", **extra}


# Colours of Okabe and Ito (2008), which the colour-blind can distinguish; they differ in grey too.
LOOKS = {
    "sft-dpo": Look("#D55E00", "o", "-"),
    "dpo-sft": Look("#E69F00", "s", (0, (4, 1.5))),
    "mix": Look("#000000", "D", (0, (1, 1))),
    "alright": Look("#0072B2", "^", "-."),
    "alright-budget": Look("#56B4E9", "v", (0, (5, 1, 1, 1))),
    "maxright": Look("#009E73", "P", (0, (7, 2))),
    "rounds": Look("#CC79A7", "h", (0, (2, 1))),
    "constrained": Look("#8B6F00", "p", (0, (6, 1, 2, 1))),
}
"""Looks by key."""
OTHER = Look("#777777", "X", (0, (3, 1, 1, 1, 1, 1)))
BOUND: dict[str, Any] = {"color": "0.35", "linestyle": (0, (2, 2)), "linewidth": 1.1}
FRONT: dict[str, Any] = {"color": "0.2", "linewidth": 2.2, "alpha": 0.55, "zorder": 1}
IDEAL: dict[str, Any] = {"marker": "*", "markersize": 11, "color": "0.1", "linestyle": "none"}


@runtime_checkable
class Keyed(Protocol):
    """A method or a schedule, which has a key."""

    @property
    def key(self) -> str:
        """Name in the catalogue, with a dash before each variant."""


def look(method: str | Keyed) -> Look:
    """Style of a method, a schedule, a key or a label; variants have the style of their family.

    Labels are those of this package's schedules. Methods with parts of other slots, and schedules
    of other packages, share one grey style.
    """
    key = method.key if not isinstance(method, str) else _key(method)
    while key not in LOOKS and "-" in key:
        key = key.rpartition("-")[0]
    return LOOKS.get(key, OTHER)


def _key(text: str) -> str:
    """The key of a label, without its numbers in brackets, or the text itself if it is a key."""
    return _keys().get(text) or _keys().get(text.partition(" (")[0], text)


@cache
def _keys() -> dict[str, str]:
    """Keys of the package's schedules, by label and by family."""
    made: list[Any] = [kind() for kind in SCHEDULES.values()]
    made += [Sequential(first="preference"), Alright(probability=0.5)]
    return {shown: s.key for s in made for shown in (s.label, s.family)}


def axes(height: float = 4.0) -> Axes:
    """New axes in the shared style, for plots without given axes."""
    with _style():
        return plt.subplots(figsize=(WIDTH, height))[1]


@contextmanager
def _style() -> Iterator[None]:
    """Use the shared style for figures made in the block.

    A notebook's backend turns interactive drawing on when it is first used. If that happened in the
    block, the end of the block would turn it off again.
    """
    plt.draw_if_interactive()
    with mpl.rc_context(RC):
        yield


@contextmanager
def figure(*shape: int, height: float = 3.0, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """Make a figure in the shared style with a grid of axes, and close it after the block."""
    with _style():
        fig, axes = plt.subplots(*(shape or (1, 1)), figsize=(WIDTH, height), **options)
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def label_line(ax: Axes, x: float, y: float, text: str, **extra: Any) -> None:
    """Write a line's name at its end instead of in a legend."""
    ax.annotate(
        text,
        (x, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
        **extra,
    )


def label_lines(
    ax: Axes, x: float, ends: Mapping[str, tuple[float, str]], least: float = 0.06
) -> None:
    """Write the names of lines at their ends, at least `least` of the axes' height apart.

    Parameters
    ----------
    ends
        Height of the end, and colour, of each line by name.
    """
    gap, below = least * float(np.ptp(ax.get_ylim())), -np.inf
    for text, (y, color) in sorted(ends.items(), key=lambda item: item[1][0]):
        below = max(y, below + gap)
        label_line(ax, x, below, text, color=color)


def literal(text: str) -> str:
    """Escape dollar signs, which would start a formula, and replace control characters."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown.replace("$", r"\$")


def save(fig: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write ``NAME.svg`` and ``NAME.png`` in a folder, each complete or not at all."""
    return write(
        {Path(folder) / f"{name}{suffix}": drawn(fig, suffix) for suffix in (".svg", ".png")}
    )


def drawn(fig: Figure, suffix: str) -> bytes:
    """The content of a figure's file; it has no date, so it is the same each time."""
    content = BytesIO()
    undated: dict[str, Any] = {
        ".svg": {"Date": None},
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None},
    }
    fig.savefig(content, format=suffix[1:], metadata=undated[suffix])
    return content.getvalue()


def write(pictures: Mapping[Path, bytes]) -> list[Path]:
    """Write contents that :func:`drawn` returned, and return the paths."""
    for path, content in pictures.items():
        with replacing(path) as partial:
            partial.write_bytes(content)
    return list(pictures)
