"""Write what a reader opens: the dossier, the report page and the project's README.

The sentences stand in ``analysis/templates``; every number comes from ``results/`` of the folder.
"""

from __future__ import annotations

import base64
import importlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.runner import FIGURES, PAPER, STUDIES, stored
from tradeoff.checkout import ROOT
from tradeoff.display import cell
from tradeoff.records import read_json, replacing

TEMPLATES = Path(__file__).parent / "templates"
SIGNS = {"upper": "≤", "lower": "≥", "exact": "="}


def write(folder: Path = PAPER) -> list[Path]:
    """Render every page from the stored results of ``folder``; returns the pages."""
    content = context(folder)
    pages = {
        folder / "README.md": "dossier.md.j2",
        folder / "report.html": "report.html.j2",
    }
    if folder.resolve() == PAPER.resolve():
        pages[ROOT / "README.md"] = "readme.md.j2"
    for path, template in pages.items():
        with replacing(path) as partial:
            partial.write_text(render(template, content), "utf-8")
    return [path for path in pages if path.suffix == ".html"]


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
    environment.filters["percent"] = lambda value: f"{100 * float(value):.0f} %"
    return environment.get_template(template).render(content)


def context(folder: Path) -> dict[str, Any]:
    """Numbers, captions and claims as the templates see them."""
    paths = {name: stored(name, folder) for name in FIGURES + STUDIES}
    records = {name: read_json(path) for name, path in paths.items()}
    ledger = read_json(folder / "results" / "claims.json")["claims"]
    return {
        "results": {name: record["numbers"] for name, record in records.items()},
        "figures": [_figure(name, records[name], path) for name, path in paths.items()],
        "claims": [{**claim, "sign": SIGNS[claim["relation"]]} for claim in ledger],
        "holding": sum(claim["holds"] for claim in ledger),
        "seconds": sum(records[name]["provenance"]["seconds"] for name in FIGURES),
        "example": example(),
    }


def example() -> str:
    """The README's example, which runs as a test."""
    return (TEMPLATES / "example.py").read_text("utf-8").rstrip()


def _figure(name: str, record: dict[str, Any], path: Path) -> dict[str, Any]:
    module = importlib.import_module(f"analysis.{name}")
    image = (path.parents[1] / "figures" / f"{name}.png").read_bytes()
    return {
        "name": name,
        "title": (module.__doc__ or "").split("\n")[0].rstrip("."),
        "caption": module.CAPTION,
        "study": name in STUDIES,
        "image": base64.b64encode(image).decode(),
        **record["provenance"],
    }
