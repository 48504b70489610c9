"""The command `tradeoff advise`: two data sets in, one page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tradeoff._terminal import console, show_json, show_line, show_table, show_written
from tradeoff.cli.options import Columns, JsonText, MinMargin, Out, Seed, SkipBad, UseLabels
from tradeoff.cli.rows import RowReader
from tradeoff.cli.states import Features, states, unlike
from tradeoff.data.sample import sampled
from tradeoff.display import outward
from tradeoff.extras import require
from tradeoff.files import check_writable
from tradeoff.records import replacing, write_json


def advise(
    sft: Annotated[str, typer.Argument(help="SFT rows: file, pattern or owner/name@split.")],
    preference: Annotated[str, typer.Argument(help="Preference rows, likewise.")],
    model: Features = None,
    words: Annotated[
        bool, typer.Option("--words", help="Name --model in the command, but use hashed words.")
    ] = False,
    repeats: Annotated[
        int, typer.Option(help="Splits and draws, each measured anew.", min=2, max=1000)
    ] = 5,
    rows: Annotated[
        int, typer.Option(help="Rows of each set that one repeat draws.", min=4, max=10**6)
    ] = 1_000,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first rows of each file.", min=1)
    ] = None,
    skip_bad: SkipBad = False,
    columns: Columns = None,
    use_labels: UseLabels = False,
    min_margin: MinMargin = None,
    seed: Seed = 0,
    details: Annotated[
        bool, typer.Option("--details", help="Also print the picture and every number.")
    ] = False,
    out: Out = None,
    as_json: JsonText = False,
) -> None:
    """Do two data sets conflict, what does each order forget, and how should both be trained on?

    Prints five sentences, the command that trains a model so, and cautions. Everything is measured
    on several splits, beside sets of known conflict made of your own pairs. `advise.html` in
    `--out` is one page to share; `advise.json` holds every number. With `--model`, averaged states
    of that model take the place of hashed words; what this costs is printed first. `tradeoff
    analyse` looks at one split in detail: certified front, paths of gradient runs, every policy.

    Examples:

    - `tradeoff advise skills.jsonl taste.jsonl.gz`

    - `tradeoff advise sft.jsonl pairs.jsonl --model smollm2 --rows 300 --details --out advice`
    """
    require("text")
    from tradeoff import advice, conflict

    folder = check_writable(out or Path())
    options: dict[str, Any] = {"skip_bad": skip_bad, "limit": limit, "use_labels": use_labels}
    options |= {"sample": max(rows, conflict.MAX_ROWS), "seed": seed}
    read = RowReader(columns, min_margin, options)
    known = read.rows(sft, "sft"), read.rows(preference, "preference")
    features, remarks = None, list(read.remarks)
    if model is not None and not words:
        # Each repeat draws its own rows, and so do the cautions.
        some = [sampled(part, rows * (repeats + 1), seed) for part in known]
        features = states(model, *some, say=not as_json)
        remarks += unlike(model, *known)
    found = advice.advise(
        *known,
        names=(sft, preference),
        model=model or "tiny",
        flags=read.words,
        features=features,
        repeats=repeats,
        rows=rows,
        seed=seed,
        progress=not as_json,
    )
    record = {**found.record(), "dropped": read.dropped, "remarks": remarks}
    said = [*remarks, *(f"dropped: {text}" for text in read.dropped)]
    written = [write_json(folder / "advise.json", record), folder / "advise.html"]
    with replacing(written[1]) as partial_page:
        title = f"Advice on {Path(sft).name} and {Path(preference).name}"
        partial_page.write_text(found.page(title, said), "utf-8")
    if as_json:
        show_json({**record, "written": written})
        return
    for number, sentence in enumerate(found.sentences, start=1):
        show_line(sentence, label=f"{number}. ")
    show_line(found.command, label="\ntrain: ")
    show_line(found.trust)
    for doubt in found.cautions:
        show_line(str(doubt), label="caution: ", style="yellow")
    for line in said:
        show_line(line, style="yellow")
    if details:
        _show_details(found)
    show_written(written)


def _show_details(found: Any) -> None:
    show_line(found.text(console.width))
    show_table(found.table().reset_index(), "mean and 95 % interval over the repeats")
    certified = outward(found.certified, 1, up=True)
    show_line(f"certified (solver): every optimum to {certified:.1g} nats")
