"""The command `tradeoff export`: the model of a run as a folder that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tradeoff._terminal import show_json, show_line, show_written
from tradeoff.cli.options import JsonText, output
from tradeoff.extras import require


def export(
    run: Annotated[str, typer.Argument(help="Output folder of a run, or one of its checkpoints.")],
    out: Annotated[Path, output("Folder to write; absent or empty.")],
    checkpoint: Annotated[
        int | None, typer.Option(help="Updates done at the checkpoint to take.", min=0)
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Merge adapters into the weights.")
    ] = False,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Of the weights; bf16 rounds, at half the size.")
    ] = "fp32",
    repository: Annotated[
        str | None, typer.Option(help="Name on the hub for the upload command that is printed.")
    ] = None,
    as_json: JsonText = False,
) -> None:
    """Write the model of a run, finished, stopped or diverged, to a folder of its own.

    The folder is what transformers loads, or peft for adapters. Without `--checkpoint` it is the
    trained model, or while there is none the newest checkpoint that is intact. `README.md` in it is
    a model card: base, data, method, held-out losses, and how to repeat the run with `run.toml`.

    `--repository owner/name` prints the command that uploads the folder; nothing is uploaded here.
    Adapters on a model that others do not have are best written with `--merged`.

    Examples:

    - `tradeoff export runs/alright --out models/alright`

    - `tradeoff export runs/alright --checkpoint 200 --out models/alright-200`

    - `tradeoff export runs/lora --merged --out models/merged --repository me/merged`
    """
    require("llm")
    from tradeoff.llm.card import local_base, upload_command
    from tradeoff.llm.export import export as write

    command = None if repository is None else upload_command(out, repository)
    folder = write(run, out, checkpoint, merged=merged, precision=precision)
    remarks = []
    if command is not None and (base := local_base(folder)) is not None:
        remarks = [
            f"the adapters name {base} as their base, a folder of this machine: others can load "
            "them only if they are written with --merged"
        ]
    if as_json:
        upload = {} if command is None else {"upload": command, "remarks": remarks}
        show_json({"written": [str(folder)], **upload})
        return
    show_written([folder])
    for line in remarks:
        show_line(line, style="yellow")
    if command is not None:
        show_line(f"to upload it: {command}")
