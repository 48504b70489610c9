"""Progress bars in terminals and notebooks, and plain lines of progress in logs."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

with warnings.catch_warnings():
    # Without ipywidgets a notebook shows a bar of text, which needs no warning.
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm as _tqdm

__all__ = ["tqdm"]
EVERY = 30.0
"""Seconds between two lines of progress in a log."""


class tqdm(_tqdm):
    """A bar of tqdm; if the output is not a terminal, one plain line every `EVERY` seconds.

    So a log, a pipe or a file has few lines, and none for a bar that ends before the first.
    """

    disable: bool
    _lined: float | None = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        file = settings.get("file") or sys.stderr
        if not (file.isatty() or "ipykernel" in sys.modules or settings.get("disable")):
            self._lined = time.monotonic()
        super().__init__(*args, **settings)

    def display(self, *args: Any, **settings: Any) -> Any:
        """Draw the bar, or write a line if the last one is old enough."""
        if self._lined is None:
            return super().display(*args, **settings)
        if time.monotonic() - self._lined >= EVERY:
            self._lined = time.monotonic()
            about = self.format_dict
            if about["bar_format"]:
                about["bar_format"] = about["bar_format"].replace("|{bar}|", "")
            else:  # With no columns tqdm draws no bar, but would ignore a format of one's own.
                about["ncols"] = 0
            self.fp.write(f"{self.format_meter(**about)}\n")
            self.fp.flush()
        return None

    def close(self) -> None:
        """Close the bar; in a log there is nothing to erase."""
        if self._lined is None:
            super().close()
        elif not self.disable:
            self.disable = True
            self._decr_instances(self)
