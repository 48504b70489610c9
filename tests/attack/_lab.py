"""Functions that studies of an attack call."""

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
    """Three rows that depend on the seed alone."""
    rng = np.random.default_rng([configuration["seed"], 7])
    return pd.DataFrame({"step": range(3), "loss": rng.normal(size=3)})


def dies(configuration: dict[str, Any]) -> pd.DataFrame:
    """As `noise`, but of one seed the process is killed."""
    if configuration["seed"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return noise(configuration)


def fails(configuration: dict[str, Any]) -> pd.DataFrame:
    """As `noise`, but one seed fails with the text of its configuration."""
    if configuration["seed"] == 2:
        raise ValueError(configuration["text"])
    return noise(configuration)


def run(folder: Any, **settings: Any) -> pd.DataFrame:
    """The study of `noise`, in this process."""
    return study.run(noise, GRID, folder, backend="sequential", progress=False, **settings)
