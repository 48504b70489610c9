"""The command `tradeoff arena --scale`: methods on networks, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tradeoff._terminal import show_json, show_line
from tradeoff.cli.boards import list_board, show_board, skill_rows, third_rows
from tradeoff.cli.ends import keeps
from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.records import write_json

if TYPE_CHECKING:
    from tradeoff.study.engines import Backend

REPLICAS = 10
"""Seeds that score, by default."""


def on_networks(
    scale: str,
    methods: Sequence[str],
    problems: Sequence[str],
    *,
    match: str,
    lams: Sequence[float] | None,
    budget: float | None,
    replicas: int | None,
    jobs: int,
    backend: str,
    sort: str,
    listing: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run what is missing of a board of networks, and show it.

    Parameters
    ----------
    scale
        "policies" or "language".
    match
        Must be "none": networks train every loss with its own settings.
    methods, problems, lams, budget, replicas, jobs, backend
        As for :func:`tradeoff.arena.network_board.network_board`.
    sort
        Column to sort by.
    listing
        List problems and methods, and stop.
    out
        Folder of the runs and of ``arena.json``.
    as_json
        Write one JSON object in place of tables.

    Raises
    ------
    InputError
        If there is no such scale, problem or method, or if losses are to be matched.
    """
    from tradeoff.arena.network_board import NETWORK_LAMS, network_board, network_contenders
    from tradeoff.arena.networks import network, of_scale
    from tradeoff.arena.scenarios import SCENARIOS

    if match != "none":
        remedy = "Leave it out, or use --scale convex."
        raise InputError("only convex problems can match losses", field="--match", value=match,
                         remedy=remedy)  # fmt: skip
    if listing:
        rows = [{"problem": name, "differs by": network(name).varies} for name in of_scale(scale)]
        if scale == "policies":
            rows += [{"problem": name, "differs by": says} for name, says in SCENARIOS.items()]
        list_board(rows, network_contenders(scale), as_json=as_json)
        return
    folder = check_writable(out or Path("arena"))
    keeps(f"runs in {folder} that have ended are kept, and the same command goes on")
    weights = tuple(lams or NETWORK_LAMS)
    board = network_board(
        methods, problems, scale=scale, folder=folder / scale, lams=weights, budget=budget,
        replicas=replicas or REPLICAS, jobs=jobs,
        backend=cast("Backend", backend), progress=not as_json,
    )  # fmt: skip
    table = board.table(sort)
    record: dict[str, Any] = {
        "scale": scale,
        "budget": budget or {name: network(name).budget for name in board.regret.columns},
        "replicas": int(board.runs["replica"].nunique()),
        "lams": list(weights),
        "problems": list(board.regret.columns),
        "methods": table.to_dict("records"),
        "third": third_rows(board, table).to_dict("records"),
        "cells": board.cells.to_dict("records"),
        "skills": skill_rows(board).to_dict("records"),
    }
    written = write_json(folder / f"arena_{scale}.json", record)
    if as_json:
        show_json({**record, "written": [written]})
        return
    show_board(board, table)
    show_line(
        "\nRegret is in units of the best gains on this board: no front is certified for networks"
    )
    show_line(str(written), label="\nwritten  ")
