"""What the paper reports, as ``paper_numbers.toml`` has it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from analysis.runner import PAPER


def reported(path: Path = PAPER / "paper_numbers.toml") -> dict[str, Any]:
    """The paper's own numbers."""
    return tomllib.loads(path.read_text("utf-8"))
