"""The command `tradeoff export`: the model of a run as a folder that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tradeoff.cli_evaluate import _need_language_models
from tradeoff.cli_options import output
from tradeoff.terminal import show_json, show_line

HELP = """\
Write the model of a run, finished, stopped or diverged, to a folder of its own.

The folder is what transformers loads, or peft for adapters. Without `--checkpoint` it is the
trained model, or while there is none the newest checkpoint that is intact.

Examples:

- `tradeoff export runs/alright --out models/alright`

- `tradeoff export runs/alright --checkpoint 200 --out models/alright-200`
"""


def export(
    run: Annotated[str, typer.Argument(help="Output folder of a run, or one of its checkpoints.")],
    out: Annotated[Path, output("Folder to write; absent or empty.")],
    checkpoint: Annotated[
        int | None, typer.Option(help="Updates done at the checkpoint to take.", min=0)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Write the model of a run; see `HELP`."""
    _need_language_models()
    from tradeoff.llm.export import export as write

    folder = write(run, out, checkpoint)
    if as_json:
        show_json({"written": [str(folder)]})
    else:
        show_line(f"written: {folder}")
