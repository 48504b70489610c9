"""The paper's folder, and the numbers of its stored full runs, which claims and figures read."""

from __future__ import annotations

from typing import Any

from analysis.dossier import stored_results
from tradeoff.checkout import ROOT

PAPER = ROOT / "papers" / "fernando2024"


def shown(name: str) -> dict[str, Any]:
    """Numbers of the stored full run of a figure."""
    return stored_results.numbers(PAPER / "results" / f"{name}.json")
