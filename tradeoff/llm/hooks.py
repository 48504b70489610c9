"""What others do at points of a run: record, change a rate, stop it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Hook:
    """Called at points of a run, on every process; each method does nothing unless overridden.

    A hook that should end the run calls ``trainer.stop()``; on several processes it must decide
    alike on all.
    """

    def begin(self, trainer: Any) -> None:
        """Before the first update, or before a resumed run goes on."""

    def updated(self, trainer: Any, losses: Mapping[str, Any]) -> None:
        """After each update.

        Parameters
        ----------
        trainer
            A :class:`~tradeoff.llm.trainer.JointTrainer`; ``trainer.step`` updates are done.
        losses
            This process's part of the mean training loss of each objective followed, as tensors:
            reading one waits for the device.
        """

    def logged(self, trainer: Any, line: Mapping[str, Any]) -> None:
        """After each line of training losses."""

    def evaluated(self, trainer: Any, record: dict[str, Any]) -> None:
        """At each evaluation, before its record is written; entries may be added."""

    def saved(self, trainer: Any, folder: Path) -> None:
        """After each checkpoint; `folder` holds all of them."""

    def end(self, trainer: Any, result: Any) -> None:
        """After the run, of which `result` is the :class:`~tradeoff.llm.trainer.TrainResult`."""


class Evaluated(Hook):
    """A function of trainer and record as a hook.

    Parameters
    ----------
    function
        Called at each evaluation.
    """

    def __init__(self, function: Any) -> None:
        self.function = function

    def evaluated(self, trainer: Any, record: dict[str, Any]) -> None:
        """Call the function."""
        self.function(trainer, record)


def as_hook(given: Any) -> Hook:
    """A hook as it is; a function as one that is called at evaluations."""
    return given if isinstance(given, Hook) else Evaluated(given)
