"""Signals that ask a run to end: it saves at the next update and returns."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch


class Interrupt:
    """Listens for SIGTERM and SIGINT while entered; a second signal acts as usual.

    Parameters
    ----------
    accelerator
        Of accelerate. Several processes agree on the signal only every `interval` updates, as
        asking costs a message.
    """

    def __init__(self, accelerator: Any, interval: int) -> None:
        self.accelerator, self.interval = accelerator, interval
        self.signalled = False
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
        if self.accelerator.num_processes == 1:
            return self.signalled
        if done % self.interval:
            return False
        flag = torch.tensor(float(self.signalled), device=self.accelerator.device)
        self.signalled = bool(self.accelerator.reduce(flag, reduction="sum") > 0)
        return self.signalled

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
