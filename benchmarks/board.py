"""The arena's whole board: its processor time, from a random sample of cells that run anew.

Some cells of each method are drawn, so that the sum over methods has an interval. Each runs alone,
which costs more than in a batch of many. The scores are compared with those of the stored board, in
all digits that are stored. Processor time, too, grows on a busy machine: see the stored load.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.arena import stored
from tradeoff.arena import Board, contenders
from tradeoff.arena.board import scored
from tradeoff.arena.runs import configuration, run
from tradeoff.study.engines import few_threads

DRAWS, SEED = 2, 0
"""Cells of each method, and the seed of their choice."""
CORES, BAR = 2, 30.0
"""The board should take at most so many minutes on so many cores."""
SHORT = 20.0
"""Budget of a run that only compiles."""


def main(draws: int = DRAWS) -> dict[str, Any]:
    board, rng = stored.shown(), np.random.default_rng(SEED)
    places = list(stored.cells(board, "regret").columns)
    frames, seconds = [], []
    for name, method in contenders(board["methods"]).items():
        chosen = [places[k] for k in rng.choice(len(places), draws, replace=False)]
        about = [
            configuration(method, name, problem, lam, board["budget"], board["replicas"])
            for problem, lam in chosen
        ]
        for problem, lam in chosen:  # makes the problem, and compiles
            run([configuration(method, name, problem, lam, SHORT, 2)])
        seconds.append([_timed(each, frames) for each in about])
    equal, each = _equal(board, pd.concat(frames)), np.array(seconds)
    total = len(places) * each.mean(axis=1).sum()
    error = len(places) * np.sqrt((each.var(axis=1, ddof=1) / draws).sum())
    minutes = float(total) / 60 / CORES
    return {
        "cells": each.size,
        "of": each.shape[0] * len(places),
        "equal_to_stored": equal,
        "cpu_seconds": {"estimate": float(total), "half_width_95": float(1.96 * error)},
        "minutes_on_two_cores": minutes,
        "bar_met": minutes <= BAR and equal == each.size,
    }


def _timed(about: dict[str, Any], frames: list[pd.DataFrame]) -> float:
    """Processor time of one cell, whose runs are added to the frames."""
    with few_threads(1):
        found = run([about])[0]
    frames.append(found.assign(**{key: about[key] for key in ("name", "problem", "lam", "steps")}))
    return float(found["cpu_seconds"].iloc[0])


def _equal(board: dict[str, Any], runs: pd.DataFrame) -> int:
    """How many cells have the scores that are stored."""
    found = Board(scored(runs.reset_index(drop=True))).cells.set_index(["name", "problem", "lam"])
    same = np.ones(len(found), dtype=bool)
    for score in board["cells"]:
        known = stored.cells(board, score).stack(["problem", "lam"], future_stack=True)
        ours = stored.array(stored.texts(found[score]))
        same &= ours == known.loc[found.index].to_numpy()
    return int(same.sum())
