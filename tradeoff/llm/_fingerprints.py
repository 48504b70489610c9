"""Fingerprints of models: SHA-256 over the configuration and every byte of each weight.

Tensors are hashed in place, several at a time; those in the processor's memory are not copied. This
takes about a second for each GiB and core, if the processor has instructions for SHA-256.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tradeoff._seals import WORKERS
from tradeoff.llm import batches

_OF_NO_MATTER = {"architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"}
"""Entries of a configuration that change no log-probability, or that show in the weights. Entries
whose names begin with an underscore are left out, too."""
_OF_NO_MATTER_IN_ADAPTERS = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "runtime_config",
}


def model_fingerprint(model: nn.Module, *, adapters: bool = True) -> str:
    """SHA-256 over the configuration of a model and all of its weights.

    Adapters whose second matrix is zero change nothing yet, and their first matrix is random. So
    their values are left out.

    Parameters
    ----------
    model
        A model of transformers or peft. Sharded weights are gathered one by one, so all processes
        must call this.
    adapters
        Whether names, shapes and settings of such adapters count. If not, the model has the
        fingerprint of the model below them.
    """
    weights = dict(model.state_dict())
    fresh = not any(bool(value.any()) for name, value in weights.items() if "lora_B" in name)
    drawn = {name: value for name, value in weights.items() if fresh and "lora_" in name}
    kept = {_plain(name): value for name, value in weights.items() if name not in drawn}
    found = hashlib.sha256(_settings(getattr(model, "config", None), _OF_NO_MATTER).encode())
    for line in _lines(kept):
        found.update(line.encode())
    if adapters or not fresh:
        about: dict[str, Any] = {n: tuple(value.shape) for n, value in sorted(drawn.items())}
        for name, settings in sorted(getattr(model, "peft_config", {}).items()):
            about[name] = _settings(settings, _OF_NO_MATTER_IN_ADAPTERS)
        found.update(f"{about}".encode())
    return found.hexdigest()


def dotted_name(made: Callable[..., Any]) -> str:
    """Module and name of a function or class.

    A lambda, a function made in another one, or one with given arguments shares its name with
    others. A digest of its code and of the plain values that it holds follows, as in ``-1a2b3c4d``.
    """
    held: list[Any] = []
    while isinstance(made, functools.partial):
        held += [*made.args, *sorted(made.keywords.items())]
        made = made.func
    named = made if hasattr(made, "__qualname__") else type(made)
    name = f"{named.__module__}.{named.__qualname__}"
    if "<" in name and isinstance(made, FunctionType):
        held += [made.__code__, made.__defaults__, made.__kwdefaults__]
        held += inspect.getclosurevars(made).nonlocals.items()
    return f"{name}-{hashlib.sha256(_held(held).encode()).hexdigest()[:8]}" if held else name


def _held(value: Any) -> str:
    """What a function holds, as text without places in memory or in a file."""
    if isinstance(value, CodeType):
        return _held((value.co_code.hex(), value.co_names, value.co_consts))
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_held, value))})"
    if isinstance(value, dict | frozenset):
        items = value.items() if isinstance(value, dict) else value
        return f"{{{', '.join(sorted(map(_held, items)))}}}"
    plain = value is None or isinstance(value, bool | int | float | complex | str | bytes)
    return repr(value) if plain else str(getattr(value, "__qualname__", type(value).__qualname__))


def own_collator(collator: batches.Collator) -> dict[str, str]:
    """A collator's name as an entry of an identity; empty for that of this package."""
    return {} if collator is batches.collate else {"own_collator": dotted_name(collator)}


def _lines(weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Name, shape, type and hash of each tensor, by name."""
    names = iter(sorted(weights))
    with ThreadPoolExecutor(WORKERS) as pool:
        # A few at a time, as gathered copies of sharded weights need memory.
        while few := list(islice(names, WORKERS)):
            tensors = [_whole(weights[name]) for name in few]
            for name, value, found in zip(few, tensors, pool.map(_digest, tensors), strict=True):
                yield f"{name} {tuple(value.shape)} {value.dtype} {found}\n"


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _digest(value: Tensor) -> str:
    if isinstance(value, FakeTensor):  # a tensor without content, when only bytes are counted
        return ""
    plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(plain.numpy().data).hexdigest()


def _plain(name: str) -> str:
    """The name of a weight without the wrappers of peft."""
    return name.replace("base_model.model.", "", 1).replace(".base_layer", "")


def _settings(config: Any, left_out: Collection[str]) -> str:
    """A configuration of transformers or peft as text; empty if there is none."""
    read = getattr(config, "to_diff_dict", getattr(config, "to_dict", dict))
    found = {name: value for name, value in read().items() if name[0] != "_"}
    kept = {name: value for name, value in found.items() if name not in left_out}
    return json.dumps(kept, sort_keys=True, default=_as_json)


def _as_json(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)
