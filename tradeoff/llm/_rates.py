"""Learning rates of the updates; each stage of a schedule begins anew."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from tradeoff.llm.config import TrainConfig
from tradeoff.schedules import stage_lengths


def learning_rates(config: TrainConfig, clock: Int[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Learning rate of each update, as the schedules of transformers define it.

    Warm-up rises linearly from zero. "linear" falls to zero at the end of the stage. "cosine" falls
    along half a wave.
    """
    pairs = zip(clock.tolist(), stage_lengths(clock).tolist(), strict=True)
    return np.array([config.learning_rate * _factor(config, c - 1, n) for c, n in pairs])


def _factor(config: TrainConfig, done: int, length: int) -> float:
    if done < config.warmup:
        return done / config.warmup
    share = (done - config.warmup) / max(1, length - config.warmup)
    if config.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 1 - share if config.decay == "linear" else 1.0
