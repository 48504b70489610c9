"""Tables as Markdown and as LaTeX, and the table of claims; each cell is text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tradeoff.display import cell
from tradeoff.records import replacing

CLAIMS = "claims"
"""Name of the table of claims, which every dossier has."""
CLAIMS_TITLE = "The ledger of claims; measured and bound are those of the tightest case."
SIGNS = {"upper": "≤", "lower": "≥", "exact": "="}
PACKAGES = "written by `tradeoff reproduce --pdf`; needs booktabs, graphicx, longtable and array"
LATEX = {"→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$", "±": r"$\pm$", "λ": r"$\lambda$",
         "β": r"$\beta$", "–": "--", "−": "$-$", "×": r"$\times$", "…": r"\dots{}"}  # fmt: skip
"""Characters that pdfTeX cannot read, with their replacements."""


def claims(ledger: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The ledger with its verdicts."""
    rows = [
        {
            "verdict": "holds" if claim["holds"] else "fails",
            "claim": claim["statement"],
            "id": claim["id"],
            "over": claim["over"],
            "kind": claim["kind"],
            "reads": claim["reads"],
            "measured": cell(float(claim["measured"])),
            "bound": f"{SIGNS[claim['relation']]} {cell(float(claim['bound']))}",
            "cases": str(claim["cases"]),
            "mutations that break it": ", ".join(claim["mutations"]),
            "source": claim["source"],
        }
        for claim in ledger
    ]
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Format a table for a Markdown page; the first column is text, the others are numbers."""
    heads = ["---"] + ["---:"] * (len(table.columns) - 1)
    lines = [list(table.columns), heads, *table.to_numpy().tolist()]
    # A vertical bar in a text would end its cell.
    rows = [[text.replace("|", r"\|") for text in line] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latex(table: pd.DataFrame, name: str, title: str) -> str:
    """Format a table for a paper in LaTeX with booktabs, as wide as a column of text.

    It needs the packages booktabs and graphicx. The table of claims breaks across pages, and also
    needs longtable and array.
    """
    form = _long if "claim" in table.columns else _short
    return f"% {PACKAGES}\n{form(table, name, title)}"


def _short(table: pd.DataFrame, name: str, title: str) -> str:
    heads = {column: _stacked(column) for column in table.columns}
    text = table.map(_tex).rename(columns=heads).style.hide(axis="index").to_latex(
        column_format="l" + "r" * (len(table.columns) - 1),
        hrules=True,
        position="tb",
        position_float="centering",
        label=f"tab:{name}",
        caption=_tex(title),
    )  # fmt: skip
    # Scaled to the width of the text in any document class.
    text = text.replace(r"\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}")
    return text.replace(r"\end{tabular}", "\\end{tabular}}")


def _long(table: pd.DataFrame, name: str, title: str) -> str:
    shown = table[["verdict", "claim", "kind", "measured", "bound", "source"]].map(_tex)
    entries = table[["claim", "over", "id"]].map(_tex).itertuples(index=False)
    shown["claim"] = [f"{text} Over: {over} ({name})." for text, over, name in entries]
    ragged = r">{\raggedright\arraybackslash}"
    text = shown.style.hide(axis="index").to_latex(
        column_format=rf"l{ragged}p{{.38\linewidth}}lll{ragged}p{{.16\linewidth}}",
        hrules=True,
        environment="longtable",
        label=f"tab:{name}",
        caption=_tex(title),
    )
    return "{\\footnotesize\\setlength{\\tabcolsep}{3pt}\n" + text + "}\n"


def _stacked(head: str) -> str:
    """A heading in two lines where it has two parts."""
    lines = [_tex(part) for part in head.replace(" (", ", (").split(", ")]
    return lines[0] if len(lines) == 1 else r"\shortstack[r]{" + r"\\".join(lines) + "}"


def write_latex(
    tables: Mapping[str, pd.DataFrame], folder: Path, titles: Mapping[str, str]
) -> list[Path]:
    """Write ``NAME.tex`` for every table, with its title as caption, and return the paths."""
    titles = {CLAIMS: CLAIMS_TITLE, **titles}
    paths = [folder / f"{name}.tex" for name in tables]
    for path, (name, table) in zip(paths, tables.items(), strict=True):
        with replacing(path) as partial:
            partial.write_text(latex(table, name, titles[name]), "utf-8")
    return paths


def _tex(text: str) -> str:
    """Escape a text for LaTeX; greater and less signs would print as other characters."""
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    marks |= {mark: f"\\{mark}" for mark in "&%$#_{}"} | {"<": "$<$", ">": "$>$"}
    return "".join((marks | LATEX).get(letter, letter) for letter in text)
