"""What every board of `tradeoff arena` lists and shows, whatever its scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tradeoff._terminal import show_json, show_table

if TYPE_CHECKING:
    import pandas as pd

    from tradeoff.arena.board import Board
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


def show_board(board: Board, table: pd.DataFrame) -> None:
    """Show a board: ranks and scores, comparisons with baselines, then third measures."""
    others: list[Any] = [name for name in table if name not in WIDEST]
    show_table(table[WIDEST], f"{board}")
    show_table(table[["name", *others]], "\nproblems on which a method differs from a baseline")
    third, skills = third_rows(board, table), skill_rows(board)
    if len(third.columns) > 1:
        show_table(third, "\nwhat neither objective trains")
    if len(skills):
        show_table(skills, "\nprobability of what a skill answers, before training and after")


def third_rows(board: Board, table: pd.DataFrame) -> pd.DataFrame:
    """Third measures of the methods, in the order of a table."""
    return board.thirds.loc[table["name"]].rename_axis("name").reset_index()


def skill_rows(board: Board) -> pd.DataFrame:
    """Skills of scenarios, before training and by method; empty without scenarios."""
    return board.skills.rename_axis("name").reset_index()
