"""What an engine runs: methods with their plans and step sizes, on a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tradeoff.methods import Method
from tradeoff.schedules import Plan


@dataclass(frozen=True)
class Setting:
    """Everything an engine needs: C methods with their plans and (C, T) step sizes, R replicas.

    ``base`` is the gap of SFT at the start, which relative limits are a share of.
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
