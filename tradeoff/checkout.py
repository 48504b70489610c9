"""Access to the parts of a checkout that a wheel does not have: figures, claims, report.

The library names the package ``analysis`` here alone, as a text: an installed wheel lacks it.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tradeoff.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TRADEOFF_DATA") or ROOT.parent / "shared" / "data")
"""Folder of the real data: the value of ``TRADEOFF_DATA``, or a folder beside the checkout. It is
never in the checkout; its README describes the data."""

FIRST_PAPER = "fernando2024"
"""The paper whose dossier commands use by default."""


def analysis(module: str) -> ModuleType:
    """Import ``analysis.<module>``, which a checkout has and an installed wheel does not.

    Raises
    ------
    InputError
        If only the package is installed.
    """
    if not (ROOT / "analysis" / "__init__.py").exists():
        raise InputError(
            "this command needs a checkout of the project, but only the package is installed",
            remedy="Clone the project and run it there; `make reproduce` installs all it needs.",
        )
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
