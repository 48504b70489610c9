"""Formatting of numbers for table cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tradeoff.display import cell
from tradeoff.errors import InputError

MISSING = "–"


def interval(found: Mapping[str, Any], at: int | None = None, scale: float = 1.0) -> str:
    """Format a stored mean with its half-width, which has two digits and sets the mean's decimals.

    Parameters
    ----------
    found
        ``mean`` and ``half_width``.
    at
        Index of the value; None if there is only one.
    scale
        Factor of both, such as 100 for percent; a negative factor changes the sign of the mean.
    """
    both = (found["mean"], found["half_width"])
    mean, half = (float(value if at is None else value[at]) for value in both)
    mean, half = scale * mean, abs(scale) * half
    if half <= 1e-9 * abs(mean):
        return cell(mean)
    decimals = max(0, 1 - math.floor(math.log10(half)))
    # Adding 0.0 removes the minus sign of a mean that rounds to zero.
    return f"{round(mean, decimals) + 0.0:.{decimals}f} ± {half:.{decimals}f}"


def place(values: Sequence[float], wanted: float) -> int:
    """Where a value such as a weight lambda stands among those that a result has.

    Raises
    ------
    InputError
        If the result has no such value.
    """
    found = [k for k, value in enumerate(values) if math.isclose(value, wanted)]
    if len(found) != 1:
        raise InputError(
            "a result has no such value" if not found else "a result has this value twice",
            value=wanted,
            remedy=f"It has {', '.join(f'{value:g}' for value in values)}.",
        )
    return found[0]


def percent(value: float) -> str:
    """Format a change in percent, with its sign."""
    return f"{value:+.1f} %" if value else "0 %"


def percent_range(least: float, largest: float) -> str:
    """Format the least and the largest of several changes in percent."""
    return f"{least:+g} to {largest:+g} %"


def joined(values: Iterable[float], decimals: int = 1) -> str:
    """Join the values of one row, such as those of one method at each lambda."""
    return " / ".join(f"{value:.{decimals}f}" for value in values)
