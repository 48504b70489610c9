"""Captions of figures: sentences of ours in which the numbers of a stored run stand.

A figure's ``CAPTION`` may have fields in braces; its function ``words(numbers)`` then gives their
texts, so that a caption never says what a run does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from analysis.dossier.stored_results import fitting


def caption(module: ModuleType, numbers: Mapping[str, Any]) -> str:
    """The caption of a figure with what its numbers say.

    Parameters
    ----------
    module
        The figure: ``CAPTION`` and, where that has fields, ``words``.
    numbers
        What the figure's ``main`` returned, as stored.
    """
    words = getattr(module, "words", None)
    if words is None:
        return str(module.CAPTION)
    with fitting(f"the caption of {module.__name__.rpartition('.')[2]}"):
        return str(module.CAPTION.format(**words(numbers)))
