"""Step sizes for every method on one grid, chosen on seeds and rows that are not reported.

The search starts at a first guess and moves to smaller losses, until both neighbours on every axis
of the grid have been tried and are worse. The best step size is then inside the grid. Sequential
training has two axes, one step size for each stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tradeoff.errors import InputError

Point = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes
    ----------
    rates
        The best step sizes, one for each axis.
    tried
        Mean loss at every point of the grid that was tried, by its step sizes.
    """

    rates: tuple[float, ...]
    tried: dict[tuple[float, ...], float]

    def table(self) -> list[dict[str, Any]]:
        """The points in order of their step sizes, as stored in results."""
        return [{"rates": list(rates), "loss": loss} for rates, loss in sorted(self.tried.items())]


def search(
    losses: Callable[[Sequence[tuple[float, ...]]], Sequence[float]],
    grid: Sequence[float],
    start: Sequence[float],
) -> Found:
    """Find a point of the grid whose neighbours on every axis are worse.

    Parameters
    ----------
    losses
        Function from tuples of step sizes to mean losses, not finite where a run diverged.
    grid
        Step sizes in increasing order, the same on every axis. A grid of one point is not searched.
    start
        First guess, one step size of the grid for each axis.

    Raises
    ------
    InputError
        If the best point is at the edge of the grid.
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
    """The neighbours of a point within the grid: one position changes by one."""
    moved = [
        (*point[:axis], point[axis] + step, *point[axis + 1 :])
        for axis in range(len(point))
        for step in (-1, 1)
    ]
    return [p for p in moved if all(0 <= place < size for place in p)]
