"""The declaration of a paper's dossier: its folder, figures, sections, tables and plots.

A paper is a package with one folder for each chapter. A file in it that has a ``CAPTION`` and a
function ``main`` is a figure, known by the file's name; the other files are helpers. The package's
module ``dossier`` declares a :class:`Dossier` named ``DOSSIER``, and ``templates`` has the prose.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from analysis.dossier import lookup, stored_results
from analysis.dossier.controls import Explorer
from tradeoff.errors import InputError

Results = Mapping[str, Any]
Tables = Mapping[str, pd.DataFrame]
_FIGURE = (re.compile(r"^CAPTION\b", re.M), re.compile(r"^def main\(", re.M))
"""Names that a figure's file must define. The file is read, because importing it takes seconds."""


def _nothing(results: Results) -> Any:
    return {}


@dataclass(frozen=True)
class Chapter:
    """Figures in one folder of the paper's package.

    Attributes
    ----------
    name
        Folder of the figures.
    title
        Heading of the figures on the report page.
    first
        Names of the first figures, in this order; the others follow by name.
    studies
        Whether the figures train networks. Their full form runs on request and is stored. The
        report shows the stored full run; the fast form runs only as a test.
    """

    name: str
    title: str
    first: tuple[str, ...] = ()
    studies: bool = False


@dataclass(frozen=True)
class Dossier:
    """The declaration of a paper's dossier.

    Attributes
    ----------
    title
        Heading of the dossier.
    folder
        Folder for ``figures/``, ``results/``, ``README.md`` and ``report.html``; it has
        ``claims.toml``.
    package
        Name of the package with the chapters and ``templates/``.
    chapters
        The chapters, in reading order.
    sections
        Titles of the sections of prose, by the name of their template in ``templates/sections/``.
    opening
        Number of sections before the figures.
    tables
        Function that makes the tables from the numbers of all figures; each cell is text.
    titles
        Caption of each table in LaTeX.
    explorers
        Function that makes the report's interactive plots from the numbers of all figures.
    content
        Function that makes further variables of the templates from the numbers of all figures.
    pages
        Further pages with their templates, written into the dossier's own folder.
    """

    title: str
    folder: Path
    package: str
    chapters: tuple[Chapter, ...]
    sections: Mapping[str, str] = field(default_factory=dict)
    opening: int = 0
    tables: Callable[[Results], Tables] = _nothing
    titles: Mapping[str, str] = field(default_factory=dict)
    explorers: Callable[[Results], list[Explorer]] = lambda results: []
    content: Callable[[Results], Mapping[str, Any]] = _nothing
    pages: Mapping[Path, str] = field(default_factory=dict)

    @cached_property
    def home(self) -> Path:
        """Folder of the package."""
        found = find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            raise InputError(
                "a dossier's package cannot be imported",
                field="package",
                value=self.package,
                remedy="Give the folder of the paper an __init__.py, and name it from the root.",
            )
        return Path(found.submodule_search_locations[0])

    @property
    def templates(self) -> Path:
        """Folder of the prose."""
        return self.home / "templates"

    @cached_property
    def figures(self) -> tuple[str, ...]:
        """Figures that are drawn in full if they are not up to date."""
        return self._named(studies=False)

    @cached_property
    def studies(self) -> tuple[str, ...]:
        """Figures of trained networks, see :class:`Chapter`."""
        return self._named(studies=True)

    def _named(self, studies: bool) -> tuple[str, ...]:
        chosen = (chapter for chapter in self.chapters if chapter.studies == studies)
        return tuple(name for chapter in chosen for name in self.members(chapter.name))

    def members(self, chapter: str) -> tuple[str, ...]:
        """Figures of one chapter."""
        return tuple(name for name, found in self._places.items() if found == chapter)

    @cached_property
    def _places(self) -> dict[str, str]:
        """Chapter of every figure."""
        places: dict[str, str] = {}
        for chapter in self.chapters:
            found = sorted(path.stem for path in (self.home / chapter.name).glob("*.py")
                           if _is_figure(path))  # fmt: skip
            for name in dict.fromkeys((*chapter.first, *found)):
                if name in places or name not in found:
                    raise InputError(
                        "two chapters have a figure of this name" if name in places
                        else "no file of this chapter has a CAPTION and a function main",
                        file=self.home / chapter.name / f"{name}.py",
                        value=name,
                        remedy="Give it another name." if name in places else "Write both.",
                    )  # fmt: skip
                places[name] = chapter.name
        return places

    def chapter(self, name: str) -> str:
        """Chapter of a figure."""
        if name not in self._places:
            known = ", ".join(self._places)
            remedy = f"Use `all` or some of: {known}."
            raise InputError("no such figure", value=name, remedy=remedy)
        return self._places[name]

    def dotted(self, name: str) -> str:
        """Name of a figure's module."""
        return f"{self.package}.{self.chapter(name)}.{name}"

    def module(self, name: str) -> ModuleType:
        """A figure's module, imported."""
        return import_module(self.dotted(name))

    def source(self, name: str) -> Path:
        """A figure's file."""
        return self.home / self.chapter(name) / f"{name}.py"

    def asks(self, name: str) -> str:
        """The question of a figure: the first line of its file, which is not imported."""
        text = ast.get_docstring(ast.parse(self.source(name).read_text("utf-8")))
        return (text or "").split("\n")[0]

    def stored(self, name: str, out: Path | None = None) -> Path:
        """File of a figure's result; for a study it may be the dossier's full run."""
        path = (out or self.folder) / "results" / f"{name}.json"
        kept = self.folder / "results" / path.name
        return kept if name in self.studies and not path.exists() else path

    def shown(self, name: str) -> dict[str, Any]:
        """Numbers of the stored full run of a figure, see :mod:`analysis.dossier.lookup`."""
        return stored_results.numbers(lookup.place(self.folder, name))


def _is_figure(path: Path) -> bool:
    text = path.read_text("utf-8")
    return all(pattern.search(text) for pattern in _FIGURE)
