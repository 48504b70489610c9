"""Write what a reader opens: the dossier, the report page and the project's README.

The sentences stand in ``analysis/templates``; every number comes from ``results/`` of the folder.
"""

from __future__ import annotations

import importlib
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import cells, ledger, page, paper_numbers, paper_spread, stored_results, tables
from analysis.captions import caption
from analysis.runner import FIGURES, PAPER, STUDIES, stored
from analysis.stored_results import Fields, fitting
from tradeoff.checkout import ROOT
from tradeoff.display import cell
from tradeoff.errors import InputError
from tradeoff.records import replacing

TEMPLATES = page.TEMPLATES
OPENING = 2
"""Sentences at the beginning of a caption that make a setting, if another has the same."""


def write(folder: Path = PAPER) -> list[Path]:
    """Render every page from the stored results of ``folder``; returns the pages."""
    page.require()
    content = context(folder)
    pages = {
        folder / "README.md": render("dossier.md.j2", content),
        folder / "report.html": render_page(content),
    }
    if folder.resolve() == PAPER.resolve():
        pages[ROOT / "README.md"] = render("readme.md.j2", content)
    for path, text in pages.items():
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
    return [path for path in pages if path.suffix == ".html"]


def render_page(content: dict[str, Any]) -> str:
    """The report page, whole."""
    with fitting("the page"):
        more = page.extras(content, render)
    return render("report.html.j2", content | more)


def write_tables(folder: Path = PAPER) -> list[Path]:
    """Write the dossier's tables as LaTeX to ``folder/tables``; returns the files."""
    return tables.write_latex(context(folder)["tables"], folder / "tables")


def render(template: str, content: dict[str, Any]) -> str:
    """Fill one template; a name that the results lack is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: cell(float(value))
    environment.filters["interval"] = cells.interval
    environment.filters["percent"] = lambda value: f"{100 * float(value):.0f} %"
    environment.filters["markdown"] = tables.markdown
    environment.filters["capitalised"] = lambda text: text[:1].upper() + text[1:]
    with fitting(f"the page, in {template}"):
        return environment.get_template(template).render(content)


def context(folder: Path) -> dict[str, Any]:
    """Numbers, captions, tables and claims as the templates see them."""
    # A study that was never run in full has nothing to show yet.
    ready = [name for name in STUDIES if stored(name, folder).exists()]
    paths = {name: stored(name, folder) for name in (*FIGURES, *ready)}
    records = {name: _record(name, path) for name, path in paths.items()}
    results = {name: record["numbers"] for name, record in records.items()}
    verdicts = ledger.verdicts(folder / "results" / "claims.json")
    paper = paper_numbers.reported()
    return {
        "results": results,
        "figures": shortened([_figure(name, records[name], path) for name, path in paths.items()]),
        "tables": _tables(results, verdicts),
        "claims": [{**claim, "sign": tables.SIGNS[claim["relation"]]} for claim in verdicts],
        "ledger": ledger.summary(verdicts),
        "kinds": ledger.KINDS,
        "paper": paper,
        "spread": _spread(paper),
        "seconds": sum(records[name]["provenance"]["seconds"] for name in FIGURES),
        "example": example(),
    }


def _spread(paper: Fields) -> dict[str, Any]:
    with fitting("what the dossier says of the paper's table"):
        return paper_spread.summary(paper["llama"])


def _tables(results: dict[str, Any], verdicts: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    with fitting("a table"):
        return tables.all_tables(results, verdicts)


def shortened(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures, with a setting that many captions begin with said in the first of them only."""
    found: list[dict[str, Any]] = []
    for figure in figures:
        sentences = figure["caption"].split(". ")
        for earlier in figures[: len(found)]:
            pairs = zip(sentences, earlier["caption"].split(". "), strict=False)
            shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            if shared >= OPENING:
                rest = ". ".join(sentences[shared:])
                figure = figure | {"caption": f"Setting as in {earlier['name']}. {rest}"}
                break
        found.append(figure)
    return found


def example() -> str:
    """The README's example, which runs as a test."""
    return (TEMPLATES / "example.py").read_text("utf-8").rstrip()


def _record(name: str, path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(
            "a figure of the report has no stored result",
            file=path,
            value=name,
            remedy=f"Run it: tradeoff figures {name}.",
        )
    return dict(stored_results.read(path))


def _figure(name: str, record: dict[str, Any], path: Path) -> dict[str, Any]:
    module = importlib.import_module(f"analysis.{name}")
    return {
        "name": name,
        "title": (module.__doc__ or "").split("\n")[0].rstrip("."),
        "caption": caption(module, record["numbers"]),
        "study": name in STUDIES,
        "folder": path.parents[1] / "figures",
        **record["provenance"],
    }
