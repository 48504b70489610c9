"""Dropout of a policy: on for demonstrations, off for preferences, as in TRL.

A preference loss compares the policy with a reference that has no dropout. Noise in only one of
them would bias the comparison: the loss of the first update would not be log 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from torch import nn

from tradeoff.llm.models import below_adapters
from tradeoff.schedules import SFT

When = Literal["sft", "always", "never"]


def during(model: nn.Module, objective: int, when: When) -> Any:
    """Context manager for the loss and gradient of a pass: with or without dropout.

    Parameters
    ----------
    model
        A model of transformers or peft, in training mode.
    objective
        0 for SFT, 1 for preference.
    when
        Which updates use the model's dropout.
    """
    kept = when == "always" or (when == "sft" and objective == SFT)
    return nullcontext() if kept else without_dropout(model)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Set every dropout rate to zero, and restore it; the model stays in training mode.

    Dropout rates are those of torch's layers, and numbers whose names contain "drop" in modules and
    in the configuration, as many models pass these to functions.
    """
    holders = [vars(module) for module in model.modules()]
    holders.append(vars(below_adapters(model).config))
    kept = [(holder, name, holder[name]) for holder in holders for name in _rates(holder)]
    kept += [
        (vars(layer), "p", layer.p)
        for layer in model.modules()
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p
    ]
    try:
        for holder, name, _ in kept:
            holder[name] = 0.0
        yield
    finally:
        for holder, name, value in kept:
            holder[name] = value


def _rates(holder: dict[str, Any]) -> list[str]:
    return [
        name
        for name, value in holder.items()
        if "drop" in name and isinstance(value, float) and value > 0
    ]
