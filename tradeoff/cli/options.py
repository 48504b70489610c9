"""Options that several commands have: how rows are read, how a model is loaded, what is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from tradeoff.files import check_writable
from tradeoff.settings import fit


def check_arguments(function: Callable[..., Any], **given: Any) -> None:
    """Check arguments against a function's annotations without calling it, before any work.

    Raises
    ------
    InputError
        For the first argument that does not fit.
    """
    kinds = get_type_hints(inspect.unwrap(function), include_extras=True)
    for name, value in given.items():
        fit(kinds[name], value, name)


def output(text: str) -> Any:
    """Option that names a folder to write, which is tried before anything is computed."""
    return typer.Option(
        help=text,
        file_okay=False,
        callback=lambda folder: None if folder is None else check_writable(folder, field="out"),
    )


Out = Annotated[Path | None, output("Folder for what is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
JsonText = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
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
METHODS_HELP = (
    "sft-dpo, dpo-sft, rounds, mix, alright, maxright or constrained; another part such as simpo, "
    "pcgrad or ema; several joined by +; or package.module:Name. All schedules by default."
)
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Drop and list bad rows.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME=COLUMN",
        help="Column to read, such as completion=answer or sft.prompt=question; repeatable.",
    ),
]
UseLabels = Annotated[
    bool, typer.Option("--use-labels", help="Use rows with a label: desired ones, or paired.")
]
MinMargin = Annotated[
    float | None,
    typer.Option(help="Leave out pairs whose chosen response is not scored so much higher."),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--plain",
        help="Put plain rows and questions through the chat template; or say that plain is meant.",
    ),
]
ChatTemplate = Annotated[
    str | None, typer.Option(help="File with a chat template for the model's own.")
]
EosToken = Annotated[
    str | None, typer.Option(help="Token that ends responses, for the tokenizer's own.")
]
Attention = Annotated[
    str | None, typer.Option(help="sdpa, eager, varlen, flash_attention_2 or flex_attention.")
]
