"""The look shared by all figures: readable in grey, methods told apart by marker and line."""

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
    """How one method is drawn everywhere."""

    color: str
    marker: str
    line: Any

    def line_style(self, **extra: Any) -> dict[str, Any]:
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, **extra}

    def dots(self, **extra: Any) -> dict[str, Any]:
        return {"color": self.color, "marker": self.marker, "linestyle": "none", **extra}


# Colours of Okabe and Ito (2008), told apart by the colour-blind; lightness differs in grey too.
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
    """Style of a method, a schedule or a key; variants after a dash share their family's.

    What tables show of a schedule of ours does as well. Methods with parts of other slots, and
    schedules that are not ours, share one look, in grey.
    """
    key = method.key if not isinstance(method, str) else _key(method)
    while key not in LOOKS and "-" in key:
        key = key.rpartition("-")[0]
    return LOOKS.get(key, OTHER)


def _key(text: str) -> str:
    """A key itself, or that of a label, whose numbers in brackets vary within a method."""
    return _keys().get(text) or _keys().get(text.partition(" (")[0], text)


@cache
def _keys() -> dict[str, str]:
    """Keys of the package's schedules, by what tables show of them."""
    made: list[Any] = [kind() for kind in SCHEDULES.values()]
    made += [Sequential(first="preference"), Alright(probability=0.5)]
    return {shown: s.key for s in made for shown in (s.label, s.family)}


def axes(height: float = 4.0) -> Axes:
    """New axes in the shared style, for a plot that was given none."""
    with _style():
        return plt.subplots(figsize=(WIDTH, height))[1]


@contextmanager
def _style() -> Iterator[None]:
    """The shared style, for figures made within.

    A notebook's backend turns interactive drawing on when it is first used; were that within the
    context, its end would turn drawing off again.
    """
    plt.draw_if_interactive()
    with mpl.rc_context(RC):
        yield


@contextmanager
def figure(*shape: int, height: float = 3.0, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure in the shared style with a grid of axes, closed afterwards."""
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
    """Name lines at their ends, from the lowest up, `least` of the axes' height apart.

    Parameters
    ----------
    ends
        By name: where the line ends, and its colour.
    """
    gap, below = least * float(np.ptp(ax.get_ylim())), -np.inf
    for text, (y, color) in sorted(ends.items(), key=lambda item: item[1][0]):
        below = max(y, below + gap)
        label_line(ax, x, below, text, color=color)


def literal(text: str) -> str:
    """A text to be drawn as it is: its dollar signs enclose no formula, its controls are spaces."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown.replace("$", r"\$")


def save(fig: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``NAME.svg`` and ``NAME.png`` in a folder, each complete or not at all."""
    return write({folder / f"{name}{suffix}": drawn(fig, suffix) for suffix in (".svg", ".png")})


def drawn(fig: Figure, suffix: str) -> bytes:
    """A figure as the content of a file, the same each time, as it holds no date."""
    content = BytesIO()
    undated: dict[str, Any] = {
        ".svg": {"Date": None},
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None},
    }
    fig.savefig(content, format=suffix[1:], metadata=undated[suffix])
    return content.getvalue()


def write(pictures: Mapping[Path, bytes]) -> list[Path]:
    """Write what :func:`drawn` gave; returns the files."""
    for path, content in pictures.items():
        with replacing(path) as partial:
            partial.write_bytes(content)
    return list(pictures)
