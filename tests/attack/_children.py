"""Functions called in child processes, which may be killed, and their outcome."""

from __future__ import annotations

import contextlib
import io
import os
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llm_runs

PRELOADED = (
    "analysis.fernando2024.dossier",
    "analysis.fernando2024.convex.certified_front",
    "analysis.dossier.ledger",
    "analysis.dossier.report",
    "tradeoff.cli",
)
"""Modules that each child of a full attack would otherwise import again."""


@dataclass(frozen=True)
class Ended:
    """End of a process: exit status, returned value, and text of stderr."""

    status: int | None
    value: Any = None
    text: str = ""

    @property
    def hung(self) -> bool:
        return self.status is None


def preload() -> None:
    """Make the fork server import more before its first child; its start then takes longer."""
    common = ["peft", "tradeoff.llm.trainer", "transformers.models.llama.modeling_llama"]
    llm_runs._SERVER.set_forkserver_preload([*common, "accelerate", *PRELOADED])


def call(target: Callable[..., Any], *arguments: Any, seconds: float = 120) -> Ended:
    """Call a function of a module in a child and wait for its end."""
    return finish(begin(target, *arguments), seconds)


def begin(target: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """Start a child; :func:`finish` waits for it."""
    here, there = llm_runs._SERVER.Pipe(duplex=False)
    process = llm_runs.start(_child, there, os.getcwd(), target, arguments)
    there.close()
    return process, here


def finish(child: tuple[Any, Any], seconds: float = 120) -> Ended:
    process, here = child
    value, text = None, ""
    with contextlib.suppress(EOFError, OSError):
        if here.poll(seconds):
            value, text = here.recv()
    process.join(seconds)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    here.close()
    return Ended(status, value, text)


def _child(there: Any, folder: str, target: Callable[..., Any], arguments: Sequence[Any]) -> None:
    os.chdir(folder)
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    status, value, errors = 0, None, io.StringIO()
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            value = target(*arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            status = 1
            traceback.print_exc()
    there.send((value, errors.getvalue()))
    there.close()
    # Skip Python's shutdown, which is not tested here; standard streams were closed on purpose.
    os._exit(status)


def command(arguments: Sequence[str], stamps: Path | None = None) -> None:
    """Run a command of the command line; stamps of figures go to a separate folder."""
    from tradeoff import cli

    if stamps is not None:
        from analysis.dossier import runner

        runner.STAMPS = stamps
    try:
        cli.main(list(arguments))
    except SystemExit as end:
        if end.code:
            raise
