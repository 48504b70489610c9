"""Whether the files that a model was loaded from still hold its weights.

Weights change in memory without a trace in the model's name: adapters are merged into them,
another trainer has trained them, embeddings are resized. Adapters that named such files as their
base would load as something that was never trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tradeoff import seals
from tradeoff.llm import pretrained

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)


def holds(source: str, weights: Mapping[str, Tensor], model: Any) -> bool:
    """Whether a folder or hub name holds exactly these weights.

    Every tensor is compared, in the precision of `weights`: float32 files hold a model that was
    loaded from them in bfloat16.

    Parameters
    ----------
    source
        Where the model was loaded from, by its own account.
    weights
        All of the model's, by the names it has for them; tied ones under one name.
    model
        The model of transformers, for its class and for the prefix of its names.
    """
    try:
        found = _differs(source, weights, model.base_model_prefix)
        return not (_differs_loaded(source, weights, model) if found is None else found)
    except _UNREADABLE:  # Files that cannot be read hold nothing.
        return False


def digests(source: str) -> dict[str, str]:
    """SHA-256 of each file that a model is read from: its configuration and weights, by name."""
    from transformers.utils.hub import cached_file

    index = cached_file(source, _INDEX, _raise_exceptions_for_missing_entries=False)
    others = [cached_file(source, "config.json"), index]
    paths = [*(Path(str(file)) for file in others if file is not None), *_files(source)]
    return dict(zip([path.name for path in paths], seals.digests(paths), strict=True))


def check(source: str, expected: Mapping[str, str]) -> None:
    """Compare the files of a model with what :func:`digests` said of them.

    Raises
    ------
    ValueError
        If they are others by now.
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
    """Whether a tensor of the files differs; None where they name the tensors otherwise."""
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
    """As :func:`_differs`, of the model that transformers makes of the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other, _ = pretrained.read(source, "CausalLM", dtype=model.dtype)
    found = other.state_dict()
    return not all(name in found and _same(found[name], v) for name, v in weights.items())


def _same(stored: Tensor, value: Tensor) -> bool:
    return stored.shape == value.shape and bool((stored.to(value.dtype) == value.cpu()).all())


def _files(source: str) -> list[Path]:
    """The files of weights, of a folder or, from its cache, of the hub."""
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    index = cached_file(source, _INDEX, _raise_exceptions_for_missing_entries=False)
    if index is None:
        return [Path(str(cached_file(source, _SINGLE)))]
    return [Path(file) for file in get_checkpoint_shard_files(source, index)[0]]


def _names(file: Path) -> Iterator[str]:
    with safe_open(file, "pt") as content:
        yield from content.keys()
