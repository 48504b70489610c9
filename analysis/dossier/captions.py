"""Captions of figures, with numbers from a stored run.

A figure's ``CAPTION`` may have fields in braces. Its function ``words(numbers)`` then gives the
texts of these fields, so that every number of a caption comes from a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from analysis.dossier.stored_results import fitting


def caption(module: ModuleType, numbers: Mapping[str, Any]) -> str:
    """The caption of a figure, with its fields filled from the numbers.

    Parameters
    ----------
    module
        Module of the figure, with ``CAPTION`` and, if that has fields, ``words``.
    numbers
        Stored result of the figure's ``main``.
    """
    words = getattr(module, "words", None)
    if words is None:
        return str(module.CAPTION)
    with fitting(f"the caption of {module.__name__.rpartition('.')[2]}"):
        return str(module.CAPTION.format(**words(numbers)))
