"""The dossier's tables: one frame of texts each, shown in Markdown and on the page, and as LaTeX.

What the paper reports is read from ``paper_numbers.toml``; what is ours, from stored results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import paper_tables
from analysis.cells import MISSING, interval
from analysis.methods import METHODS
from analysis.paper_numbers import reported
from analysis.paper_tables import HALF
from tradeoff import scores
from tradeoff.display import cell
from tradeoff.records import replacing

TITLES = {
    "headline": "Every method at lambda = 1/2: scores of the convex laboratory (losses in units of "
    "the front's ranges) and of the tiny language model (held out); means and 95 % half-widths.",
    "pythia": "The paper's Pythia-1B at lambda = 1/2, beside the convex laboratory.",
    "resources": "Time and memory of an update beyond sequential training's: the paper's Pythia-1B "
    "(at lambda = 1/2, and over its five lambdas), and our two small models on one processor.",
    "llama": "The paper's Llama-3-8B, beside the tiny language model, at lambda = .25 / .5 / .75.",
    "spread": "Differences of the paper's Llama-3-8B table in points, with 95 % half-widths from "
    "the number of questions and prompts alone; * significant after Holm's correction.",
    "end_points": "ALRIGHT's end points (SFT loss, preference loss) in the official scripts.",
    "real_text": "A small Llama trained on real rows, in the layout of the paper's table: means "
    "and 95 % half-widths over seeds, held out.",
    "costs": "Time and memory of training with random weights and adapters: medians over rounds, "
    "means and 95 % half-widths of ratios; TRL on the same rows.",
    "claims": "The ledger of claims; measured and bound are those of the tightest case.",
}
SIGNS = {"upper": "≤", "lower": "≥", "exact": "="}
PACKAGES = "written by `tradeoff reproduce --pdf`; needs booktabs, graphicx, longtable and array"
LATEX = {"→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$", "±": r"$\pm$", "λ": r"$\lambda$",
         "β": r"$\beta$", "–": "--", "−": "$-$", "×": r"$\times$", "…": r"\dots{}"}  # fmt: skip
"""What pdfTeX cannot read as it stands."""
Results = Mapping[str, Any]


def all_tables(results: Results, ledger: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Every table by name; each cell is text."""
    paper = reported()
    return {
        "headline": headline(results),
        "pythia": paper_tables.pythia(results, paper["pythia"]["methods"]),
        "resources": paper_tables.resources(results, paper["pythia"]),
        "llama": paper_tables.llama(results, paper["llama"]),
        "spread": paper_tables.spread(paper["llama"]),
        "end_points": paper_tables.end_points(paper),
        "real_text": real_text(results),
        "costs": costs(results),
        "claims": claims(ledger),
    }


def headline(results: Results) -> pd.DataFrame:
    """Every method at lambda = 1/2: the convex laboratory's scores, the language model's."""
    convex, network = results["loss_space"], results["lm_loss_space"]["methods"]
    half = results["lm_loss_space"]["lambdas"].index(0.5)
    scores = {"regret": "regret", "front gap": "front_gap", "matched weight": "matched_weight"}
    trained = {"weighted loss": "weighted_loss", "exact match": "exact_match",
               "preferred style": "preference_match"}  # fmt: skip
    trained = {f"{name} (language model)": key for name, key in trained.items()}
    rows = [
        {"method": method}
        | {name: interval(convex[method][key], HALF) for name, key in scores.items()}
        | {name: interval(network[method][key], half) for name, key in trained.items()}
        for method in METHODS
    ]
    return pd.DataFrame(rows)


def real_text(results: Results) -> pd.DataFrame:
    """The paper's table, of a small model on real rows: skill and taste by lambda."""
    found = results["llm_table"]
    names = {"SFT progress kept": "sft_retention", "pairs preferred": "preference_accuracy"}
    rows = []
    for method, values in found["table"].items():
        row = {"method": method}
        for name, key in names.items():
            for lam, kept in zip(found["lambdas"], values[key], strict=True):
                row[f"{name}, λ = {lam:g} (%)"] = interval(kept)
        rows.append(row)
    return pd.DataFrame(rows)


def costs(results: Results) -> pd.DataFrame:
    """Time of a gradient and peak memory on each device and shape that was measured."""
    rows = []
    for device, found in results["llm_resources"]["devices"].items():
        for shape, methods in found["shapes"].items():
            for method, run in methods.items():
                name = {"device": device, "shape": shape, "method": method}
                if run is None:
                    rows.append(name | {"ms per gradient": "out of memory"})
                    continue
                rows.append(
                    name
                    | {
                        "ms per gradient": f"{1e3 * _middle(run['seconds']):.0f}",
                        "tokens per second": f"{_middle(run['tokens_per_second']):,.0f}",
                        "time, to Sequential": within(run["seconds_ratio"]),
                        "memory, to Sequential": f"{_middle(run['memory_ratio']):.2f}",
                    }
                )
    return pd.DataFrame(rows).fillna(MISSING)


def _middle(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def within(values: list[float]) -> str:
    """Mean and half-width of the 95 % t-interval; the mean alone where there is one value."""
    found = scores.interval(values)
    half = float(found.high - found.mean)
    mean = float(found.mean)
    return interval({"mean": mean, "half_width": half}) if half > 0 else f"{mean:.2f}"


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


# ---------------------------------------------------------------------- forms


def markdown(table: pd.DataFrame) -> str:
    """A table for a Markdown page; the first column is text, the others are numbers."""
    heads = ["---"] + ["---:"] * (len(table.columns) - 1)
    lines = [list(table.columns), heads, *table.to_numpy().tolist()]
    # A bar in a text would end its cell.
    rows = [[text.replace("|", r"\|") for text in line] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latex(table: pd.DataFrame, name: str) -> str:
    """A table for a paper, in booktabs, as wide as a column of text.

    It needs the packages booktabs and graphicx and, for the claims, which break across pages,
    longtable and array.
    """
    form = _long if "claim" in table.columns else _short
    return f"% {PACKAGES}\n{form(table, name)}"


def _short(table: pd.DataFrame, name: str) -> str:
    heads = {column: _stacked(column) for column in table.columns}
    text = table.map(_tex).rename(columns=heads).style.hide(axis="index").to_latex(
        column_format="l" + "r" * (len(table.columns) - 1),
        hrules=True,
        position="tb",
        position_float="centering",
        label=f"tab:{name}",
        caption=_tex(TITLES[name]),
    )  # fmt: skip
    # Scaled to the width of the text, whatever class the paper uses.
    text = text.replace(r"\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}")
    return text.replace(r"\end{tabular}", "\\end{tabular}}")


def _long(table: pd.DataFrame, name: str) -> str:
    shown = table[["verdict", "claim", "kind", "measured", "bound", "source"]].map(_tex)
    entries = table[["claim", "over", "id"]].map(_tex).itertuples(index=False)
    shown["claim"] = [f"{text} Over: {over} ({name})." for text, over, name in entries]
    ragged = r">{\raggedright\arraybackslash}"
    text = shown.style.hide(axis="index").to_latex(
        column_format=rf"l{ragged}p{{.38\linewidth}}lll{ragged}p{{.16\linewidth}}",
        hrules=True,
        environment="longtable",
        label=f"tab:{name}",
        caption=_tex(TITLES[name]),
    )
    return "{\\footnotesize\\setlength{\\tabcolsep}{3pt}\n" + text + "}\n"


def _stacked(head: str) -> str:
    """A heading in two lines where it has two parts."""
    lines = [_tex(part) for part in head.replace(" (", ", (").split(", ")]
    return lines[0] if len(lines) == 1 else r"\shortstack[r]{" + r"\\".join(lines) + "}"


def write_latex(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write ``NAME.tex`` for every table; returns the paths."""
    paths = [folder / f"{name}.tex" for name in tables]
    for path, (name, table) in zip(paths, tables.items(), strict=True):
        with replacing(path) as partial:
            partial.write_text(latex(table, name), "utf-8")
    return paths


def _tex(text: str) -> str:
    """Escape a text for LaTeX; greater and less signs would print as other characters."""
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    marks |= {mark: f"\\{mark}" for mark in "&%$#_{}"} | {"<": "$<$", ">": "$>$"}
    return "".join((marks | LATEX).get(letter, letter) for letter in text)
