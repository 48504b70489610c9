"""The command `tradeoff forecast`: what a training will do, from a twentieth of its cost."""

from __future__ import annotations

import time
import warnings
from typing import Annotated, Any

import typer

from tradeoff._terminal import show_json, show_line, show_table
from tradeoff.cli.options import Out
from tradeoff.cli.run_options import Given, with_settings
from tradeoff.errors import InputError, RowWarning
from tradeoff.extras import require
from tradeoff.files import check_writable
from tradeoff.records import write_json


@with_settings("method", "schedule", "from_trl")
def forecast(
    given: Given,
    details: Annotated[
        bool, typer.Option("--details", help="Also print every number with its interval.")
    ] = False,
    out: Out = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """What will a training do to both objectives? Front, forgetting, best weight, with intervals.

    Takes the settings of `tradeoff train` and measures the model on a sample of the rows, for less
    than a twentieth of the cost of one run. Says "cannot tell" where its intervals do not tell, and
    how far such forecasts may be trusted: the evaluation is stored with the package.

    Examples:

    - `tradeoff forecast --model tiny --sft skills.jsonl --preference taste.jsonl.gz`

    - `tradeoff forecast run.toml --steps 500 --json`
    """
    require("llm")
    from tradeoff import experiment
    from tradeoff.forecast import calibration
    from tradeoff.forecast.forecast import forecast as made
    from tradeoff.forecast.lab import Effort, Lab
    from tradeoff.forecast.llm import subject

    folder = None if out is None else check_writable(out)
    known = calibration.stored()
    if known is None:
        raise InputError(
            "this installation has no calibration",
            file=calibration.STORED,
            remedy="Run `python -m analysis.fernando2024.forecast.calibrate` in a checkout.",
        )
    say: Any = (lambda text: None) if as_json else show_line
    settings = given.settings()
    rows = experiment.read_rows(settings)
    sizes = len(rows["sft"]), len(rows["preference"])
    effort = Effort.of(settings.train.updates(*sizes), settings.train.batch_size)
    say(
        f"measuring {effort.features} rows of each set, and two runs of {effort.probe_updates} "
        f"updates: about a twentieth of one run of {effort.updates:,} updates"
    )
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RowWarning)  # `tradeoff train` says it of all rows
        measured = subject(settings, rows, effort, progress=not as_json)
    lab = Lab(measured, effort, settings.train.seed)
    found = made(lab, known)
    record = {**found.record(), "cpu_seconds": time.process_time() - began}
    written = None if folder is None else write_json(folder / "forecast.json", record)
    if as_json:
        show_json(record)
        return
    for number, sentence in enumerate(record["sentences"], start=1):
        show_line(sentence, label=f"{number}. ")
    if details:
        show_table(found.table(), "expected held-out losses in nats, 90 % intervals")
    show_line(f"cost: {found.cost:.1%} of one run, in tokens read", style="dim")
    if written is not None:
        show_line(f"written: {written}")
