"""The command `doctor`: versions, devices, folders, and rows with a model."""

from __future__ import annotations

from typing import Annotated

import typer

from tradeoff._terminal import show_findings, show_json
from tradeoff.cli.options import Json
from tradeoff.errors import InputError
from tradeoff.extras import require


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
