"""The state of a run as tensors and JSON, whatever the model is spread over."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from tradeoff.llm.config import TrainConfig
from tradeoff.llm.corpora import Corpora
from tradeoff.schedules import Schedule

# Settings that may differ between a run and its resumption: they do not change what is trained.
_FREE = {"log_every", "save_every", "keep", "trackers", "rows_per_forward", "reference_cache"}


def identity(schedule: Schedule, config: TrainConfig, data: Corpora) -> dict[str, Any]:
    """What makes two runs the same: schedule, settings and rows, as JSON values."""
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    found = {"schedule": schedule.to_dict(), **settings, **data.fingerprints()}
    return dict(json.loads(json.dumps(found)))


def weights(policy: Any) -> dict[str, Tensor]:
    """Trained weights by name, whole; empty on all processes but the first of several."""
    found = get_model_state_dict(policy, options=_options(ignore_frozen_params=True))
    kept: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, value in found.items():
        if not isinstance(value, Tensor):
            continue
        # Tied weights have two names and one storage.
        place = (value.data_ptr(), tuple(value.shape))
        if place not in seen:
            kept[name] = value
            seen.add(place)
    return kept


def set_weights(policy: Any, found: dict[str, Any]) -> None:
    """Put trained weights back."""
    set_model_state_dict(policy, found, options=_options(strict=False))


def optimizer(policy: Any, given: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Moments of an optimiser, named ``weight/moment``, and its settings; empty if it has none."""
    if not given.state:
        return {}, {}
    found: dict[str, Any] = dict(get_optimizer_state_dict(policy, given, options=_options()))
    tensors = {
        f"{weight}/{name}": value
        for weight, moments in found.get("state", {}).items()
        for name, value in moments.items()
    }
    return tensors, {"param_groups": found.get("param_groups", [])}


def set_optimizer(
    policy: Any, given: Any, tensors: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    """Put the state of an optimiser back."""
    if not tensors:
        return
    moments: dict[str, Any] = {}
    for place, value in tensors.items():
        weight, name = place.rsplit("/", 1)
        moments.setdefault(weight, {})[name] = value
    found: dict[str, Any] = {"state": moments, **settings}
    set_optimizer_state_dict(policy, given, found, options=_options())


def _options(*, ignore_frozen_params: bool = False, strict: bool = True) -> StateDictOptions:
    return StateDictOptions(
        full_state_dict=True,
        cpu_offload=True,
        ignore_frozen_params=ignore_frozen_params,
        strict=strict,
    )
