"""What a terminal sees: tables that fit, and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tradeoff.display import cell
from tradeoff.records import plain

if TYPE_CHECKING:
    import pandas as pd

console = Console()


def show_json(content: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(plain(content), ensure_ascii=False))


def show_table(frame: pd.DataFrame, title: str) -> None:
    """Print a table; numbers to four digits, brackets in texts as they are."""
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "fi"
        table.add_column(
            escape(str(column).replace("_", " ")),
            justify="right" if numeric else "left",
            overflow="fold",
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(cell(value)) for value in row))
    console.print(table)


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Join each column with the column of its errors, named ``± column``, to save width."""
    joined = frame.copy()
    for column in [c for c in frame.columns if f"± {c}" in frame.columns]:
        errors = joined.pop(f"± {column}")
        pairs = zip(frame[column], errors, strict=True)
        joined[column] = [f"{value:.4f} ± {error:.4f}" for value, error in pairs]
    return joined


def show_summary(summary: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in summary.items():
        table.add_row(escape(name.replace("_", " ")), escape(cell(value)))
    console.print(table)


def show_claims(verdicts: pd.DataFrame) -> None:
    """Print the ledger of claims."""
    table = Table(title="claims", title_justify="left", box=None, pad_edge=False)
    table.add_column("verdict")
    table.add_column("claim", overflow="fold")
    table.add_column("measured", justify="right")
    table.add_column("bound", justify="right")
    table.add_column("source", overflow="fold", style="dim")
    signs = {"upper": "≤ ", "lower": "≥ ", "exact": "= "}
    for row in verdicts.to_dict("records"):
        verdict = "[green]holds[/]" if row["holds"] else "[bold red]FAILS[/]"
        bound = signs[row["relation"]] + cell(row["bound"])
        statement, source = escape(row["statement"]), escape(row["source"])
        table.add_row(verdict, statement, cell(row["measured"]), bound, source)
    console.print(table)
    console.print(f"{int(verdicts.holds.sum())} of {len(verdicts)} claims hold")


def show_findings(record: Mapping[str, Any]) -> None:
    """Print what `tradeoff.doctor` found, part by part, and the verdict."""
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
