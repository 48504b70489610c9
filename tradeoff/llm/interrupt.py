"""Signals that ask a run to end: it saves at the next update and returns."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import torch

_ECHO = 2.0
"""Seconds in which a signal that comes again is the same wish.

The terminal and a launcher both hand Ctrl-C on to every process.
"""


class Interrupt:
    """Listens for SIGTERM and SIGINT while entered; one that is repeated later acts as usual.

    Parameters
    ----------
    accelerator
        Of accelerate. Several processes agree on the signal only every `interval` updates, as
        asking costs a message.

    Attributes
    ----------
    number
        Of the signal that came, 0 before one does.
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
        """Whether any process was signalled; the same on all."""
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

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
