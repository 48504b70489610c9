"""The commands `reproduce`, `report`, `figures` and `claims`: the dossier of a paper."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tradeoff._terminal import show_claims, show_json, show_line, show_mutations, show_table
from tradeoff.checkout import FIRST_PAPER, INSTALLED, analysis, dossier, written
from tradeoff.cli.ends import keeps
from tradeoff.cli.options import Fast, Force, Json, Out, Paper, Pdf
from tradeoff.errors import InputError

_FIGURES = "figures that are drawn are kept, and the same command goes on"


def reproduce(
    fast: Fast = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also retrain the networks: many minutes.")
    ] = False,
    force: Force = False,
    pdf: Pdf = False,
    update: Annotated[
        bool,
        typer.Option("--update", help="Store numbers, figures and pages in the paper's folder."),
    ] = False,
    paper: Paper = FIRST_PAPER,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Recompute every figure and claim, compare them with what is stored, and write the report.

    Everything is written to `out/reproduced`, and the stored files stay as they are. The exit
    status is 1 if a number moved, with a list; `--update` stores the new numbers.

    Studies of trained networks run in their fast form, beside the stored full run that the report
    shows; `--full` retrains them. An interrupted run goes on where it stopped. `--pdf` also writes
    `figures/*.pdf` (those of the studies with `--full`) and `tables/*.tex`.

    Examples:

    - `tradeoff reproduce`

    - `tradeoff reproduce --full --update`

    - `tradeoff reproduce --fast --out /tmp/dossier`
    """
    runner, report, judge = (analysis(f"dossier.{m}") for m in ("runner", "report", "ledger"))
    analysis("dossier.page").require()
    chosen, reproduced = dossier(paper), analysis("dossier.reproduced")
    if update:
        _check_update(fast=fast, out=out)
    folder = chosen.folder if update else out or reproduced.folder(chosen)
    twin = reproduced.folder(chosen) if update else chosen.folder
    keeps(_FIGURES)
    before = reproduced.stored(chosen, chosen.folder, full=full)
    with analysis("dossier.style").as_pdf(pdf):
        outcomes = runner.reproduce(
            chosen, folder, fast=fast, full=full, force=force, progress=not as_json, twin=twin
        )
    ledger = judge.check(chosen, folder, fast=fast, progress=not as_json)
    now = {} if fast else reproduced.stored(chosen, folder, full=full)
    found = reproduced.compare(before, now)
    pages = report.write(chosen, folder)
    tables = report.write_tables(chosen, folder) if pdf else []
    if as_json:
        done = [asdict(outcome) for outcome in outcomes]
        moved = [asdict(each) for each in found.moved]
        claimed = {"figures": done, "claims": ledger.to_dict("records"), "moved": moved}
        show_json({**claimed, "pages": pages, "tables": tables})
    else:
        show_claims(ledger, judge.summary(ledger.to_dict("records")))
        show_line(str(folder / "figures"), label="\nfigures  ")
        if tables:
            show_line(str(folder / "tables"), label="tables   ")
        for page in pages:
            show_line(str(page), label="report   ")
        for line in () if fast else found.lines():
            show_line(line, label="numbers  ")
        if found.moved and not update:
            show_line("To store the new numbers: tradeoff reproduce --update")
    if found.moved and not update:
        raise typer.Exit(1)


def _check_update(*, fast: bool, out: Path | None) -> None:
    """Raise an `InputError` where nothing can be stored in the paper's folder."""
    if INSTALLED:
        problem, remedy = (
            "an installed package is only read",
            "Clone the project, and run it there.",
        )
    elif fast or out is not None:
        problem = "it stores full numbers in the paper's folder"
        remedy = f"Leave out {'--fast' if fast else '--out'}, or leave out --update."
    else:
        return
    raise InputError(problem, field="update", remedy=remedy)


def report(paper: Paper = FIRST_PAPER, out: Out = None, as_json: Json = False) -> None:
    """Write the report page from what is stored, in seconds: one file for a browser.

    Examples:

    - `tradeoff report`

    - `tradeoff report --out /tmp/dossier`
    """
    chosen = dossier(paper)
    path = analysis("dossier.report").write_page(chosen, written(chosen, out))
    if as_json:
        show_json({"page": str(path)})
    else:
        show_line(str(path), label="report   ")


def figures(
    names: Annotated[
        list[str] | None, typer.Argument(help="Figure names, or `all`.", show_default=False)
    ] = None,
    fast: Fast = False,
    force: Force = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write each figure as PDF.")] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Draw stored numbers again, compute nothing.")
    ] = False,
    paper: Paper = FIRST_PAPER,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Draw figures and store the numbers they show; without a name, list them.

    Examples:

    - `tradeoff figures convergence loss_space`

    - `tradeoff figures all --pdf --out /tmp/figures`

    - `tradeoff figures explorer --redraw`
    """
    runner, chosen = analysis("dossier.runner"), dossier(paper)
    if not names:
        listing = runner.table(chosen)
        if as_json:
            show_json(listing.to_dict("records"))
        else:
            show_table(listing, "figures")
        return
    known = chosen.figures + chosen.studies
    wanted = list(known) if names == ["all"] else names
    for name in wanted:
        chosen.chapter(name)  # refuses a name that is none, before anything is drawn
    keeps(_FIGURES)
    out = written(chosen, out)
    with analysis("dossier.style").as_pdf(pdf):
        if redraw:
            drawn = {name: list(map(str, runner.redraw(chosen, name, out))) for name in wanted}
            if as_json:
                show_json(drawn)
            for paths in () if as_json else drawn.values():
                show_line("\n".join(paths))
            return
        outcomes = runner.run_all(chosen, wanted, out, fast=fast, force=force, progress=not as_json)
    if as_json:
        show_json([asdict(outcome) for outcome in outcomes])


def claims(
    names: Annotated[
        list[str] | None, typer.Argument(help="Claim ids; all by default.", show_default=False)
    ] = None,
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Run the mistakes that must break each claim instead.")
    ] = False,
    stored: Annotated[
        bool, typer.Option("--stored", help="Print the stored verdicts, compute nothing.")
    ] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Print whole statements, with kind and source.")
    ] = False,
    paper: Paper = FIRST_PAPER,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run the ledger of claims and print each with its verdict, one line each.

    The exit status is 1 when a claim does not hold, or when a mutation does not break its claim.

    Examples:

    - `tradeoff claims`

    - `tradeoff claims --stored --long`

    - `tradeoff claims alright-average-rate --mutate`
    """
    ledger, chosen = analysis("dossier.ledger"), dossier(paper)
    if stored:
        found = ledger.stored(chosen, names)
        good = found.holds
    elif mutate:
        found = ledger.mutate(chosen, names, progress=not as_json)
        good = found.broken
    else:
        found = ledger.check(chosen, written(chosen, out), names, progress=not as_json)
        good = found.holds
    if as_json:
        show_json(found.to_dict("records"))
    elif mutate:
        show_mutations(found)
    else:
        show_claims(found, ledger.summary(found.to_dict("records")), long=long)
    if not good.all():
        raise typer.Exit(1)
