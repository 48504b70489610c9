"""Models on disk: weights as safetensors, settings as JSON; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from tradeoff import records
from tradeoff.errors import InputError
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig

_WEIGHTS = "model.safetensors"


def save(model: LanguageModel, folder: str | PathLike[str]) -> None:
    """Write `model.safetensors` and `settings.json` into a folder.

    A new folder appears only when it is complete. Other files in an existing folder stay.
    """
    write_folder(folder, model.state_dict(), {"settings.json": asdict(model.config)})


def load(folder: str | PathLike[str]) -> LanguageModel:
    """Read what `save` wrote.

    Raises
    ------
    InputError
        If a file is absent or damaged, or the two files do not fit each other.
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
    """Make a model of this shape with these weights."""
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
        return dict(records.read_json(path))
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
    """Write weights and JSON files; none gets its final name before all of them are complete.

    A new folder appears only when it is complete, so a reader can rely on it. Other files in an
    existing folder stay.
    """
    folder = Path(folder)
    if not folder.exists():
        with records.replacing_folder(folder) as partial:
            write_folder(partial, state, files)
        return
    with ExitStack() as all_or_none:
        partials = {
            name: all_or_none.enter_context(records.replacing(folder / name))
            for name in (*files, _WEIGHTS)
        }
        # Safetensors refuses tensors that share storage and tensors with gaps.
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
        # safetensors' own writer leaves a temporary file when the process is killed.
        partials[_WEIGHTS].write_bytes(to_bytes(tensors, {"format": "pt"}))
        for name, content in files.items():
            # records.write_json would round.
            text = json.dumps(content, indent=2, ensure_ascii=False)
            partials[name].write_text(text + "\n", encoding="utf-8")
