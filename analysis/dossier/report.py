"""Rendering of the dossier, the report page and further pages of a paper.

Sentences are in the paper's ``templates``; numbers come from ``results/`` of the folder.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined

from analysis.dossier import cells, ledger, page, stored_results, tables
from analysis.dossier.captions import caption
from analysis.dossier.declaration import Dossier
from analysis.dossier.stored_results import fitting
from tradeoff.checkout import ROOT
from tradeoff.display import cell
from tradeoff.errors import InputError
from tradeoff.records import replacing

DOSSIER, PAGE = ("dossier.md.j2", "base.md.j2"), ("report.html.j2", "base.html.j2")
"""Templates of the two pages of every paper: the paper's own, or the base template."""
OPENING = 2
"""Number of equal first sentences from which two captions share a setting."""


def write(dossier: Dossier, folder: Path | None = None) -> list[Path]:
    """Render every page from the stored results of a folder, and return the pages for a browser."""
    page.require()
    folder = folder or dossier.folder
    content = context(dossier, folder)
    pages = {
        folder / "README.md": render(dossier, DOSSIER, content),
        folder / "report.html": render_page(dossier, content),
    }
    if folder.resolve() == dossier.folder.resolve():
        pages |= {
            path: render(dossier, (template,), content) for path, template in dossier.pages.items()
        }
    for path, text in pages.items():
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
    return [path for path in pages if path.suffix == ".html"]


def write_page(dossier: Dossier, folder: Path | None = None) -> Path:
    """Write the report page to a folder, from what is stored of the dossier; returns the file."""
    page.require()
    path = (folder or dossier.folder) / "report.html"
    text = render_page(dossier, context(dossier, dossier.folder))
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
    return path


def render_page(dossier: Dossier, content: dict[str, Any]) -> str:
    """Render the report page."""
    with fitting("the page"):
        more = page.extras(dossier, content, lambda name, values: render(dossier, (name,), values))
    return render(dossier, PAGE, content | more)


def write_tables(dossier: Dossier, folder: Path | None = None) -> list[Path]:
    """Write the dossier's tables as LaTeX to ``folder/tables``, and return the files."""
    folder = folder or dossier.folder
    found = context(dossier, folder)["tables"]
    return tables.write_latex(found, folder / "tables", dossier.titles)


def render(dossier: Dossier, templates: tuple[str, ...], content: dict[str, Any]) -> str:
    """Fill the first template that exists; a name that is missing in the results is an error."""
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(p) for p in (dossier.templates, page.TEMPLATES)]),
        undefined=StrictUndefined,
        autoescape=templates[0].endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: cell(float(value))
    environment.filters["interval"] = cells.interval
    environment.filters["percent"] = lambda value: f"{100 * float(value):.0f} %"
    environment.filters["markdown"] = tables.markdown
    environment.globals["place"] = cells.place
    environment.filters["slug"] = page.slug
    environment.filters["capitalised"] = lambda text: text[:1].upper() + text[1:]
    with fitting(f"the page, in {templates[0]}"):
        return environment.select_template(templates).render(content)


def context(dossier: Dossier, folder: Path) -> dict[str, Any]:
    """Variables of the templates: numbers, captions, tables and claims."""
    # A study that was never run in full has no result yet.
    ready = [name for name in dossier.studies if dossier.stored(name, folder).exists()]
    paths = {name: dossier.stored(name, folder) for name in (*dossier.figures, *ready)}
    records = {name: _record(name, path) for name, path in paths.items()}
    results = {name: record["numbers"] for name, record in records.items()}
    verdicts = ledger.verdicts(folder / "results" / "claims.json")
    figures = [_figure(dossier, name, records[name], path) for name, path in paths.items()]
    found = {
        "title": dossier.title,
        "contents": dossier.sections,
        "opening": dossier.opening,
        "results": results,
        "figures": shortened(figures),
        "tables": _tables(dossier, results, verdicts),
        "claims": [{**claim, "sign": tables.SIGNS[claim["relation"]]} for claim in verdicts],
        "ledger": ledger.summary(verdicts),
        "kinds": ledger.KINDS,
        "seconds": sum(records[name]["provenance"]["seconds"] for name in dossier.figures),
    }
    return {**found, **dossier.content(results)}


def _tables(
    dossier: Dossier, results: dict[str, Any], verdicts: list[dict[str, Any]]
) -> dict[str, pd.DataFrame]:
    with fitting("a table"):
        return {**dossier.tables(results), tables.CLAIMS: tables.claims(verdicts)}


def shortened(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shorten captions: a setting that several share is given only in the first of them."""
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


def _record(name: str, path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(
            "a figure of the report has no stored result",
            file=path,
            value=name,
            remedy=f"Run it: tradeoff figures {name}.",
        )
    return dict(stored_results.read(path))


def _figure(dossier: Dossier, name: str, record: dict[str, Any], path: Path) -> dict[str, Any]:
    module = dossier.module(name)
    source = dossier.source(name)
    return {
        "name": name,
        "title": dossier.asks(name).rstrip("."),
        "caption": caption(module, record["numbers"]),
        "chapter": dossier.chapter(name),
        "study": name in dossier.studies,
        "source": str(source.relative_to(ROOT) if source.is_relative_to(ROOT) else source),
        "folder": path.parents[1] / "figures",
        **record["provenance"],
    }
