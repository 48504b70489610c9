"""Options that several commands have: how rows are read, and how a model is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

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
    str | None, typer.Option(help="sdpa, eager, flash_attention_2 or flex_attention.")
]
