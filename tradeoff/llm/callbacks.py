"""Callbacks that users' code can attach to a run: to record, to change a rate, or to stop it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError


class Callback:
    """Called at points of a run, on every process; each method does nothing unless overridden.

    To end the run a callback calls ``trainer.stop()``. With several processes, it must decide the
    same on all of them.
    """

    def begin(self, trainer: Any) -> None:
        """Called before the first update, also of a resumed run."""

    def updated(self, trainer: Any, losses: Mapping[str, Any]) -> None:
        """Called after each update.

        Parameters
        ----------
        trainer
            A :class:`~tradeoff.llm.trainer.JointTrainer`; ``trainer.step`` updates are done.
        losses
            This process's part of the mean training loss of each objective followed, as tensors:
            reading one waits for the device.
        """

    def logged(self, trainer: Any, line: Mapping[str, Any]) -> None:
        """Called after each log line of training losses."""

    def evaluated(self, trainer: Any, record: dict[str, Any]) -> None:
        """Called at each evaluation, before its record is written; entries may be added."""

    def saved(self, trainer: Any, folder: Path) -> None:
        """Called after each checkpoint; `folder` holds all of them."""

    def end(self, trainer: Any, result: Any) -> None:
        """Called after the run, with its :class:`~tradeoff.llm.trainer.TrainResult`."""


class Evaluated(Callback):
    """A callback that calls a function of trainer and record.

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


def as_callbacks(given: Any) -> tuple[Callback, ...]:
    """Make a callback of each, see :func:`as_callback`.

    Raises
    ------
    InputError
        If they are not in a list, or one of them is no callback.
    """
    if isinstance(given, Callback) or callable(given):
        remedy = "Give a list, also of a single one."
        raise InputError("this is not a list", field="callbacks", value=given, remedy=remedy)
    return tuple(map(as_callback, given))


def as_callback(given: Any) -> Callback:
    """Make a callback of a function, called at evaluations; a callback is returned unchanged.

    Raises
    ------
    InputError
        If it is neither.
    """
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) or not callable(given):
        problem = "this is a class" if isinstance(given, type) else "this cannot be called"
        remedy = "Give a Callback object, or a function of the trainer and an evaluation's record."
        raise InputError(problem, field="callbacks", value=given, remedy=remedy)
    return Evaluated(given)
