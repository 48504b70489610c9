"""The part of the project that lives beside the installed package: figures, claims, report."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from tradeoff.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
"""Where the real data lie, beside the checkout and never in it; its README says what they are."""


def analysis(module: str) -> ModuleType:
    """Import ``analysis.<module>``, which a checkout has and an installed wheel does not."""
    if not (ROOT / "analysis" / "__init__.py").exists():
        raise InputError(
            "this command needs a checkout of the project, and only the package is installed",
            remedy="Clone the project and run it there; `make reproduce` installs all it needs.",
        )
    return import_module(f"analysis.{module}")
