"""The state of a run as tensors and JSON, also of sharded models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule

from tradeoff.errors import InputError
from tradeoff.llm._corpora import Corpora
from tradeoff.llm.config import TrainConfig
from tradeoff.methods import Method

# Settings that may change when a run is resumed, as they do not change its results.
_FREE = {
    "log_every",
    "save_every",
    "keep",
    "fsync",
    "save_precision",
    "trackers",
    "rows_per_forward",
    "tokens_per_pass",
    "layout",
    "reference_cache",
    "reference_rows",
    "row_cache",
}


def identity(method: Method, config: TrainConfig, data: Corpora, model: str) -> dict[str, Any]:
    """Identity of a run: method, settings, rows and model, as JSON values."""
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    settings |= {name: getattr(config, name) for name in config.defects.determining}
    if config.reference not in ("initial", "stage"):
        settings["reference"] = os.path.normpath(config.reference)  # runs/sft/ is runs/sft.
    schedule = method.schedule.to_dict() if method.plain else method.to_dict()
    found = {"schedule": schedule, **settings, **data.fingerprints(), "model": model}
    return dict(json.loads(json.dumps(found)))


def local_weights(policy: torch.nn.Module) -> Iterator[Tensor]:
    """Trained weights, or the part of them that this process holds."""
    for weight in policy.parameters():
        if weight.requires_grad:
            yield weight.to_local() if hasattr(weight, "to_local") else weight


def copies(policy: torch.nn.Module) -> list[Tensor]:
    """Copies of :func:`local_weights` in the processor's memory."""
    return [weight.detach().to("cpu", copy=True) for weight in local_weights(policy)]


def put_back(policy: torch.nn.Module, kept: list[Tensor]) -> None:
    """Restore the weights that :func:`copies` kept."""
    for weight, before in zip(local_weights(policy), kept, strict=True):
        weight.detach().copy_(before)


def weights(policy: Any) -> dict[str, Tensor]:
    """Whole trained weights by name; empty on all processes but the first."""
    found = get_model_state_dict(policy, options=_options(ignore_frozen_params=True))
    # Tied weights are there under two names; frozen tied weights are there under the second.
    trained = _trained(policy)
    return {n: value for n, value in found.items() if n in trained and isinstance(value, Tensor)}


def every_weight(policy: Any) -> dict[str, Tensor]:
    """Whole weights and buffers by the model's own names; as `weights`, but with frozen ones."""
    found = get_model_state_dict(policy, options=_options())
    return {n.removeprefix("model."): v for n, v in found.items() if isinstance(v, Tensor)}


def set_weights(policy: Any, found: dict[str, Any], file: Path) -> None:
    """Restore trained weights.

    Raises
    ------
    InputError
        If a weight is missing; the message names `file`.
    """
    if absent := _trained(policy) ^ set(found):
        raise InputError(
            "the checkpoint does not hold the trained weights",
            file=file,
            value=sorted(absent)[0],
            remedy=f"Remove {file.name}; the run then goes on from the one before.",
        )
    set_model_state_dict(policy, found, options=_options(strict=False))


def _trained(policy: Any) -> set[str]:
    """Names of the trained weights, one for each weight."""
    names = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    return {name.removeprefix("module.") for name in names}


def optimizer(policy: Any, given: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Moments of an optimiser, named ``weight/moment``, and its settings; empty without moments.

    Moments that are single numbers, such as a count of updates, are among the settings.
    """
    if not given.state:
        return {}, {}
    _reshard(policy)
    found: dict[str, Any] = dict(get_optimizer_state_dict(policy, given, options=_options()))
    moments = {
        f"{weight}/{name}": value
        for weight, moments in found.get("state", {}).items()
        for name, value in moments.items()
    }
    tensors = {place: value for place, value in moments.items() if isinstance(value, Tensor)}
    numbers = {place: value for place, value in moments.items() if place not in tensors}
    settings = {"param_groups": found.get("param_groups", [])}
    return tensors, settings | ({"numbers": numbers} if numbers else {})


def check_optimizer(given: Any) -> None:
    """Raise an `InputError` if an optimiser remembers what no checkpoint can hold."""
    for moments in given.state.values():
        for name, value in moments.items():
            if not (value is None or isinstance(value, Tensor | bool | int | float)):
                raise InputError(
                    f"a checkpoint cannot hold the {name!r} of {type(given).__name__}",
                    field="optimizer",
                    value=type(value).__name__,
                    remedy="Use an optimiser whose state is tensors and numbers, or train without "
                    "an output folder.",
                )


def set_optimizer(
    policy: Any, given: Any, tensors: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    """Restore the state of an optimiser."""
    if not tensors and not settings:
        return
    _reshard(policy)
    moments: dict[str, Any] = {}
    for place, value in {**tensors, **settings.get("numbers", {})}.items():
        weight, name = place.rsplit("/", 1)
        moments.setdefault(weight, {})[name] = value
    found: dict[str, Any] = {"state": moments, "param_groups": settings["param_groups"]}
    # A weight that no gradient has reached has no moments.
    set_optimizer_state_dict(policy, given, found, options=_options(strict=False))


def _reshard(policy: Any) -> None:
    """Shard the outermost weights again, which FSDP2 leaves whole after a forward pass alone."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _options(*, ignore_frozen_params: bool = False, strict: bool = True) -> StateDictOptions:
    return StateDictOptions(
        full_state_dict=True,
        cpu_offload=True,
        ignore_frozen_params=ignore_frozen_params,
        strict=strict,
    )
