"""Callbacks of transformers' trainers in a joint run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.llm.callbacks import Callback
from tradeoff.trl.arguments import HINTS

_NEVER = (
    *("on_epoch_begin", "on_epoch_end", "on_step_begin", "on_substep_end"),
    *("on_pre_optimizer_step", "on_optimizer_step", "on_predict", "on_prediction_step"),
)
"""Methods of callbacks that are not called."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


class HubCallbacks(Callback):
    """Calls ``TrainerCallback`` objects of transformers at the points of a joint run.

    ``on_train_begin``, ``on_step_end``, ``on_log``, ``on_evaluate``, ``on_save`` and
    ``on_train_end`` are called, with the state and control that transformers gives them.
    ``control.should_training_stop`` ends the run; ``should_save`` saves it if it has a folder. A
    warning names other methods and wishes of a callback, which have no effect.

    Parameters
    ----------
    callbacks
        Instances, or classes without arguments.
    args
        Configuration of the SFT trainer, which is passed to the callbacks.

    Raises
    ------
    InputError
        For callbacks that read or change what a joint run does not have: ``EarlyStoppingCallback``
        and ``SyncRefModelCallback``.
    """

    def __init__(self, callbacks: Sequence[Any], args: Any) -> None:
        from transformers import (
            EarlyStoppingCallback,
            TrainerCallback,
            TrainerControl,
            TrainerState,
        )

        self.callbacks = [given() if isinstance(given, type) else given for given in callbacks]
        for callback in self.callbacks:
            kind = type(callback)
            if any(base.__name__ == "SyncRefModelCallback" for base in kind.mro()):
                raise InputError(
                    "the reference of a joint run does not move",
                    field="callbacks",
                    value=kind.__name__,
                    remedy=f"Leave it out. In its place, {HINTS['sync_ref_model']}.",
                )
            if isinstance(callback, EarlyStoppingCallback):
                number = callback.early_stopping_patience
                raise InputError(
                    "a joint run stops by the weighted held-out loss of both objectives",
                    field="callbacks",
                    value=kind.__name__,
                    remedy=f"Leave it out, and give joint_trainer patience = {number}; the policy "
                    "with the lowest loss is then saved.",
                )
            own = [n for n in _NEVER if getattr(kind, n, None) is not getattr(TrainerCallback, n)]
            if own:
                _warn(f"{kind.__name__} has {', '.join(own)}, which a joint run never calls")
        self.args, self.state, self.control = args, TrainerState(), TrainerControl()

    def begin(self, trainer: Any) -> None:
        """``on_train_begin``."""
        self.state.max_steps = trainer.steps
        self.state.is_world_process_zero = trainer.accelerator.is_main_process
        self._call("on_train_begin", trainer)

    def updated(self, trainer: Any, losses: Mapping[str, Any]) -> None:
        """``on_step_end``."""
        self._call("on_step_end", trainer)

    def logged(self, trainer: Any, line: Mapping[str, Any]) -> None:
        """Call ``on_log``, with training losses by the names of the log."""
        self._log(trainer, {k: v for k, v in line.items() if k not in ("kind", "step")})

    def evaluated(self, trainer: Any, record: dict[str, Any]) -> None:
        """Call ``on_evaluate`` and ``on_log``, with ``eval_`` before each name."""
        found = {f"eval_{k}": v for k, v in record.items() if k not in ("kind", "step")}
        self._call("on_evaluate", trainer, metrics=found)
        self._log(trainer, found)

    def saved(self, trainer: Any, folder: Path) -> None:
        """``on_save``."""
        self.control.should_save = False
        self._call("on_save", trainer)

    def end(self, trainer: Any, result: Any) -> None:
        """``on_train_end``."""
        self._call("on_train_end", trainer)

    def _log(self, trainer: Any, logs: dict[str, Any]) -> None:
        self.state.log_history.append({**logs, "step": trainer.step})
        self._call("on_log", trainer, logs=logs)

    def _call(self, name: str, trainer: Any, **given: Any) -> None:
        self.state.global_step = trainer.step
        self.state.epoch = trainer.step / max(1, trainer.steps)
        model: Any = trainer.model
        given |= {"model": model, "processing_class": trainer.tokenizer}
        given |= {"optimizer": trainer.optimizer, "lr_scheduler": None}
        for callback in self.callbacks:
            found = getattr(callback, name)(self.args, self.state, self.control, **given)
            self.control = self.control if found is None else found
        if self.control.should_training_stop:
            trainer.stop()
        for wish in ("should_evaluate", "should_epoch_stop"):
            if getattr(self.control, wish):
                setattr(self.control, wish, False)
                _warn(f"a callback sets {wish}, which has no effect on a joint run")
        if self.control.should_save and name != "on_save" and trainer.output is not None:
            self.control.should_save = False
            trainer.save()
