"""The look of the library's own pictures, and where the dossier's figures are kept."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from tradeoff import plots
from tradeoff.plots import BOUND, FRONT, IDEAL, LOOKS, WIDTH, Look, figure, label_line, look

__all__ = [
    "BOUND",
    "FRONT",
    "IDEAL",
    "LOOKS",
    "WIDTH",
    "Look",
    "figure",
    "label_line",
    "look",
    "save",
]


def save(fig: Figure, out: Path, name: str) -> None:
    """Write ``figures/NAME.svg`` and ``.png`` under ``out``."""
    plots.save(fig, out / "figures", name)
