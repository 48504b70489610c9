"""The command `analyse`: the convex problem of two data sets, in detail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradeoff._terminal import show_json, show_line, show_summary, show_table, show_written
from tradeoff.cli.options import (
    Columns,
    Json,
    Lams,
    MinMargin,
    Out,
    Seed,
    SkipBad,
    UseLabels,
    check_arguments,
)
from tradeoff.cli.rows import RowReader
from tradeoff.cli.states import ROWS, Features, states
from tradeoff.extras import require
from tradeoff.files import check_writable
from tradeoff.records import write_json

if TYPE_CHECKING:
    import pandas as pd


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
    model: Features = None,
    solves: Annotated[int, typer.Option(help="Certified solves of the front.")] = 9,
    steps: Annotated[int, typer.Option(help="Updates of each gradient run.")] = 120,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Most rows of each set, drawn; by default what memory allows, 1,000 with --model.",
            min=2,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first rows of each file.", min=1)
    ] = None,
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
    marked. With `--model`, averaged states of that model take the place of hashed words; what this
    costs is printed first, and states are kept for later calls.

    Examples:

    - `tradeoff analyse --sft skills.jsonl --preference taste.jsonl.gz`

    - `tradeoff analyse --sft a.jsonl --preference b.jsonl --lam 0.1 --lam 0.9 --skip-bad`

    - `tradeoff analyse --sft a.jsonl --preference b.jsonl --model smollm2 --rows 300`
    """
    require("text")
    from tradeoff import conflict, plots

    settings: dict[str, Any] = {"lams": lams, "radius": radius, "beta": beta, "steps": steps}
    settings |= {"candidates": candidates, "n_features": features, "solves": solves}
    rows = ROWS if rows is None and model is not None else rows
    settings |= {"max_rows": rows, "seed": seed}
    check_arguments(conflict.analyse, **settings)
    folder = check_writable(out or Path())
    options: dict[str, Any] = {"skip_bad": skip_bad, "limit": limit, "use_labels": use_labels}
    options |= {"sample": rows or conflict.MAX_ROWS, "seed": seed}
    read = RowReader(columns, min_margin, options)
    train = read.rows(sft, "sft"), read.rows(preference, "preference")
    test = read.held_out(sft_test, "sft"), read.held_out(preference_test, "preference")
    if model is not None:
        some = [[*a, *(b or ())] for a, b in zip(train, test, strict=True)]
        settings["features"] = states(model, *some, say=not as_json)
    found = conflict.analyse(
        *train,
        sft_test=test[0],
        preference_test=test[1],
        **settings,
        progress=not as_json,
    )
    record = {
        "warnings": [doubt.record() for doubt in found.doubts],
        "in_doubt": found.in_doubt,
        "summary": found.summary,
        "trust": found.trust,
        "policies": found.policies.reset_index().to_dict("records"),
        "front": found.front.table().to_dict("records"),
        "dropped": read.dropped,
        "remarks": read.remarks,
    }
    written = [write_json(folder / "analyse.json", record)]
    with plots.figure(height=4.2) as (figure, ax):
        doubt = " (in doubt)" if found.in_doubt else ""
        title = f"{Path(sft).name} and {Path(preference).name}{doubt}"
        found.plot(ax).set_title(plots.literal(title))
        written += plots.save(figure, folder, "analyse")
    if as_json:
        show_json({**record, "written": written})
        return
    for text in found.doubts:
        show_line(str(text), label="warning: ", style="yellow")
    show_table(_short(found.policies), "losses in nats; accuracies and † on held-out rows")
    show_summary(found.summary, found.in_doubt)
    show_line(found.trust)
    for line in [*read.remarks, *(f"dropped: {text}" for text in read.dropped)]:
        show_line(line, style="yellow")
    show_written(written)


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
