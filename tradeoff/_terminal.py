"""Output of the command line: tables, lines of text, and JSON for programs.

Texts of users, such as rows, paths and error messages, are printed unchanged: brackets in them are
not markup. Characters that the encoding of the output lacks are escaped and cause no error.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tradeoff.display import cell
from tradeoff.records import plain

if TYPE_CHECKING:
    import pandas as pd

console = Console()
"""Console for our own tables and markup; texts of users are printed by :func:`show_line`."""


def prepare_streams() -> None:
    """Make standard output and error escape characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> None:
    """Flush standard output, so that a failure is reported here and not at the exit.

    Raises
    ------
    OSError
        If standard output cannot be written; later output is then discarded.
    """
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes again at its exit, and would print its own message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def show_line(text: str, *, label: str = "", style: str | None = None) -> None:
    """Print a text unchanged, without markup, highlighting or wrapping.

    Parameters
    ----------
    text
        Any text, also one from a user.
    label
        Text printed before it in bold.
    style
        Style of both, such as ``"yellow"``.
    """
    line = Text.assemble((label, "bold"), text, style=style or "")
    console.print(line, highlight=False, soft_wrap=True)


SIGNS = {"upper": "≤ ", "lower": "≥ ", "exact": "= "}


def show_written(files: Iterable[Path]) -> None:
    """Print which files were written; nothing where none were."""
    if names := [str(file) for file in files]:
        show_line(f"written: {', '.join(names)}")


def show_json(content: Any, *, digits: int = 6) -> None:
    """Print one line of JSON, in ASCII if the encoding of the output is not Unicode."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json.dumps(plain(content, digits), ensure_ascii=not unicode))


_WORD = 16
"""Longest word that a table keeps whole in a narrow terminal."""


def show_table(frame: pd.DataFrame, title: str) -> None:
    """Print a table; numbers have four digits, brackets in texts are not markup.

    A table that is wider than the terminal is not cut: its lines go on in the next ones.
    """
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    for column in frame.columns:
        numeric, head = frame[column].dtype.kind in "fi", str(column).replace("_", " ")
        words = [*head.split(), *(word for value in frame[column] for word in cell(value).split())]
        table.add_column(
            escape(head),
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=max((min(len(word), _WORD) for word in words), default=0),
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(cell(value)) for value in row))
    console.print(table, crop=False)


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Join each column with the column of its errors, named ``± column``; NaN is left out."""
    joined = frame.copy()
    for column in [c for c in frame.columns if f"± {c}" in frame.columns]:
        errors = joined.pop(f"± {column}")
        pairs = zip(frame[column], errors, strict=True)
        joined[column] = [
            f"{value:.4f}" + (f" ± {error:.4f}" if error == error else "") for value, error in pairs
        ]
    return joined


def show_summary(summary: Mapping[str, Any], in_doubt: Collection[str] = ()) -> None:
    """Print names and values, one per line; those `in_doubt` are marked."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in summary.items():
        mark = "  [yellow]in doubt[/]" if name in in_doubt else ""
        table.add_row(escape(name.replace("_", " ")), escape(cell(value)) + mark)
    console.print(table)


def show_claims(verdicts: pd.DataFrame, summary: str, *, long: bool = False) -> None:
    """Print the verdicts of the claims, one line each, and a summary line.

    Parameters
    ----------
    verdicts
        One row a claim.
    summary
        Printed below.
    long
        Print whole statements, over as many lines as they need, with kind and source.
    """
    if long:
        _show_whole_claims(verdicts)
    else:
        _show_short_claims(verdicts)
    console.print(escape(summary))


def _bound(row: Mapping[Any, Any]) -> str:
    return SIGNS[row["relation"]] + cell(row["bound"])


def _show_short_claims(verdicts: pd.DataFrame) -> None:
    """Verdict, id, numbers and as much of the statement as the terminal has room for."""
    rows = [
        ("holds" if row["holds"] else "FAILS", row["id"], cell(row["measured"]), _bound(row))
        for row in verdicts.to_dict("records")
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = zip(rows, verdicts["statement"], verdicts["holds"], strict=True)
    for (verdict, name, measured, bound), statement, holds in shown:
        line = Text.assemble(
            (verdict.ljust(widths[0]), "green" if holds else "bold red"),
            f"  {name.ljust(widths[1])}  {measured.rjust(widths[2])}  {bound.ljust(widths[3])}"
            f"  {statement}",
        )
        if console.is_terminal:
            line.truncate(console.width, overflow="ellipsis")
        console.print(line, highlight=False, soft_wrap=True)


def _show_whole_claims(verdicts: pd.DataFrame) -> None:
    table = Table(title="claims", title_justify="left", box=None, pad_edge=False)
    table.add_column("verdict")
    table.add_column("id", overflow="fold")
    table.add_column("kind")
    for column in ("measured", "bound"):
        table.add_column(column, justify="right")
    table.add_column("claim", overflow="fold")
    table.add_column("source", overflow="fold", style="dim")
    for row in verdicts.to_dict("records"):
        verdict = "[green]holds[/]" if row["holds"] else "[bold red]FAILS[/]"
        texts = [escape(row[name]) for name in ("id", "kind", "statement", "source")]
        numbers = [cell(row["measured"]), _bound(row)]
        table.add_row(verdict, *texts[:2], *numbers, *texts[2:])
    console.print(table)


def show_mutations(found: pd.DataFrame) -> None:
    """Print whether each mutation breaks its claim, and how many do."""
    table = Table(title="mutations", title_justify="left", box=None, pad_edge=False)
    for column in ("claim is", "claim", "mutation"):
        table.add_column(column, overflow="fold")
    for column in ("measured", "needed", "seconds"):
        table.add_column(column, justify="right")
    for row in found.to_dict("records"):
        verdict = "[green]broken[/]" if row["broken"] else "[bold red]NOT BROKEN[/]"
        numbers = (cell(row["measured"]), _bound(row), f"{row['seconds']:.1f}")
        table.add_row(verdict, escape(row["id"]), escape(row["mutation"]), *numbers)
    console.print(table)
    console.print(f"{int(found.broken.sum())} of {len(found)} mutations break their claim")


def show_findings(record: Mapping[str, Any]) -> None:
    """Print the findings of `tradeoff.doctor`, part by part, and the verdicts."""
    signs = {True: "[green]✓[/]", False: "[bold red]✗[/]", None: " "}
    table = Table(box=None, show_header=False, pad_edge=False)
    for column in ("part", "sign", "name", "value"):
        table.add_column(column, overflow="fold", style="dim" if column == "part" else None)
    before = None
    for row in record["findings"]:
        part = "" if row["part"] == before else row["part"]
        before, remedy = row["part"], f"\n→ {row['remedy']}" if row["remedy"] else ""
        table.add_row(part, signs[row["ok"]], escape(row["name"]), escape(row["value"] + remedy))
    console.print(table)
    console.print(f"this machine: {'healthy' if record['ok'] else 'needs attention, see ✗'}")
    console.print(f"a run on a GPU: {'will work' if record['gpu'] else 'will not work'}")
