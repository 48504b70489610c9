"""Access to the dossiers of papers: figures, claims, report.

They are in the checkout beside the package, and in a folder of the package in a wheel, with what is
stored of them. The library names the package ``analysis`` here alone, as a text.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tradeoff.errors import InputError

_BUNDLED = Path(__file__).resolve().parent / "_dossiers"
INSTALLED = _BUNDLED.exists()
"""Whether this is an installed wheel, whose files are only read."""
ROOT = _BUNDLED if INSTALLED else Path(__file__).resolve().parents[1]
WORK = Path.cwd() / "out" if INSTALLED else ROOT / "out"
"""Folder of what is in the making; in the current folder where the package is installed."""
DATA = Path(os.environ.get("TRADEOFF_DATA") or ROOT.parent / "shared" / "data")
"""Folder of the real data: the value of ``TRADEOFF_DATA``, or a folder beside the checkout. It is
never in the checkout; its README describes the data."""

FIRST_PAPER = "fernando2024"
"""The paper whose dossier commands use by default."""


def analysis(module: str) -> ModuleType:
    """Import ``analysis.<module>`` of the checkout or of the installed wheel.

    Raises
    ------
    InputError
        If neither has it.
    """
    if not (ROOT / "analysis" / "__init__.py").exists():
        raise InputError(
            "this command needs a checkout of the project, but only the package is installed",
            remedy="Clone the project and run it there; `make reproduce` installs all it needs.",
        )
    if INSTALLED and str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module(f"analysis.{module}")


def dossier(paper: str = FIRST_PAPER) -> Any:
    """Declaration of a paper's dossier: ``DOSSIER`` in the module ``analysis.<paper>.dossier``.

    Raises
    ------
    InputError
        If only the package is installed, or there is no such paper.
    """
    analysis("dossier")
    known = sorted(path.parent.name for path in (ROOT / "analysis").glob("*/dossier.py"))
    if paper not in known:
        raise InputError(
            "no such paper", field="paper", value=paper, remedy=f"Use one of: {', '.join(known)}."
        )
    return analysis(f"{paper}.dossier").DOSSIER


def written(dossier: Any, out: Path | None) -> Path | None:
    """Folder that a command writes to: the one asked for, or one of the user in a wheel.

    None means the dossier's own folder.
    """
    return WORK / dossier.folder.name if INSTALLED and out is None else out
