"""The command line: `tradeoff advise | analyse | front | train | reproduce | ...`.

Every command takes ``--json`` for machines. Libraries are imported inside the commands, so that
``tradeoff --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import tradeoff
from tradeoff import cli_advise, cli_arena, cli_evaluate, cli_export, cli_train
from tradeoff.checkout import FIRST_PAPER, analysis, dossier
from tradeoff.cli_options import METHODS_HELP, Columns, MinMargin, Out, SkipBad, UseLabels
from tradeoff.errors import InputError
from tradeoff.extras import explained, require
from tradeoff.files import check_writable, refusal
from tradeoff.records import replacing, write_json
from tradeoff.terminal import (
    flush_streams,
    prepare_streams,
    show_claims,
    show_findings,
    show_json,
    show_line,
    show_mutations,
    show_summary,
    show_table,
    with_errors,
)

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="The laboratory for the trade-off between SFT and preference learning.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Seed = Annotated[int, typer.Option(help="Root seed of every random draw.", min=0)]
Pdf = Annotated[
    bool, typer.Option("--pdf", help="For paper writers: also figures as PDF, tables as LaTeX.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Reduced form: fewer replicas and steps.")]
Force = Annotated[bool, typer.Option("--force", help="Recompute what is up to date.")]
Paper = Annotated[str, typer.Option(help="The paper: a folder in `analysis/` and in `papers/`.")]
Lams = Annotated[
    list[float], typer.Option("--lam", help="Weight of the preference objective; repeatable.")
]


def show_version(wanted: bool) -> bool:
    """Print the version and stop, if asked to; what it returns becomes the option's value."""
    if wanted:
        show_line(tradeoff.__version__)
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""
    del version  # the callback has printed it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input, or a disk that fails, is one message and exit status 2."""
    prepare_streams()
    try:
        try:
            app(args=None if arguments is None else list(arguments))
        finally:
            flush_streams()
    except BrokenPipeError:  # whoever reads our output has read enough
        sys.exit(1)
    except ModuleNotFoundError as error:
        found = explained(error)
        if not isinstance(found, InputError):
            raise
        _fail(str(found))
    except (InputError, OSError) as error:
        _fail(str(error if isinstance(error, InputError) else refusal(error)))
    except KeyboardInterrupt:
        typer.secho("interrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # of many processes, one speaks
        typer.secho(f"error: {message}", fg="red", err=True)
    sys.exit(2)


# ---------------------------------------------------------------------- the paper's dossier


@app.command()
def reproduce(
    fast: Fast = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also retrain the networks: many minutes.")
    ] = False,
    force: Force = False,
    pdf: Pdf = False,
    paper: Paper = FIRST_PAPER,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Recompute every figure and claim, and write the report.

    Studies of trained networks run in their fast form, beside the stored full run that the report
    shows; `--full` retrains them. An interrupted run goes on where it stopped. `--pdf` also writes
    `figures/*.pdf` (those of the studies with `--full`) and `tables/*.tex`.

    Examples:

    - `tradeoff reproduce`

    - `tradeoff reproduce --full --pdf`

    - `tradeoff reproduce --fast --out /tmp/dossier`
    """
    runner, report, judge = (analysis(f"dossier.{m}") for m in ("runner", "report", "ledger"))
    analysis("dossier.page").require()
    chosen = dossier(paper)
    folder = out or chosen.folder
    with analysis("dossier.style").as_pdf(pdf):
        outcomes = runner.reproduce(
            chosen, folder, fast=fast, full=full, force=force, progress=not as_json
        )
    ledger = judge.check(chosen, folder, fast=fast, progress=not as_json)
    pages = report.write(chosen, folder)
    tables = report.write_tables(chosen, folder) if pdf else []
    if as_json:
        done = [asdict(outcome) for outcome in outcomes]
        found = {"figures": done, "claims": ledger.to_dict("records")}
        show_json({**found, "pages": pages, "tables": tables})
        return
    show_claims(ledger, judge.summary(ledger.to_dict("records")))
    show_line(str(folder / "figures"), label="\nfigures  ")
    if tables:
        show_line(str(folder / "tables"), label="tables   ")
    for page in pages:
        show_line(str(page), label="report   ")


@app.command()
def figures(
    names: Annotated[
        list[str] | None, typer.Argument(help="Figure names, or `all`.", show_default=False)
    ] = None,
    fast: Fast = False,
    force: Force = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write each figure as PDF.")] = False,
    paper: Paper = FIRST_PAPER,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Draw figures and store the numbers they show; without a name, list them.

    Examples:

    - `tradeoff figures convergence loss_space`

    - `tradeoff figures all --pdf --out /tmp/figures`
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
    with analysis("dossier.style").as_pdf(pdf):
        outcomes = runner.run_all(chosen, wanted, out, fast=fast, force=force, progress=not as_json)
    if as_json:
        show_json([asdict(outcome) for outcome in outcomes])


@app.command()
def claims(
    names: Annotated[
        list[str] | None, typer.Argument(help="Claim ids; all by default.", show_default=False)
    ] = None,
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Run the mistakes that must break each claim instead.")
    ] = False,
    paper: Paper = FIRST_PAPER,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run the ledger of claims and print each with its verdict.

    The exit status is 1 when a claim does not hold, or when a mutation does not break its claim.

    Examples:

    - `tradeoff claims`

    - `tradeoff claims --json`

    - `tradeoff claims alright-average-rate --mutate`
    """
    ledger, chosen = analysis("dossier.ledger"), dossier(paper)
    if mutate:
        found = ledger.mutate(chosen, names, progress=not as_json)
        good = found.broken
    else:
        found = ledger.check(chosen, out, names, progress=not as_json)
        good = found.holds
    if as_json:
        show_json(found.to_dict("records"))
    elif mutate:
        show_mutations(found)
    else:
        show_claims(found, ledger.summary(found.to_dict("records")))
    if not good.all():
        raise typer.Exit(1)


# ---------------------------------------------------------------------- the user's own question


@app.command()
def analyse(
    sft: Annotated[str, typer.Option(help="SFT rows: file, pattern or owner/name@split.")],
    preference: Annotated[str, typer.Option(help="Preference rows, likewise.")],
    sft_test: Annotated[str | None, typer.Option(help="Held-out SFT rows.")] = None,
    preference_test: Annotated[str | None, typer.Option(help="Held-out preference rows.")] = None,
    lams: Lams = [0.25, 0.5, 0.75],  # noqa: B006  (typer reads the default)
    radius: Annotated[
        float | None, typer.Option(help="Radius of the parameters; chosen on held-out rows.")
    ] = None,
    beta: Annotated[float, typer.Option(help="Inverse temperature of DPO.")] = 1.0,
    candidates: Annotated[int, typer.Option(help="Responses per SFT prompt.")] = 8,
    features: Annotated[int, typer.Option(help="Hashed features of a response.")] = 2**14,
    solves: Annotated[int, typer.Option(help="Certified solves of the front.")] = 9,
    steps: Annotated[int, typer.Option(help="Updates of each gradient run.")] = 120,
    rows: Annotated[
        int | None,
        typer.Option(help="Most rows of each set, drawn; by default what memory allows.", min=2),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first rows of each file.")] = None,
    skip_bad: SkipBad = False,
    columns: Columns = None,
    use_labels: UseLabels = False,
    min_margin: MinMargin = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """One split of two datasets in detail; for an answer with intervals, see `tradeoff advise`.

    Prints a table and writes `analyse.svg`, `analyse.png` and `analyse.json` to `--out`. What the
    analysis cannot see comes first, with a count and a remedy; numbers that it puts in doubt are
    marked.

    Examples:

    - `tradeoff analyse --sft skills.jsonl --preference taste.jsonl.gz`

    - `tradeoff analyse --sft a.jsonl --preference b.jsonl --lam 0.1 --lam 0.9 --skip-bad`
    """
    require("text")
    from tradeoff import conflict, plots
    from tradeoff.data import files
    from tradeoff.data.columns import columns_of, parsed

    folder = check_writable(out or Path())
    names = parsed(columns or ())
    options: dict[str, Any] = {"skip_bad": skip_bad, "limit": limit, "use_labels": use_labels}
    options |= {"sample": rows or conflict.MAX_ROWS, "seed": seed}
    read_sft: Any = partial(files.read_sft, columns=columns_of(names, "sft"), **options)
    read_pairs: Any = partial(
        files.read_preferences,
        columns=columns_of(names, "preference"),
        min_margin=min_margin,
        **options,
    )
    train = read_sft(sft), read_pairs(preference)
    held_out = (
        None if sft_test is None else read_sft(sft_test, default_split=None),
        None if preference_test is None else read_pairs(preference_test, default_split=None),
    )
    found = conflict.analyse(
        *train,
        sft_test=held_out[0],
        preference_test=held_out[1],
        lams=lams,
        radius=radius,
        beta=beta,
        candidates=candidates,
        n_features=features,
        solves=solves,
        steps=steps,
        max_rows=rows,
        seed=seed,
        progress=not as_json,
    )
    read = [part for part in (*train, *held_out) if part]
    dropped = [str(error) for part in read for error in part.dropped]
    remarks = [text for part in read for text in part.remarks()]
    record = {
        "warnings": [doubt.record() for doubt in found.doubts],
        "in_doubt": found.in_doubt,
        "summary": found.summary,
        "policies": found.policies.reset_index().to_dict("records"),
        "front": found.front.table().to_dict("records"),
        "dropped": dropped,
        "remarks": remarks,
    }
    written = [write_json(folder / "analyse.json", record)]
    with plots.figure(height=4.2) as (figure, ax):
        doubt = " (in doubt)" if found.in_doubt else ""
        title = f"{Path(sft).name} and {Path(preference).name}{doubt}"
        found.plot(ax).set_title(plots.literal(title))
        written += plots.save(figure, folder, "analyse")
    if as_json:
        show_json(record)
        return
    for text in found.doubts:
        show_line(str(text), label="warning: ", style="yellow")
    show_table(_short(found.policies), "losses in nats; accuracies and † on held-out rows")
    show_summary(found.summary, found.in_doubt)
    for line in [*remarks, *(f"dropped: {text}" for text in dropped)]:
        show_line(line, style="yellow")
    show_line(f"written: {', '.join(str(path) for path in written)}")


@app.command()
def front(
    seed: Seed = 0,
    conflict: Annotated[float, typer.Option(help="0: the objectives agree; 1: opposite.")] = 0.75,
    dimension: Annotated[int, typer.Option(help="Parameters.", min=2)] = 16,
    prompts: Annotated[int, typer.Option(help="Prompts.", min=1)] = 16,
    responses: Annotated[int, typer.Option(help="Responses per prompt.", min=2)] = 8,
    radius: Annotated[float, typer.Option(help="Radius of the ball.")] = 4.0,
    beta: Annotated[float, typer.Option(help="Inverse temperature of DPO.")] = 1.0,
    accuracy: Annotated[float, typer.Option(help="Certified error asked, in ranges.")] = 1e-3,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Enclose the Pareto front of a random log-linear problem, with a certificate.

    Examples:

    - `tradeoff front --conflict 0.9 --accuracy 1e-4`

    - `tradeoff front --seed 3 --json`
    """
    from tradeoff import convex, plots

    problem = _random_problem(seed, conflict, dimension, prompts, responses, radius, beta)
    found = convex.pareto_front(problem, accuracy=accuracy, progress=not as_json)
    low, high = found.hypervolume_bounds()
    record = {
        "certified_error": found.error,
        "ideal": found.ideal.tolist(),
        "ranges": found.ranges.tolist(),
        "hypervolume": [low, high],
        "front": found.table().to_dict("records"),
    }
    if out is not None:
        write_json(out / "front.json", record)
        with plots.figure(height=4.0) as (figure, ax):
            found.plot(ax)
            plots.save(figure, out, "front")
    if as_json:
        show_json(record)
        return
    show_table(found.table(), str(found))
    show_line(f"hypervolume up to the nadir: between {low:.6g} and {high:.6g}")


@app.command()
def simulate(
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", "--schedule", metavar="NAME", help=METHODS_HELP),
    ] = None,
    lams: Lams = [0.5],  # noqa: B006  (typer reads the default)
    steps: Annotated[int, typer.Option(help="Updates per run.", min=1)] = 10_000,
    replicas: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 256,
    step_size: Annotated[float, typer.Option(help="Scale of the step size.")] = 0.5,
    decay: Annotated[
        str, typer.Option(help="Step size scale / t^decay; `linear`: linearly to zero.")
    ] = "0.5",
    refresh: Annotated[
        int, typer.Option(help="MAXRIGHT, Constrained: updates between refreshes.", min=1)
    ] = 1,
    share: Annotated[
        float | None,
        typer.Option(help="Sequential: share of the first stage; by default that of lambda."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds: how many.", min=1)] = 4,
    limit: Annotated[
        float, typer.Option(help="Constrained: nats that SFT may lose, or a share.")
    ] = 0.05,
    relative: Annotated[
        bool, typer.Option("--relative", help="Constrained: the limit is a share of the gain.")
    ] = False,
    conflict: Annotated[float, typer.Option(help="0: the objectives agree; 1: opposite.")] = 0.75,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run methods on a random log-linear problem and summarise where they end.

    With `--out` the whole trajectory is written as `simulate.parquet`.

    Examples:

    - `tradeoff simulate --schedule alright --schedule mix --lam 0.25 --lam 0.75`

    - `tradeoff simulate --schedule rounds --rounds 16 --decay linear`

    - `tradeoff simulate --method mix+pcgrad --method alright+simpo --method my_methods:Mine`

    - `tradeoff simulate --steps 100000 --replicas 64 --out runs`
    """
    if out is not None:
        require("parquet")
    from tradeoff import convex
    from tradeoff.methods import METHODS

    problem = _random_problem(seed, conflict, 16, 16, 8, 4.0, 1.0)
    # A method given twice would count as twice the replicas.
    chosen = dict.fromkeys(methods or METHODS)
    settings: dict[str, dict[str, Any]] = {
        "sequential": {"share": share},
        "rounds": {"rounds": rounds},
        "maxright": {"refresh": refresh},
        "constrained": {"limit": limit, "relative": relative, "refresh": refresh},
    }
    runs = convex.simulate(
        problem,
        [_method(name, lam, settings) for lam in dict.fromkeys(lams) for name in chosen],
        steps=steps,
        step_size=convex.StepSize(step_size, _decay(decay)),
        replicas=replicas,
        seed=seed,
    )
    if out is not None:
        with replacing(out / "simulate.parquet") as partial:
            runs.to_parquet(partial, index=False)
    table = _end_points(runs, convex.pareto_front(problem), steps)
    if as_json:
        show_json(table.to_dict("records"))
        return
    title = f"{replicas} runs of {steps} updates; mean ± 1.96 standard errors"
    show_table(with_errors(table), title)


# ---------------------------------------------------------------------- language models


app.command(help=cli_advise.HELP)(cli_advise.advise)
app.command(help=cli_train.HELP)(cli_train.train)


app.command(help=cli_evaluate.HELP)(cli_evaluate.evaluate)


app.command(help=cli_export.HELP)(cli_export.export)


app.command(help=cli_arena.HELP)(cli_arena.arena)


# ---------------------------------------------------------------------- this machine


@app.command()
def doctor(
    gpu: Annotated[bool, typer.Option("--gpu", help="Fail unless a GPU run will work.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Check whether rows teach this model what it is asked.")
    ] = None,
    sft: Annotated[str | None, typer.Option(help="SFT rows to check with --model.")] = None,
    preference: Annotated[
        str | None, typer.Option(help="Preference rows to check with --model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at versions, optional packages, devices, threads and folders.

    With `--model` and rows it looks at these instead: whether tokenizer, chat template and rows
    agree on what is trained and what is asked. The exit status is 1 when a check fails; a machine
    without a GPU is healthy unless `--gpu`.

    Examples:

    - `tradeoff doctor`

    - `tradeoff doctor --model base --sft skills.jsonl --preference taste.jsonl.gz`

    - `tradeoff doctor --gpu --json`
    """
    from tradeoff import doctor as checks

    if model is None and (sft or preference):
        remedy = "Give --model too, whose tokenizer and template they are checked with."
        raise InputError("rows are checked for a model", field="model", value=None, remedy=remedy)
    sources = {"sft": sft, "preference": preference}
    if model is None:
        found = checks.examine()
    else:
        require("llm")
        from tradeoff.llm import inspection

        found = tuple(inspection.rows(model, sources))
    if as_json:
        show_json(checks.as_record(found))
    else:
        show_findings(checks.as_record(found))
    if not checks.healthy(found, gpu=gpu):
        raise typer.Exit(1)


# ---------------------------------------------------------------------- helpers


def _random_problem(
    seed: int,
    conflict: float,
    dimension: int,
    prompts: int,
    responses: int,
    radius: float,
    beta: float,
) -> Any:
    from tradeoff.convex import random_log_linear

    return random_log_linear(
        seed,
        conflict=conflict,
        dimension=dimension,
        prompts=prompts,
        responses=responses,
        radius=radius,
        beta=beta,
    )


def _short(policies: pd.DataFrame) -> pd.DataFrame:
    """The table of policies with headings that fit a terminal."""
    headings = {
        "sft_loss": "SFT",
        "preference_loss": "DPO",
        "sft_loss_test": "SFT†",
        "preference_loss_test": "DPO†",
        "sft_accuracy_test": "top-1",
        "preference_accuracy_test": "pairs",
        "front_gap": "gap",
        "matched_weight": "λ*",
    }
    return policies.drop(columns="kind").rename(columns=headings).reset_index()


def _method(name: str, lam: float, settings: dict[str, dict[str, Any]]) -> Any:
    """A method by its name, with the settings given to its kind of schedule."""
    from dataclasses import replace

    from tradeoff.methods import find

    found = find(name, lam)
    own = {k: v for k, v in settings.get(found.schedule.name, {}).items() if v is not None}
    return replace(found, schedule=replace(found.schedule, **own))


def _decay(text: str) -> Any:
    from tradeoff.schedules import check_decay

    try:
        found: float | str = float(text)
    except ValueError:
        found = text
    check_decay(found)
    return found


def _end_points(runs: pd.DataFrame, found: Any, steps: int) -> pd.DataFrame:
    """Mean and interval of the final losses, and their place relative to the front."""
    last = runs[(runs.step == steps) & (runs.iterate == "last")]
    grouped = last.groupby(["lam", "schedule"], observed=True, sort=False)
    columns = ["sft_loss", "preference_loss", "gap"]
    mean, error = grouped[columns].mean(), 1.96 * grouped[columns].sem()
    table = mean.index.to_frame(index=False)
    for column in columns:
        table[column], table[f"± {column}"] = mean[column].to_numpy(), error[column].to_numpy()
    place = found.score(table[["sft_loss", "preference_loss"]].to_numpy())
    return table.assign(front_gap=place.front_gap, matched_weight=place.matched_weight)


if __name__ == "__main__":  # as `accelerate launch -m tradeoff.cli` calls it
    main()
