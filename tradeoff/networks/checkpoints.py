"""Models on disk: weights as safetensors, settings as JSON; nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tradeoff.errors import InputError
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig

_WEIGHTS = "model.safetensors"


def save(model: LanguageModel, folder: str | PathLike[str]) -> None:
    """Write `model.safetensors` and `settings.json` into a folder, made if absent."""
    write_folder(folder, model.state_dict(), {"settings.json": asdict(model.config)})


def load(folder: str | PathLike[str]) -> LanguageModel:
    """Read what `save` wrote.

    Raises
    ------
    InputError
        If a file is absent, damaged, or does not fit the other.
    """
    settings = read_json(Path(folder) / "settings.json")
    try:
        config = LanguageModelConfig(**settings)
    except TypeError as error:
        remedy = "Give a folder that tradeoff.networks.checkpoints.save wrote."
        raise InputError(str(error), file=str(folder), remedy=remedy) from error
    return fill(config, read_weights(folder), folder)


def fill(
    config: LanguageModelConfig, weights: Mapping[str, Tensor], folder: str | PathLike[str]
) -> LanguageModel:
    """A model of this shape with these weights."""
    model = LanguageModel(config)
    if config.tied:
        # A tied Llama may store its one matrix twice.
        weights = {name: w for name, w in weights.items() if name != "lm_head.weight"}
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        remedy = "Give a folder whose two files belong together."
        raise InputError(
            f"weights and settings do not fit: {error}", file=str(folder), remedy=remedy
        ) from error
    return model


def read_json(path: Path) -> dict[str, Any]:
    """The object in a settings file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        remedy = "Give the folder of a saved model."
        raise InputError(
            f"settings cannot be read: {error}", file=str(path), remedy=remedy
        ) from error


def read_weights(folder: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a folder, by name."""
    path = Path(folder) / _WEIGHTS
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        remedy = "Give the folder of a saved model, in one file of weights."
        raise InputError(
            f"weights cannot be read: {error}", file=str(path), remedy=remedy
        ) from error


def write_folder(
    folder: str | PathLike[str], state: Mapping[str, Tensor], files: Mapping[str, Any]
) -> None:
    """Write weights and JSON files; none takes its name before all of them are complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = {name: folder / f".{name}.{os.getpid()}" for name in (*files, _WEIGHTS)}
    try:
        # Safetensors refuses tensors that share storage and tensors with gaps.
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
        save_file(tensors, partial[_WEIGHTS], metadata={"format": "pt"})
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False)
            partial[name].write_text(text + "\n", encoding="utf-8")
        for name, path in partial.items():
            path.replace(folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
