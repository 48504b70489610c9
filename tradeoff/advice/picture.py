"""The loss space as text: all marks are visible at any width, with a legend."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MARKS = {
    "start": "o",
    "SFT alone": "S",
    "DPO alone": "D",
    "SFT then DPO": "1",
    "DPO then SFT": "2",
    "both at once": "*",
}
"""The mark of each policy."""
FRONT = "."
NARROW, WIDE = 40, 100


def as_text(picture: Mapping[str, Array], width: int = 80) -> str:
    """Draw held-out losses, with SFT loss to the right and preference loss upwards.

    If two marks have one place, the later mark takes the nearest free place.

    Parameters
    ----------
    picture
        (2,) losses of each policy of `MARKS`, and (K, 2) of ``front``.
    width
        Columns of the terminal, which lines do not exceed if there are at least 40.
    """
    columns = int(np.clip(width - 4, NARROW - 4, WIDE))
    lines = max(10, columns // 4)
    points = np.stack([picture[name] for name in MARKS])
    whole = np.concatenate([points, picture["front"]])
    low, span = whole.min(0), np.maximum(np.ptp(whole, axis=0), 1e-12)

    def place(point: Array) -> tuple[int, int]:
        x, y = (np.asarray(point) - low) / span
        return round((1 - y) * (lines - 1)), round(x * (columns - 1))

    taken: dict[tuple[int, int], str] = {}
    for point, mark in zip(points, MARKS.values(), strict=True):
        taken[_nearest_free(place(point), taken, (lines, columns))] = mark
    for point in _along(picture["front"], 4 * columns):
        taken.setdefault(place(point), FRONT)
    canvas = [
        "".join(taken.get((line, column), " ") for column in range(columns)).rstrip()
        for line in range(lines)
    ]
    legend = [
        f"  {mark} {name}: SFT {x:.2g}, preference {y:.2g}"
        for (name, mark), (x, y) in zip(MARKS.items(), points.tolist(), strict=True)
    ]
    top = ["preference loss (up), held-out rows"]
    foot = ["  +" + "-" * (columns - 9) + "> SFT loss"]
    body = [f"  |{line}" for line in canvas]
    return "\n".join([*top, *body, *foot, *legend, f"  {FRONT} optima of all weights"])


def _along(front: Array, n: int) -> Array:
    """Points along the polyline of the front."""
    at = np.linspace(0, len(front) - 1, n)
    return np.column_stack([np.interp(at, np.arange(len(front)), front[:, k]) for k in (0, 1)])


def _nearest_free(
    wanted: tuple[int, int], taken: Mapping[tuple[int, int], str], shape: tuple[int, int]
) -> tuple[int, int]:
    free = [
        (line, column)
        for line in range(shape[0])
        for column in range(shape[1])
        if (line, column) not in taken
    ]
    return min(free, key=lambda cell: (cell[0] - wanted[0]) ** 2 + (cell[1] - wanted[1]) ** 2)
