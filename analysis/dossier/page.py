"""The report page: sections of the dossier, formulas, figures and plots in one file.

The file needs no network: plotly.js stands in it once, figures are data, formulas are MathML, and
its content security policy forbids the browser to fetch anything.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import tostring

from analysis.dossier.declaration import Dossier
from tradeoff.errors import InputError

TEMPLATES = Path(__file__).parent / "templates"
NEEDS = ("plotly", "latex2mathml", "markdown_it", "mdit_py_plugins")
FORMULA = 'role="group" tabindex="0" aria-label="formula"'
"""A long formula scrolls by itself on a narrow screen, also by keyboard."""
LARGEST_SVG = 700_000
"""Bytes beyond which a vector figure is shown as its PNG."""


@dataclass(frozen=True)
class Section:
    """One section of the dossier as HTML, under the anchor that the dossier's links use."""

    anchor: str
    title: str
    html: str


def require() -> None:
    """Say at once, not after minutes of computing, that the page cannot be written."""
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise InputError(
            "the report page needs packages that are not installed",
            field="packages",
            value=missing,
            remedy="Install them: pip install -e '.[report]'.",
        )


def extras(
    dossier: Dossier, content: Mapping[str, Any], render: Callable[[str, Any], str]
) -> dict[str, Any]:
    """What the page shows beyond the dossier; ``render`` fills a template."""
    require()
    from plotly.offline import get_plotlyjs

    claims = [claim["id"] for claim in content["claims"]]
    figures = [figure["name"] for figure in content["figures"]]
    sections = {
        name: Section(
            slug(title),
            title,
            html(render(f"sections/{name}.md.j2", content), claims, figures, slug(title)),
        )
        for name, title in dossier.sections.items()
    }
    return {
        "sections": sections,
        "groups": {
            chapter.title: [
                figure | image(figure["folder"], figure["name"])
                for figure in content["figures"]
                if figure["chapter"] == chapter.name
            ]
            for chapter in dossier.chapters
        },
        "explorers": dossier.explorers(content["results"]),
        "plotly": get_plotlyjs(),
        "style": (TEMPLATES / "page.css").read_text("utf-8"),
        "script": (TEMPLATES / "page.js").read_text("utf-8"),
    }


def html(text: str, claims: list[str], figures: list[str], anchor: str) -> str:
    """Markdown with formulas as HTML whose links stay on the page.

    What stands in the text as HTML, as a result or a claim could bring it, is shown and not used.

    Parameters
    ----------
    text
        Markdown of one section.
    claims, figures
        Ids of claims, which are linked where they stand as code, and names of figures, to whose
        place on the page a link to their image, source or numbers leads.
    anchor
        Prefix of the names of the section's tables.
    """
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def formula(tex: str, options: Mapping[str, Any]) -> str:
        return mathml(tex, "block" if options["display_mode"] else "inline")

    reader = (
        MarkdownIt("commonmark", {"html": False})
        .enable("table")
        .use(dollarmath_plugin, renderer=formula)
    )
    tokens = reader.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "link_open":
                child.attrs["href"] = _target(str(child.attrs["href"]), figures)
            if child.type == "code_inline" and child.content in claims:
                name = escape(child.content)
                link = f'<a href="#claim-{name}"><code>{name}</code></a>'
                child.type, child.content = "html_inline", link
    shown = reader.renderer.render(tokens, reader.options, {})
    parts = shown.split("<table>")
    numbered = [f"{_wide(f'{anchor}, table {n}')}<table>" for n in range(1, len(parts))]
    text = parts[0] + "".join(a + b for a, b in zip(numbered, parts[1:], strict=True))
    text = text.replace("</table>", "</table></div>")
    return text.replace('<div class="math block">', f'<div class="math block" {FORMULA}>')


def mathml(tex: str, display: str) -> str:
    """A formula as MathML; text within it stays text, and it leads nowhere.

    Parameters
    ----------
    tex
        LaTeX.
    display
        ``"block"`` or ``"inline"``.
    """
    from latex2mathml.converter import convert_to_element

    formula = convert_to_element(tex, display=display)
    for part in formula.iter():
        part.attrib.pop("href", None)
    # The converter writes operators as entities, whose ampersand must stand as it is.
    return tostring(formula, encoding="unicode").replace("&amp;", "&")


def slug(title: str) -> str:
    """The anchor under which Git hosts publish a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def image(folder: Path, name: str) -> dict[str, Any]:
    """A figure as a data URI, SVG or, where that is too large, PNG; and its shape in pixels."""
    raster, vector = (folder / f"{name}.png").read_bytes(), folder / f"{name}.svg"
    # The header of a PNG: signature, length and name of its first chunk, then the shape.
    if not raster.startswith(b"\x89PNG") or len(raster) < 24:
        remedy = f"Draw it again: tradeoff figures {name} --force."
        raise InputError("this is no picture", file=folder / f"{name}.png", remedy=remedy)
    width, height = struct.unpack(">II", raster[16:24])
    fits = vector.exists() and vector.stat().st_size <= LARGEST_SVG
    kind, content = ("svg+xml", vector.read_bytes()) if fits else ("png", raster)
    data = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"image": data, "width": width, "height": height}


def _target(href: str, figures: list[str]) -> str:
    stem = Path(href).stem
    return f"#{stem}" if "://" not in href and stem in figures else href


def _wide(label: str) -> str:
    """A region that scrolls sideways by itself, also by keyboard."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{label}">'
