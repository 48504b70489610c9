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

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, no_grad

from tradeoff.llm import checkpoints
from tradeoff.records import read_json, replacing_folder, write_json

CHECKPOINTS, SURROUNDINGS = "checkpoints", "model"
"""Folder of the checkpoints of a run; folder, beside them, of what makes each of them a model."""
_ABOUT, _FROZEN, _TRAINED = "about.json", "frozen.safetensors", "policy.safetensors"
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
    """

    folder: Path
    base: str | None
    adapter: str | None


def write(
    run: Path, model: Any, tokenizer: Any, base: str | None, frozen: Mapping[str, Tensor]
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
    """
    below = model.get_base_model() if hasattr(model, "get_base_model") else model
    with replacing_folder(run / CHECKPOINTS / SURROUNDINGS) as partial:
        below.config.save_pretrained(partial)
        if below.generation_config is not None:
            below.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        adapter = model.active_adapter if below is not model else None
        if adapter is not None:
            model.peft_config[adapter].save_pretrained(partial)
        if base is not None and Path(base).exists():
            base = str(Path(base).resolve())
        write_json(partial / _ABOUT, {"base": base, "adapter": adapter})
        if frozen:
            plain = {name: value.detach().cpu().contiguous() for name, value in frozen.items()}
            save_file(plain, partial / _FROZEN)


def is_written(run: Path) -> bool:
    """Whether the checkpoints of a run have what surrounds them."""
    return (run / CHECKPOINTS / SURROUNDINGS / _ABOUT).is_file()


def checkpoint_of(path: str) -> Path | None:
    """The checkpoint that a path names, or the newest intact one of a run; None if it is no run.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, or the run has none that is intact.
    """
    place = Path(path)
    if checkpoints.step_of(place) is not None and place.is_dir():
        if not _intact(place):
            raise ValueError("the checkpoint is damaged")
        return place
    if (place / "config.json").is_file() or not place.is_dir():
        return None
    within = place if place.name == CHECKPOINTS else place / CHECKPOINTS
    found = checkpoints.checkpoints(within)
    for checkpoint in reversed(found):
        if _intact(checkpoint):
            return checkpoint
        warnings.warn(f"{checkpoint} is damaged; the one before is taken", stacklevel=4)
    if found or (place / "metrics.jsonl").is_file():
        raise ValueError("the run has neither a model nor an intact checkpoint")
    return None


def surroundings(checkpoint: Path) -> Surroundings:
    """What is stored beside a checkpoint.

    Raises
    ------
    ValueError
        If the run that wrote it stored nothing.
    """
    folder = checkpoint.parent / SURROUNDINGS
    if not (folder / _ABOUT).is_file():
        raise ValueError(
            f"{folder} is not there, as the run was made by an older version; start its command "
            "once more, which stores it"
        )
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


def _intact(checkpoint: Path) -> bool:
    """Whether the state can be read, and the weights are as long as their header says."""
    try:
        read_json(checkpoint / "state.json")
        with safe_open(checkpoint / _TRAINED, "pt") as content:
            return bool(content.keys())
    except (OSError, ValueError, SafetensorError):
        return False
