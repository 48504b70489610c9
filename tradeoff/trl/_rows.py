"""Rows that a file of settings names: how many there are, and how many are held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradeoff.data.columns import columns_of


def count(source: str, stage: str, columns: Mapping[str, str], limit: int | None = None) -> int:
    """Number of rows of a source, for the stage "sft" or "dpo".

    ``columns`` may name those of both sets, such as ``sft.prompt``.
    """
    from tradeoff.data import read_preferences, read_sft

    if stage == "sft":
        return len(read_sft(source, limit=limit, columns=columns_of(columns, "sft")))
    return len(read_preferences(source, limit=limit, columns=columns_of(columns, "preference")))


def share(content: Mapping[str, Any], name: str, file: Path, problems: list[str]) -> float:
    """The share of rows that a setting holds out; a number of rows is a problem."""
    size: float = content.get(name) or 0.0
    if size < 1:
        return size
    problems.append(f"{file.name}: {name} = {size:g} rows; give a share")
    return 0.0
