"""The paper's folder, and the numbers of its stored full runs, which claims and figures read."""

from __future__ import annotations

from typing import Any

from analysis.dossier import lookup, stored_results
from tradeoff.checkout import ROOT

PAPER = ROOT / "papers" / "fernando2024"


def shown(name: str) -> dict[str, Any]:
    """Numbers of the stored full run of a figure, see :mod:`analysis.dossier.lookup`."""
    return stored_results.numbers(lookup.place(PAPER, name))
