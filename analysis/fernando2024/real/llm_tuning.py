"""Step sizes for every method on one grid, chosen on seeds and rows that do not score.

From a first guess the search walks downhill until both neighbours on every axis of the grid have
been tried and are worse, so that the best step size lies strictly inside. Sequential training has
two axes: each stage its own rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tradeoff.errors import InputError

Point = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    rates
        The best rates, one for each axis.
    tried
        Mean loss at every point of the grid that was tried, with its rates.
    """

    rates: tuple[float, ...]
    tried: dict[tuple[float, ...], float]

    def table(self) -> list[dict[str, Any]]:
        """The points in order of their rates, as results keep them."""
        return [{"rates": list(rates), "loss": loss} for rates, loss in sorted(self.tried.items())]


def search(
    losses: Callable[[Sequence[tuple[float, ...]]], Sequence[float]],
    grid: Sequence[float],
    start: Sequence[float],
) -> Found:
    """Walk down to a point of the grid whose neighbours on every axis are worse.

    Parameters
    ----------
    losses
        Mean losses of some tuples of rates; not finite where a run diverged.
    grid
        Rates in increasing order, the same on every axis. A grid of one point is not searched.
    start
        First guess, one rate of the grid for each axis.

    Raises
    ------
    InputError
        If the best point lies on the edge of the grid.
    """
    known: dict[Point, float] = {}
    best: Point = tuple(grid.index(rate) for rate in start)

    def look(points: Sequence[Point]) -> None:
        new = [point for point in points if point not in known]
        if new:
            known.update(zip(new, losses([_rates(point, grid) for point in new]), strict=True))

    while True:
        look([best, *_neighbours(best, len(grid))])
        better = min(known, key=lambda point: (known[point], point))
        if better == best:
            break
        best = better
    if len(grid) > 1 and not all(0 < place < len(grid) - 1 for place in best):
        raise InputError(
            "the best step size is the first or last of the grid",
            field="rates",
            value=_rates(best, grid),
            remedy="Widen the grid, so that the best step size lies inside.",
        )
    return Found(_rates(best, grid), {_rates(point, grid): loss for point, loss in known.items()})


def _rates(point: Point, grid: Sequence[float]) -> tuple[float, ...]:
    return tuple(grid[place] for place in point)


def _neighbours(point: Point, size: int) -> list[Point]:
    """The point with one place moved by one, within the grid."""
    moved = [
        (*point[:axis], point[axis] + step, *point[axis + 1 :])
        for axis in range(len(point))
        for step in (-1, 1)
    ]
    return [p for p in moved if all(0 <= place < size for place in p)]
