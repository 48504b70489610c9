"""The input of an engine: methods with their plans and step sizes, on a problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tradeoff.methods import Method
from tradeoff.schedules import Plan


@dataclass(frozen=True)
class Setting:
    """The input of an engine: C methods with their plans and (C, T) step sizes, R replicas.

    ``base`` is the gap of SFT at the start; relative limits are shares of it. ``compiled``: data
    points may be evaluated by compiled functions. Configurations of one method share its plan.
    """

    problem: Any
    methods: list[Method]
    plans: list[Plan]
    alphas: Float[np.ndarray, "C T"]
    replicas: int
    seed: int
    start: Float[np.ndarray, " d"]
    checkpoints: Int[np.ndarray, " K"]
    optima: Float[np.ndarray, " 2"]
    base: float
    full: bool
    progress: bool = False
    compiled: bool = False


def alike(keys: Iterable[Any]) -> list[tuple[Any, Int[np.ndarray, " G"]]]:
    """Distinct keys in the order in which they first occur, each with its positions."""
    found: list[tuple[Any, list[int]]] = []
    for place, key in enumerate(keys):
        places = next((places for known, places in found if known == key), None)
        if places is None:
            found.append((key, [place]))
        else:
            places.append(place)
    return [(key, np.array(places)) for key, places in found]


def places(members: Int[np.ndarray, " G"]) -> Any:
    """The members as a slice if they are consecutive, so that indexing copies no array."""
    first, last = int(members[0]), int(members[-1])
    return slice(first, last + 1) if last - first == len(members) - 1 else members
