"""The numbers that the paper reports, from ``paper_numbers.toml``."""

from __future__ import annotations

from pathlib import Path

from analysis.dossier.stored_results import Fields, as_fields
from analysis.fernando2024.stored import PAPER
from tradeoff.records import load_toml


def reported(path: Path = PAPER / "paper_numbers.toml") -> Fields:
    """The paper's own numbers.

    Raises
    ------
    InputError
        If the file cannot be read. A missing number raises when it is used.
    """
    remedy = "Correct it, or take the file of the repository."
    found = as_fields(load_toml(path, remedy=remedy), path)
    assert isinstance(found, Fields)
    return found
