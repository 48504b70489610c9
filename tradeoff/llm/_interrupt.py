"""Signals that end a run: it saves after the current update and returns."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch

_ECHO = 2.0
"""Seconds in which a repeated signal counts as the same request.

The terminal and a launcher both send Ctrl-C to every process.
"""

ANSWER = b"\ninterrupted: stopping after this update; another signal in 2 s stops at once\n"
"""What standard error shows as soon as a signal came."""


class Interrupt:
    """Context manager that catches SIGTERM and SIGINT once; a later signal acts as usual.

    Parameters
    ----------
    accelerator
        The accelerator. Several processes agree on a signal only every `interval` updates, as
        agreement costs a message.

    Attributes
    ----------
    number
        Number of the signal that came, 0 before that.
    """

    def __init__(self, accelerator: Any, interval: int) -> None:
        self.accelerator, self.interval = accelerator, interval
        self.number = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def asked(self, done: int) -> bool:
        """Whether any process got a signal; the answer is the same on all."""
        if self.accelerator.num_processes > 1 and done % self.interval == 0:
            mine = torch.tensor([self.number], device=self.accelerator.device)
            self.number = int(self.accelerator.gather(mine).max())
            return self.number != 0
        return self.accelerator.num_processes == 1 and self.number != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self._since > _ECHO:
            self._restore()
            signal.raise_signal(number)
        elif not self.number:
            self.number, self._since = number, time.monotonic()
            self._answer()

    def _answer(self) -> None:
        """Answer at once, as an update can take long; a worker leaves that to its parent."""
        if self.accelerator.is_main_process and multiprocessing.parent_process() is None:
            # `sys.stderr` may be in use where the signal came.
            os.write(2, ANSWER)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
