"""Comparison of a model with the files it was loaded from.

Weights can change in memory while the model keeps its name: adapters are merged into them, another
trainer trains them, embeddings are resized. If adapters then named the old files as their base,
they would be loaded on weights with which they were never trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tradeoff import _seals
from tradeoff.llm import _pretrained
from tradeoff.llm._model_files import INDEX

_SINGLE = "model.safetensors"
_UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)


def holds(source: str, weights: Mapping[str, Tensor], model: Any) -> bool:
    """Whether a folder or hub name holds exactly these weights.

    Every tensor is compared, in the precision of `weights`: float32 files hold a model that was
    loaded from them in bfloat16.

    Parameters
    ----------
    source
        Folder or hub name from which the model was loaded, according to its configuration.
    weights
        All weights of the model by its names; tied weights have one name.
    model
        The model of transformers, for its class and the prefix of its names.
    """
    try:
        found = _differs(source, weights, model.base_model_prefix)
        return not (_differs_loaded(source, weights, model) if found is None else found)
    except _UNREADABLE:  # Files that cannot be read do not hold the weights.
        return False


def digests(source: str) -> dict[str, str]:
    """SHA-256 of each file of a model, configuration and weights, by name."""
    from transformers.utils.hub import cached_file

    index = cached_file(source, INDEX, _raise_exceptions_for_missing_entries=False)
    others = [cached_file(source, "config.json"), index]
    paths = [*(Path(str(file)) for file in others if file is not None), *_files(source)]
    return dict(zip([path.name for path in paths], _seals.digests(paths), strict=True))


def check(source: str, expected: Mapping[str, str]) -> None:
    """Compare the files of a model with their earlier :func:`digests`.

    Raises
    ------
    ValueError
        If a file has changed.
    """
    try:
        found = digests(source)
    except _UNREADABLE as error:
        raise ValueError(f"the base model {source} cannot be read: {error}") from error
    changed = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
    if changed:
        raise ValueError(
            f"the base model {source} has changed since the adapters upon it were trained, as its "
            f"{changed[0]} shows; restore that file"
        )


def _differs(source: str, weights: Mapping[str, Tensor], prefix: str) -> bool | None:
    """Whether a tensor of the files differs; None if the files use other names for the tensors."""
    files = {name: file for file in _files(source) for name in _names(file)}
    places: dict[Path, dict[str, Tensor]] = {}
    for name, value in weights.items():
        other = name.removeprefix(f"{prefix}.")
        stored = next((n for n in (name, other, f"{prefix}.{name}") if n in files), None)
        if stored is None:
            return None
        places.setdefault(files[stored], {})[stored] = value
    for file, values in places.items():
        with safe_open(file, "pt") as content:
            if not all(_same(content.get_tensor(name), value) for name, value in values.items()):
                return True
    return False


def _differs_loaded(source: str, weights: Mapping[str, Tensor], model: Any) -> bool:
    """As :func:`_differs`, for the model that transformers loads from the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other, _ = _pretrained.read(source, "CausalLM", dtype=model.dtype)
    found = other.state_dict()
    return not all(name in found and _same(found[name], v) for name, v in weights.items())


def _same(stored: Tensor, value: Tensor) -> bool:
    return stored.shape == value.shape and bool((stored.to(value.dtype) == value.cpu()).all())


def _files(source: str) -> list[Path]:
    """The files of weights in a folder, or in the cache of the hub."""
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    index = cached_file(source, INDEX, _raise_exceptions_for_missing_entries=False)
    if index is None:
        return [Path(str(cached_file(source, _SINGLE)))]
    return [Path(file) for file in get_checkpoint_shard_files(source, index)[0]]


def _names(file: Path) -> Iterator[str]:
    with safe_open(file, "pt") as content:
        yield from content.keys()
