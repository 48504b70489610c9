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


class Dropout:
    """Switch of the dropout of a model.

    Its modules are searched once: a model with adapters has thousands, and a search takes 10 ms.

    Parameters
    ----------
    model
        A model of transformers or peft, in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        holders = [vars(module) for module in modules]
        holders.append(vars(below_adapters(model).config))
        self._rates: list[tuple[dict[str, Any], str, float | bool]] = [
            (holder, name, 0.0) for holder in holders for name in _named(holder)
        ]
        self._rates += [
            (vars(layer), "p", 0.0)
            for layer in modules
            if isinstance(layer, nn.modules.dropout._DropoutNd)
        ]
        # In some routers of experts the rate is a threshold, too, which evaluation also uses.
        self._rates += [
            (holder, "training", False)
            for holder in holders[:-1]
            if any("jitter" in name for name in holder)
        ]

    def during(self, objective: int, when: When) -> Any:
        """Context manager for the loss and gradient of a pass: with or without dropout.

        Parameters
        ----------
        objective
            0 for SFT, 1 for preference.
        when
            Which updates use the model's dropout.
        """
        kept = when == "always" or (when == "sft" and objective == SFT)
        return nullcontext() if kept else self.off()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Set every dropout rate to zero, and restore it; the model stays in training mode.

        Dropout rates are those of torch's layers, and numbers whose names contain "drop" in modules
        and in the configuration, as many models pass these to functions. Only modules with noise in
        the choice of experts, which have a number named "jitter", leave training mode.
        """
        kept = [(*rate, rate[0][rate[1]]) for rate in self._rates if rate[0][rate[1]]]
        try:
            for holder, name, off, _ in kept:
                holder[name] = off
            yield
        finally:
            for holder, name, _, value in kept:
                holder[name] = value


def _named(holder: dict[str, Any]) -> list[str]:
    return [name for name, value in holder.items() if "drop" in name and isinstance(value, float)]
