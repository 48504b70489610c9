"""The report page: sections of the dossier, formulas, figures and plots in one file.

The file needs no network: its scripts are in it, figures are data, formulas are MathML, and its
content security policy forbids the browser to fetch anything.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import tostring

from analysis.dossier.declaration import Dossier
from tradeoff.errors import InputError

TEMPLATES = Path(__file__).parent / "templates"
NEEDS = ("PIL", "latex2mathml", "markdown_it", "mdit_py_plugins")
FORMULA = 'role="group" tabindex="0" aria-label="formula"'
"""A long formula scrolls by itself on a narrow screen, also by keyboard."""
SCRIPTS = ("plot", "page")
COLORS = 48
"""Of a picture on the page; a plot has few, and each costs bytes."""
STORY = "story.md.j2"
"""Template of a paper's story, if it has one; its first line is the title."""


@dataclass(frozen=True)
class Section:
    """One section of the dossier as HTML, with the anchor of the dossier's links."""

    anchor: str
    title: str
    html: str


def require() -> None:
    """Check that the page can be written, before minutes of computing."""
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
    """Content of the page beyond the dossier; ``render`` fills a template."""
    require()
    claims = [claim["id"] for claim in content["claims"]]
    figures = [figure["name"] for figure in content["figures"]]
    plots = dossier.explorers(content["results"])
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
        "lead": next(iter(plots), None),
        "explorers": plots[1:],
        "story": story(dossier, content, render, claims, figures),
        "style": (TEMPLATES / "page.css").read_text("utf-8"),
        "script": "\n".join((TEMPLATES / f"{name}.js").read_text("utf-8") for name in SCRIPTS),
    }


def story(
    dossier: Dossier,
    content: Mapping[str, Any],
    render: Callable[[str, Any], str],
    claims: list[str],
    figures: list[str],
) -> Section | None:
    """What the paper found, for a reader who has five minutes; None where nobody wrote it."""
    if not (dossier.templates / STORY).exists():
        return None
    heading, _, text = render(STORY, content).partition("\n")
    title = heading.lstrip("# ")
    return Section(slug(title), title, html(text, claims, figures, slug(title)))


def html(text: str, claims: list[str], figures: list[str], anchor: str) -> str:
    """Convert Markdown with formulas to HTML whose links stay on the page.

    HTML in the text, which a result or a claim could contain, is escaped.

    Parameters
    ----------
    text
        Markdown of one section.
    claims, figures
        Ids of claims, and names of figures. An id in code style becomes a link to the claim. A link
        to a figure's image, source or numbers leads to the figure on the page.
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
    """Convert a formula to MathML; its text is escaped, and it has no links.

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
    # The converter writes operators as entities, whose ampersand must not be escaped.
    return tostring(formula, encoding="unicode").replace("&amp;", "&")


def slug(title: str) -> str:
    """The anchor that Git hosts give a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def image(folder: Path, name: str) -> dict[str, Any]:
    """A figure as a data URI in the format WebP, and its shape in pixels."""
    path = folder / f"{name}.png"
    content = path.read_bytes()
    try:
        width, height, data = _small(content)
    except OSError as error:
        remedy = f"Draw it again: tradeoff figures {name} --force."
        raise InputError("this is no picture", file=path, remedy=remedy) from error
    return {"image": f"data:image/webp;base64,{data}", "width": width, "height": height}


@lru_cache(maxsize=256)
def _small(content: bytes) -> tuple[int, int, str]:
    """Width, height and content of a picture, without loss but for rare shades."""
    from PIL import Image

    with Image.open(BytesIO(content)) as picture:
        few = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).convert("RGB")
    made = BytesIO()
    few.save(made, "WEBP", lossless=True, quality=60, method=4)
    return *few.size, base64.b64encode(made.getvalue()).decode()


def _target(href: str, figures: list[str]) -> str:
    stem = Path(href).stem
    return f"#{stem}" if "://" not in href and stem in figures else href


def _wide(label: str) -> str:
    """Opening tag of a region that scrolls sideways separately, also by keyboard."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{label}">'
