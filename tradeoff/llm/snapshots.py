"""Checkpoints as models: the files beside the trained weights, stored once for a run.

``checkpoints/model/`` of a run holds configuration, tokenizer, the settings of adapters and the
name of the model below them. If no other files hold that model, its frozen weights are there, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn, no_grad

from tradeoff import _seals
from tradeoff.llm import _generation_settings, _origin, checkpoints
from tradeoff.llm.journal import LOG
from tradeoff.records import read_json, replacing_folder, write_json

CHECKPOINTS, SURROUNDINGS = "checkpoints", "model"
"""Folder of the checkpoints of a run; folder, beside them, of the files that they share."""
_ABOUT, _FROZEN, _TRAINED = "about.json", "frozen.safetensors", "policy.safetensors"
_UNREAD = {"hooks.safetensors", "optimizer.safetensors", "reference.safetensors"}
"""Files of a checkpoint that do not belong to the model."""
_POLICY = "model."
"""Prefix of the names of a policy's weights before those of its model."""


@dataclass(frozen=True)
class Surroundings:
    """The files and names that make a checkpoint a model.

    Attributes
    ----------
    folder
        Folder with configuration and tokenizer and, if `adapter` is given, the adapters' settings.
    base
        Folder or hub name of the model below adapters; None if all weights are here.
    adapter
        Name of the adapters.
    base_files
        SHA-256 of the files of the model below adapters, by name.
    """

    folder: Path
    base: str | None
    adapter: str | None
    base_files: dict[str, str]


def write(
    run: Path,
    model: Any,
    tokenizer: Any,
    base: str | None,
    frozen: Mapping[str, Tensor],
    *,
    sync: bool = True,
) -> None:
    """Write the shared files of a run's checkpoints; they appear only when complete.

    Parameters
    ----------
    run
        Output folder.
    model
        A model of transformers or of peft.
    tokenizer
        Tokenizer of the model.
    base
        Folder or hub name of the model below adapters, if files hold it.
    frozen
        Weights, by name, that are neither trained nor in those files.
    sync
        Wait until the files are on the disk.
    """
    below = model.get_base_model() if hasattr(model, "get_base_model") else model
    with replacing_folder(run / CHECKPOINTS / SURROUNDINGS, sync=sync) as partial:
        below.config.save_pretrained(partial)
        if below.generation_config is not None:
            _generation_settings.write(below.generation_config, partial)
        tokenizer.save_pretrained(partial)
        adapter = model.active_adapter if below is not model else None
        if adapter is not None:
            model.peft_config[adapter].save_pretrained(partial)
        if base is not None and Path(base).exists():
            base = str(Path(base).resolve())
        files = {} if base is None else _origin.digests(base)
        write_json(partial / _ABOUT, {"base": base, "adapter": adapter, "base_files": files})
        if frozen:
            plain = {name: value.detach().cpu().contiguous() for name, value in frozen.items()}
            save_file(plain, partial / _FROZEN)
        _seals.seal_folder(partial)


def is_written(run: Path) -> bool:
    """Whether the shared files of a run's checkpoints are there, as they were written."""
    folder = run / CHECKPOINTS / SURROUNDINGS
    if not folder.exists():
        return False
    try:
        _seals.check_folder(folder)
    except _seals.Broken as error:
        warnings.warn(f"{error.file}: {error.problem}; it is written anew", stacklevel=4)
        return False
    return True


def checkpoint_of(path: str, *, whole: bool = True) -> Path | None:
    """The checkpoint that a path names, or a run's newest intact one; None if it is not a run.

    Parameters
    ----------
    path
        Path of a checkpoint or of the output folder of a run.
    whole
        Read the weights and compare them with their seal; otherwise check only that they exist.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, or the run has no intact checkpoint.
    """
    place = Path(path)
    unread = _UNREAD if whole else {*_UNREAD, _TRAINED}
    if checkpoints.step_of(place) is not None and place.is_dir():
        try:
            _seals.check_folder(place, leave_out=unread)
        except _seals.Broken as error:
            raise ValueError(f"the checkpoint is damaged: {error}{_other(place)}") from error
        return place
    if (place / "config.json").is_file() or not place.is_dir():
        return None
    within = place if place.name == CHECKPOINTS else place / CHECKPOINTS
    found = checkpoints.checkpoints(within)
    for checkpoint in reversed(found):
        try:
            _seals.check_folder(checkpoint, leave_out=unread)
        except _seals.Broken as error:
            problem = f"{checkpoint} is damaged ({error}); the one before is taken"
            warnings.warn(problem, stacklevel=4)
        else:
            return checkpoint
    if found or (place / LOG).is_file():
        raise ValueError("the run has neither a model nor an intact checkpoint")
    return None


def _other(place: Path) -> str:
    """End of a message that names another checkpoint to use."""
    others = [p for p in checkpoints.checkpoints(place.parent) if p.name != place.name]
    found = next((p for p in reversed(others) if checkpoints.intact(p)), None)
    return "" if found is None else f"; {found} is intact"


def surroundings(checkpoint: Path) -> Surroundings:
    """Read the shared files of a checkpoint.

    Raises
    ------
    ValueError
        If they are damaged or absent.
    """
    folder = checkpoint.parent / SURROUNDINGS
    try:
        _seals.check_folder(folder, leave_out={_FROZEN})  # `fill` checks these
    except _seals.Broken as error:
        raise ValueError(
            f"{folder} cannot be used, as of {error}; start the command of the run once more, "
            "which stores it"
        ) from error
    return Surroundings(folder, **read_json(folder / _ABOUT))


def fill(model: nn.Module, checkpoint: Path, known: Collection[str]) -> None:
    """Copy the weights of a checkpoint into a model.

    Parameters
    ----------
    model
        The model as in the trainer, with adapters.
    checkpoint
        Folder of the trained weights.
    known
        Names of weights that the model already has.

    Raises
    ------
    ValueError
        If the weights do not belong to the model.
    """
    _seals.check_folder(checkpoint.parent / SURROUNDINGS)
    frozen = checkpoint.parent / SURROUNDINGS / _FROZEN
    given = load_file(frozen) if frozen.is_file() else {}
    trained = load_file(checkpoint / _TRAINED)
    given |= {name.removeprefix(_POLICY): value for name, value in trained.items()}
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    needed = {name for name, _ in model.named_parameters()} - set(known)
    if wrong := sorted((set(given) - set(own)) | (needed - set(given))):
        raise ValueError(f"the checkpoint is of another model, as its {wrong[0]} shows")
    with no_grad():
        for name, value in given.items():
            own[name].copy_(value)
