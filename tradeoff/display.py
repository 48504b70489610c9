"""Display of results: one line of text, and in notebooks a title above a table."""

from __future__ import annotations

from abc import abstractmethod
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

ROWS = 12
"""Rows of a table that a notebook shows; the middle of a longer one is left out."""
WIDTH = 120
"""Largest number of characters of a text that a notebook shows."""


class Shown:
    """Base of results with a table: notebooks show the ``repr`` as a title above the table.

    A dataclass that inherits from it defines a one-line ``__repr__``.
    """

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """The result as a DataFrame."""

    def _repr_html_(self) -> str:
        return as_html(repr(self), self.table())


def outward(bound: float, digits: int, *, up: bool) -> float:
    """Round a bound to so many digits, up or down, so that it stays a bound."""
    direction = ROUND_CEILING if up else ROUND_FLOOR
    return float(Context(prec=digits, rounding=direction).create_decimal_from_float(bound))


def as_html(title: str, table: pd.DataFrame) -> str:
    """Render a title and a table as HTML; numbers have four digits, all text is escaped."""
    body = table.to_html(
        formatters=[_shortened] * len(table.columns),
        max_rows=ROWS,
        show_dimensions=len(table) > ROWS,
        border=0,
    )
    return f"<div><p><b>{escape(title)}</b></p>\n{body}</div>"


def cell(value: Any) -> str:
    """Format a value for a table: floats to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"
    return str(value)


def _shortened(value: Any) -> str:
    text = cell(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
