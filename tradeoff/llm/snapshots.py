"""A checkpoint as a model: what its trained weights need around them, stored once for a run.

``checkpoints/model/`` of a run holds configuration, tokenizer, the settings of adapters, the name
of the model below them and, where no files hold it, that model's frozen weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn, no_grad

from tradeoff import seals
from tradeoff.llm import checkpoints, origin
from tradeoff.llm.journal import LOG
from tradeoff.records import read_json, replacing_folder, write_json

CHECKPOINTS, SURROUNDINGS = "checkpoints", "model"
"""Folder of the checkpoints of a run; folder, beside them, of what makes each of them a model."""
_ABOUT, _FROZEN, _TRAINED = "about.json", "frozen.safetensors", "policy.safetensors"
_UNREAD = {"hooks.safetensors", "optimizer.safetensors", "reference.safetensors"}
"""Files of a checkpoint that are no part of the model."""
_POLICY = "model."
"""What the names of a policy's weights have before those of its model."""


@dataclass(frozen=True)
class Surroundings:
    """What a checkpoint needs to become a model.

    Attributes
    ----------
    folder
        With configuration and tokenizer and, where `adapter` is given, those of the adapters.
    base
        Folder or hub name of the model below adapters; None where the weights are all here.
    adapter
        Name of the adapters.
    base_files
        SHA-256 of the files of the model below, by name.
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
    """Store what surrounds the checkpoints of a run, complete or not at all.

    Parameters
    ----------
    run
        Output folder.
    model
        Of transformers, or of peft.
    tokenizer
        Of the model.
    base
        Where the model below adapters is, if files hold it.
    frozen
        Weights by name that are neither trained nor in those files.
    sync
        Wait until the disk has it.
    """
    below = model.get_base_model() if hasattr(model, "get_base_model") else model
    with replacing_folder(run / CHECKPOINTS / SURROUNDINGS, sync=sync) as partial:
        below.config.save_pretrained(partial)
        if below.generation_config is not None:
            below.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        adapter = model.active_adapter if below is not model else None
        if adapter is not None:
            model.peft_config[adapter].save_pretrained(partial)
        if base is not None and Path(base).exists():
            base = str(Path(base).resolve())
        files = {} if base is None else origin.digests(base)
        write_json(partial / _ABOUT, {"base": base, "adapter": adapter, "base_files": files})
        if frozen:
            plain = {name: value.detach().cpu().contiguous() for name, value in frozen.items()}
            save_file(plain, partial / _FROZEN)
        seals.seal_folder(partial)


def is_written(run: Path) -> bool:
    """Whether the checkpoints of a run have what surrounds them, as it was written."""
    folder = run / CHECKPOINTS / SURROUNDINGS
    if not folder.exists():
        return False
    try:
        seals.check_folder(folder)
    except seals.Broken as error:
        warnings.warn(f"{error.file}: {error.problem}; it is written anew", stacklevel=4)
        return False
    return True


def checkpoint_of(path: str, *, whole: bool = True) -> Path | None:
    """The checkpoint that a path names, or the newest intact one of a run; None if it is no run.

    Parameters
    ----------
    path
        Of a checkpoint or of the output folder of a run.
    whole
        Compare the weights with their seal, which reads them; else only that they are there.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, or the run has none that is intact.
    """
    place = Path(path)
    unread = _UNREAD if whole else {*_UNREAD, _TRAINED}
    if checkpoints.step_of(place) is not None and place.is_dir():
        try:
            seals.check_folder(place, leave_out=unread)
        except seals.Broken as error:
            raise ValueError(f"the checkpoint is damaged: {error}{_other(place)}") from error
        return place
    if (place / "config.json").is_file() or not place.is_dir():
        return None
    within = place if place.name == CHECKPOINTS else place / CHECKPOINTS
    found = checkpoints.checkpoints(within)
    for checkpoint in reversed(found):
        try:
            seals.check_folder(checkpoint, leave_out=unread)
        except seals.Broken as error:
            problem = f"{checkpoint} is damaged ({error}); the one before is taken"
            warnings.warn(problem, stacklevel=4)
        else:
            return checkpoint
    if found or (place / LOG).is_file():
        raise ValueError("the run has neither a model nor an intact checkpoint")
    return None


def _other(place: Path) -> str:
    """Which other checkpoint can be used instead, as the end of a sentence."""
    others = [p for p in checkpoints.checkpoints(place.parent) if p.name != place.name]
    found = next((p for p in reversed(others) if checkpoints.intact(p)), None)
    return "" if found is None else f"; {found} is intact"


def surroundings(checkpoint: Path) -> Surroundings:
    """What is stored beside a checkpoint.

    Raises
    ------
    ValueError
        If it is damaged, or the run that wrote the checkpoint stored nothing.
    """
    folder = checkpoint.parent / SURROUNDINGS
    try:
        seals.check_folder(folder, leave_out={_FROZEN})  # `fill` looks at them
    except seals.Broken as error:
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
        As the trainer had it, with adapters.
    checkpoint
        Where the trained weights are.
    known
        Names of weights that the model has already.

    Raises
    ------
    ValueError
        If the weights are not those of the model.
    """
    seals.check_folder(checkpoint.parent / SURROUNDINGS)
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
