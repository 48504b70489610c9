"""The joint trainer of a script: what TRL scripts call on a trainer, they call on this one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.llm import card, checkpoints, models
from tradeoff.llm.trainer import JointTrainer, TrainResult
from tradeoff.records import read_json, write_json


class ScriptResult(TrainResult):
    """The result of a run, with the names of transformers' ``TrainOutput`` too."""

    @property
    def global_step(self) -> int:
        """Number of updates of the run."""
        return int(self.summary["steps"])

    @property
    def metrics(self) -> dict[str, float]:
        """Last training losses, costs, and last held-out values with ``eval_`` before their names.

        Names are those of the log and of the table, such as ``train_sft/loss``.
        """
        found: dict[str, float] = {}
        for prefix, table in (("train_", self.log), ("eval_", self.table)):
            # Columns of one objective have gaps: each has the last of its values.
            for name in table.columns.drop(["step", "kind"], errors="ignore"):
                if table[name].dtype.kind in "iuf" and len(known := table[name].dropna()):
                    found[prefix + name] = known.iloc[-1].item()
        return found


class ScriptTrainer(JointTrainer):
    """A joint trainer with the methods that scripts call on a trainer of transformers.

    :func:`~tradeoff.trl.joint.joint_trainer` makes it. What a joint run does by itself, such as
    writing its model, these methods repeat where the script asks for it.
    """

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        *,
        resume: bool = True,
        progress: bool = True,
    ) -> ScriptResult:
        """Run the schedule to its end.

        Parameters
        ----------
        resume_from_checkpoint
            None or True: resume from the newest checkpoint of the output folder, if there is one.
            False: begin anew, and remove files of an earlier run. Or the output folder or its
            newest checkpoint, which must be there.
        resume, progress
            As for :meth:`JointTrainer.train <tradeoff.llm.trainer.JointTrainer.train>`.

        Raises
        ------
        InputError
            If the checkpoint is not the newest one of the output folder, or as for
            ``JointTrainer.train``.
        """
        if isinstance(resume_from_checkpoint, bool):
            resume = resume and resume_from_checkpoint
        elif resume_from_checkpoint is not None:
            self._check_newest(Path(resume_from_checkpoint))
        return ScriptResult(**vars(super().train(resume=resume, progress=progress)))

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Copy the trained model, which is in ``model/`` of the output folder, to another folder.

        Parameters
        ----------
        output_dir
            Folder of the copy, which may be the output folder; None: that one. Its other files
            stay. Adapters name the model below them as those in ``model/`` do.

        Raises
        ------
        InputError
            If the run has no trained model, as when it was stopped or diverged, or if the folder
            cannot be written.
        """
        source = self._written("save_model")
        target = source.parent if output_dir is None else Path(output_dir)
        if not self.accelerator.is_main_process or target.resolve() == source.resolve():
            return
        size = sum(f.stat().st_size for f in source.iterdir() if f.is_file())
        check_writable(target, needed=size, field="output_dir")
        below = shutil.ignore_patterns(models.BASE)
        shutil.copytree(source, target, ignore=below, dirs_exist_ok=True)

    def save_state(self) -> None:
        """Do nothing: the log and the checkpoints of the output folder hold the state."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing: the model's folder has a card, ``README.md``."""

    def is_world_process_zero(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return bool(self.accelerator.is_main_process)

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print metrics, one a line.

        Parameters
        ----------
        split
            Name of the rows, such as "train" or "eval".
        metrics
            Values by name.
        """
        if self.is_world_process_zero():
            width = max(map(len, metrics), default=0)
            print(f"***** {split} metrics *****")
            for name, value in sorted(metrics.items()):
                shown = f"{value:.4g}" if isinstance(value, float) else value
                print(f"  {name:<{width}} = {shown}")

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write ``{split}_results.json`` to the output folder.

        Parameters
        ----------
        split, metrics
            As for :meth:`log_metrics`.
        combined
            Also add them to ``all_results.json``.
        """
        if self.output is None or not self.is_world_process_zero():
            return
        write_json(self.output / f"{split}_results.json", dict(metrics))
        if combined:
            together = self.output / "all_results.json"
            known = read_json(together) if together.is_file() else {}
            write_json(together, {**known, **metrics})

    def push_to_hub(self, *_: Any, **__: Any) -> None:
        """Upload nothing, and warn with the command that uploads the model."""
        command = card.upload_command(self._written("push_to_hub"), "USER/NAME")
        warnings.warn(f"nothing was uploaded; to upload the model: {command}", stacklevel=2)

    def _written(self, field: str) -> Path:
        """The folder of the trained model."""
        if self.output is None or not (found := self.output / models.MODEL).is_dir():
            raise InputError(
                "the run has no trained model yet",
                file=self.output,
                field=field,
                remedy="Run the script again: train() goes on from the newest checkpoint. "
                "`tradeoff export` writes the model of a checkpoint.",
            )
        return found

    def _check_newest(self, given: Path) -> None:
        """Raise an error unless `given` is what this run resumes from."""
        found = checkpoints.checkpoints(self._folder) if self.output else []
        if found and given.resolve() in (self._folder.parent.resolve(), found[-1].resolve()):
            return
        raise InputError(
            "a joint run resumes from the newest checkpoint of its own output folder",
            field="resume_from_checkpoint",
            value=str(given),
            remedy="Give True, and the folder of that run as output_dir; or None, to begin.",
        )
