"""The program itself: its commands in the order of its help, and what ends it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import tradeoff
from tradeoff._terminal import flush_streams, prepare_streams, show_line
from tradeoff.cli.advise import advise
from tradeoff.cli.analyse import analyse
from tradeoff.cli.arena import arena
from tradeoff.cli.compare import compare
from tradeoff.cli.convex import front, simulate
from tradeoff.cli.doctor import doctor
from tradeoff.cli.ends import STATUS, Program, leave_at_once
from tradeoff.cli.evaluate import evaluate
from tradeoff.cli.export import export
from tradeoff.cli.forecast import forecast
from tradeoff.cli.paper import claims, figures, report, reproduce
from tradeoff.cli.train import EPILOG, train
from tradeoff.errors import InputError
from tradeoff.extras import explained
from tradeoff.files import refusal

app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="The laboratory for the trade-off between SFT and preference learning.",
)


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


QUESTION, MODELS = "Your data", "Language models"
LABORATORY, PAPER = "The laboratory", "The dossier of a paper"

app.command(rich_help_panel=QUESTION)(advise)
app.command(rich_help_panel=QUESTION)(analyse)
app.command(rich_help_panel=MODELS, epilog=EPILOG)(train)
app.command(rich_help_panel=MODELS)(forecast)
app.command(rich_help_panel=MODELS)(compare)
app.command(rich_help_panel=MODELS)(evaluate)
app.command(rich_help_panel=MODELS)(export)
app.command(rich_help_panel=LABORATORY)(front)
app.command(rich_help_panel=LABORATORY)(simulate)
app.command(rich_help_panel=LABORATORY)(arena)
app.command(rich_help_panel=PAPER)(report)
app.command(rich_help_panel=PAPER)(figures)
app.command(rich_help_panel=PAPER)(claims)
app.command(rich_help_panel=PAPER)(reproduce)
app.command(rich_help_panel="This machine")(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input, or a disk that fails, is one message and exit status 2."""
    prepare_streams()
    warnings.formatwarning = _in_words
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
    except SystemExit as end:
        if end.code == STATUS and arguments is None:
            leave_at_once()
        raise


def _in_words(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as a line for a user, to whom file and line of our code say nothing."""
    return f"warning: {message}\n"


def _fail(message: str) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # of many processes, one speaks
        typer.secho(f"error: {message}", fg="red", err=True)
    sys.exit(2)
