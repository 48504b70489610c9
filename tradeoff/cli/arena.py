"""The command `tradeoff arena`: methods on problems with certified fronts, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tradeoff._terminal import show_json, show_line
from tradeoff.cli.arena_networks import on_networks
from tradeoff.cli.boards import list_board, show_board, skill_rows, third_rows
from tradeoff.cli.ends import keeps
from tradeoff.cli.options import Json, Out
from tradeoff.extras import require
from tradeoff.files import check_writable
from tradeoff.records import write_json

if TYPE_CHECKING:
    from tradeoff.arena.matching import Match
    from tradeoff.study.engines import Backend

BUDGET, REPLICAS = 500.0, 32
"""Cost of a run on convex problems, and how many score, by default."""


def arena(
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--schedule",
            help="Name in the catalogue, or package.module:Name; repeatable.",
        ),
    ] = None,
    problems: Annotated[
        list[str] | None,
        typer.Option(
            "--problem",
            help="Name of a problem or a scenario, or your rows as sft.jsonl,preferences.jsonl; "
            "repeatable.",
        ),
    ] = None,
    lams: Annotated[
        list[float] | None,
        typer.Option("--lam", help="Weight of the preference objective; repeatable."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Cost of a run in gradients of a data point, 500 by default; on networks, of a "
            "batch of demonstrations, and that of the problem by default.",
            min=1,
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(help="Runs that score each method: 32 by default, and 10 on networks.", min=2),
    ] = None,
    match: Annotated[
        str,
        typer.Option(
            help="Terms of losses of pairs. none: their own settings; beta: the problem's beta; "
            "weight: that, and a weight at which they pull as DPO does."
        ),
    ] = "none",
    jobs: Annotated[int, typer.Option(help="Processes; -1 for all cores.")] = -1,
    backend: Annotated[
        str,
        typer.Option(
            help="Who computes: loky, sequential or threading here; dask, with the scheduler at "
            "DASK_SCHEDULER_ADDRESS; or ray."
        ),
    ] = "loky",
    sort: Annotated[str, typer.Option(help="rank, regret, front_gap or coverage.")] = "rank",
    scale: Annotated[
        str,
        typer.Option(
            help="convex; policies for small networks; language for a tiny language model."
        ),
    ] = "convex",
    listing: Annotated[
        bool, typer.Option("--list", help="List problems and methods, and stop.")
    ] = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Compare methods on convex problems whose best trade-offs are certified.

    Every method runs on every problem at every `--lam`, at equal cost; looks at losses cost as
    well. Its steps are chosen from one grid, on draws that do not score. What is stored below
    `--out` is not computed again, so an interrupted board goes on where it stopped.

    Without `--method` the whole catalogue takes part. Mix and SFT-then-DPO always do: `better than
    mix` counts the problems on which a method has less regret than Mix, after Holm's correction.

    Examples:

    - `tradeoff arena --method simpo --method pcgrad --problem middle --problem strong`

    - `tradeoff arena --method my_package.my_module:Name`

    - `tradeoff arena --method ipo --problem skills.jsonl,taste.jsonl --match beta`

    - `tradeoff arena --method replay --method kl_base --problem third-skill`

    - `tradeoff arena --scale policies --method simpo`

    - `tradeoff arena --scale policies --method replay --problem trigger --problem facts:3`

    - `DASK_SCHEDULER_ADDRESS=tcp://node-1:8786 tradeoff arena --backend dask`

    - `tradeoff arena --list`
    """
    require("study")

    from tradeoff.arena import SUITE, contenders
    from tradeoff.arena.board import LAMS, board, check_order
    from tradeoff.arena.scenarios import SCENARIOS
    from tradeoff.arena.theirs import is_theirs, theirs

    check_order(sort)
    if scale != "convex":
        on_networks(
            scale, methods or (), problems or (), match=match, lams=lams, budget=budget,
            replicas=replicas, jobs=jobs, backend=backend, sort=sort, listing=listing, out=out,
            as_json=as_json,
        )  # fmt: skip
        return
    budget, replicas = budget or BUDGET, replicas or REPLICAS
    if listing:
        rows = [{"problem": each.name, "differs by": each.varies} for each in SUITE.values()]
        rows += [{"problem": name, "differs by": says} for name, says in SCENARIOS.items()]
        list_board(rows, contenders(), as_json=as_json)
        return
    folder = check_writable(out or Path("arena"))
    keeps(f"runs in {folder} that have ended are kept, and the same command goes on")
    found = board(
        methods or (), problems or (), folder=folder / "runs", lams=tuple(lams or LAMS),
        budget=budget, replicas=replicas, match=cast("Match", match), jobs=jobs,
        backend=cast("Backend", backend), progress=not as_json,
    )  # fmt: skip
    table = found.table(sort)
    record: dict[str, Any] = {
        "budget": budget,
        "replicas": replicas,
        "lams": list(lams or LAMS),
        "match": match,
        "problems": list(found.regret.columns),
        "your_rows": [name for name in found.regret.columns if is_theirs(name)],
        "methods": table.to_dict("records"),
        "third": third_rows(found, table).to_dict("records"),
        "cells": found.cells.to_dict("records"),
        "skills": skill_rows(found).to_dict("records"),
    }
    written = write_json(folder / "arena.json", record)
    if as_json:
        show_json({**record, "written": [written]})
        return
    show_board(found, table)
    edge = int(table["at_edge"].sum())
    if edge:
        show_line(
            f"\n{edge} of {len(found.cells)} cells have their best step at an end of the grid: "
            "their methods may do better with other steps"
        )
    for name in record["your_rows"]:
        show_line(f"\n{name}: {theirs(name).varies}, whose law is not known")
    show_line(str(written), label="\nwritten  ")
