"""The command `tradeoff forecast`: what a training will do, from a twentieth of its cost."""

from __future__ import annotations

import time
import warnings
from typing import Annotated

import typer

from tradeoff._terminal import show_json, show_line, show_table, show_written
from tradeoff.cli.options import JsonText, Out
from tradeoff.cli.run_options import Given, with_settings
from tradeoff.errors import InputError, RowWarning
from tradeoff.extras import require
from tradeoff.records import write_json


@with_settings("method", "schedule", "from_trl")
def forecast(
    given: Given,
    details: Annotated[
        bool, typer.Option("--details", help="Also print every number with its interval.")
    ] = False,
    out: Out = None,
    as_json: JsonText = False,
) -> None:
    """What will a training do to both objectives? Front, forgetting, best weight, with intervals.

    Takes the settings of `tradeoff train` and measures the model on a sample of the rows, for less
    than a twentieth of the cost of one run, if it has some hundred updates. Says "cannot tell"
    where its intervals do not tell, and how far such forecasts may be trusted: the
    evaluation is stored with the package.

    Examples:

    - `tradeoff forecast --model tiny --sft skills.jsonl --preference taste.jsonl.gz`

    - `tradeoff forecast run.toml --steps 500 --json`
    """
    require("llm")
    from tradeoff import experiment
    from tradeoff.forecast import CANDIDATES, calibration
    from tradeoff.forecast.forecast import forecast as made
    from tradeoff.forecast.lab import Effort, Lab
    from tradeoff.forecast.llm import replaced, subject
    from tradeoff.forecast.sentences import failed
    from tradeoff.llm import gguf

    known = calibration.stored()
    if known is None:
        raise InputError(
            "this installation has no calibration",
            file=calibration.STORED,
            remedy="Run `python -m analysis.fernando2024.forecast.calibrate` in a checkout.",
        )
    settings = given.settings()
    rows = experiment.read_rows(settings)
    sizes = len(rows["sft"]), len(rows["preference"])
    effort = Effort.of(settings.train.updates(*sizes), settings.train.batch_size)
    if not as_json:
        runs = any("short runs" in CANDIDATES[name].uses for name in known.fitted.variants)
        also = f", and two runs of {effort.probe_updates} updates" if runs else ""
        most = max(sizes)
        features, gradients = min(effort.features, most), min(effort.gradients, most)
        show_line(
            f"measuring {features:,} rows of each set, gradients of {gradients:,}: about "
            f"{100 * effort.share(features, gradients):.2g} % of one run of {effort.updates:,} "
            f"updates{also}"
        )
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RowWarning)  # printed below, with the remarks on the rows
        measured = subject(settings, rows, effort, progress=not as_json)
    data = measured.trainer.data
    said, lost = experiment.told(rows, data, settings.train.turns), experiment.lost(data.summary())
    said["remarks"] += [*gguf.caution(settings.model.path), *replaced(settings)]
    if settings.model.path != "tiny":
        said["remarks"] += failed(known.about)
        known = known.elsewhere()
    if not as_json:
        for line in experiment.in_lines(said, lost, " in the sample"):
            show_line(line, style="yellow")
    lab = Lab(measured, effort, settings.train.seed)
    found = made(lab, known)
    seconds = time.process_time() - began
    record = {**found.record(), **said, "lost_in_sample": lost, "cpu_seconds": seconds}
    written = [] if out is None else [write_json(out / "forecast.json", record)]
    if as_json:
        show_json({**record, "written": written})
        return
    for number, sentence in enumerate(record["sentences"], start=1):
        show_line(sentence, label=f"{number}. ")
    if details:
        show_table(found.table(), "expected held-out losses in nats, 90 % intervals")
    show_line(f"cost: {100 * found.cost:.1f} % of one run, in tokens read", style="dim")
    show_written(written)
