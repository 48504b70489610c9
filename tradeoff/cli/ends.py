"""How a command ends early: an error in the words of its options, or Ctrl-C and what is kept."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any

import typer
from typer.core import TyperGroup

from tradeoff._terminal import flush_streams
from tradeoff.errors import InputError

STATUS = 130
"""Exit status of a program that SIGINT ended."""
PATIENCE = 0.5
"""Seconds in which threads may end by themselves after an interruption."""
NOTHING = "nothing was written"
RENAMED = {
    "data.limit": "rows",
    "n_features": "features",
    "max_rows": "rows",
    "sft_rows": "sft",
    "preference_rows": "preference",
    "path": "model",
    "train.lora.rank": "lora_rank",
}
"""Settings whose option has another name."""
_WORDS = "tradeoff words"
_KEPT: ContextVar[str] = ContextVar("kept", default=NOTHING)


def keeps(what: str) -> None:
    """State what is left of the command under way when it is interrupted, as a clause."""
    _KEPT.set(what)


class Program(TyperGroup):
    """The commands; errors name their options, and an interrupted one says what is kept."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words of the call, because an option may have two names."""
        ctx.meta[_WORDS] = {word.partition("=")[0] for word in args}
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is asked for."""
        keeps(NOTHING)
        try:
            return super().invoke(ctx)
        except InputError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            option = _option(command, error, ctx.meta.get(_WORDS, ()))
            raise (error if option is None else error.at(field=option)) from error
        except KeyboardInterrupt:
            typer.secho(f"interrupted; {_KEPT.get()}", err=True)
            raise typer.Exit(STATUS) from None


def _option(command: Any, error: InputError, words: Collection[str]) -> str | None:
    """The option that a setting of this name came from, such as ``--lam`` for ``schedule.lam``.

    Of an option with two names it is the one among the `words` of the call. None for a field of a
    file, or one that is no option of the command.
    """
    if command is None or error.file is not None or error.row is not None or not error.field:
        return None
    name = RENAMED.get(error.field, error.field.rpartition(".")[2].removeprefix("--"))
    for parameter in command.params:
        options = [text for text in parameter.opts if text.startswith("--")]
        known = {parameter.name, *(text[2:].replace("-", "_") for text in options)}
        if options and name.replace("-", "_") in known:
            return next((option for option in options if option in words), str(options[0]))
    return None


def leave_at_once() -> None:
    """End the process, if threads are at work for which Python would wait."""
    late = time.monotonic() + PATIENCE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, late - time.monotonic()))
            if thread.is_alive():
                flush_streams()
                sys.stderr.flush()
                os._exit(STATUS)
