"""Functions of the studies in attacks."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pandas as pd

from tradeoff import study
from tradeoff.schedules import Mix

GRID = study.grid(schedule=Mix(), seed=range(4))


def noise(configuration: dict[str, Any]) -> pd.DataFrame:
    """Make three rows that depend on the seed alone."""
    rng = np.random.default_rng([configuration["seed"], 7])
    return pd.DataFrame({"step": range(3), "loss": rng.normal(size=3)})


def dies(configuration: dict[str, Any]) -> pd.DataFrame:
    """As `noise`, but the process is killed at one seed."""
    if configuration["seed"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return noise(configuration)


def fails(configuration: dict[str, Any]) -> pd.DataFrame:
    """As `noise`, but one seed fails with the text of its configuration."""
    if configuration["seed"] == 2:
        raise ValueError(configuration["text"])
    return noise(configuration)


def run(folder: Any, **settings: Any) -> pd.DataFrame:
    """Run the study of `noise` in this process."""
    return study.run(noise, GRID, folder, backend="sequential", progress=False, **settings)
