"""What every board of `tradeoff arena` lists and shows, whatever its scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tradeoff._terminal import show_json, show_table

if TYPE_CHECKING:
    import pandas as pd

    from tradeoff.methods import Method

WIDEST = ["name", "rank", "rank_low", "rank_high", "regret", "front_gap", "coverage"]
"""Columns of the first table; the second has the others."""


def list_board(
    problems: Sequence[Mapping[str, str]], methods: Mapping[str, Method], *, as_json: bool
) -> None:
    """Show the problems and methods that a board can have, as tables or as one JSON object."""
    import pandas as pd

    labels = [{"name": name, "method": method.label} for name, method in methods.items()]
    if as_json:
        show_json({"problems": list(problems), "methods": labels})
        return
    show_table(pd.DataFrame(problems), "problems")
    show_table(pd.DataFrame(labels), "\nmethods")


def show_board(table: pd.DataFrame, title: str) -> None:
    """Show the table of a board: ranks and scores, then the comparisons with baselines."""
    others: list[Any] = [name for name in table if name not in WIDEST]
    show_table(table[WIDEST], title)
    show_table(table[["name", *others]], "\nproblems on which a method differs from a baseline")
