"""A user's own rows as a problem of the board."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np

from tradeoff.arena.instances import Instance
from tradeoff.convex import LogLinear
from tradeoff.convex.text import text_problem
from tradeoff.data import files
from tradeoff.errors import InputError

ROWS = 128
"""Most rows of each set, drawn; each run takes some hundred of them."""
WIDTH = 128
"""Hashed features of a response, so few that the board is done in minutes."""
RADIUS, BETA = 8.0, 1.0
"""Radius of the parameters, and inverse temperature of the preference loss."""


def is_theirs(name: str) -> bool:
    """Whether the name of a problem is that of files."""
    return "," in name


@cache
def theirs(name: str) -> Instance:
    """The problem of files of rows, named ``sft,preferences``.

    The policy chooses among a few responses by hashed features, as `tradeoff analyse` sets it up,
    with fewer features and rows. Two more files are held-out rows, which take the place of the law
    that the rows were drawn from: ``sft,preferences,held-out sft,held-out preferences``.

    Parameters
    ----------
    name
        Two or four paths with commas between them: SFT rows, then preference rows.

    Raises
    ------
    InputError
        If there are not two or four files, or their rows cannot be used.
    """
    paths = name.split(",")
    if len(paths) not in {2, 4} or not all(paths):
        raise InputError(
            "not two files of rows, or four",
            field="problem",
            value=name,
            remedy="Give SFT rows and preference rows, such as skills.jsonl,taste.jsonl. Two more "
            "files are held-out rows.",
        )
    problem, *aside = (_built(*paths[k : k + 2]) for k in range(0, len(paths), 2))
    counts = f"{len(problem.demonstrations)} demonstrations, {len(problem.chosen)} pairs"
    rows = "".join(_digest(each) for each in (problem, *aside))
    law = (lambda: aside[0]) if aside else None
    return Instance(name, f"your rows: {counts}", lambda: problem, law, rows)


def _built(sft: str, preferences: str) -> LogLinear:
    problem = text_problem(
        files.read_sft(sft, sample=ROWS, seed=0),
        files.read_preferences(preferences, sample=ROWS, seed=0),
        radius=RADIUS,
        beta=BETA,
        n_features=WIDTH,
    )
    # Dense features run compiled, and there are few of them.
    return replace(problem, features=problem.dense_features)


def _digest(problem: LogLinear) -> str:
    """Hash of the problem, so that runs on other rows are not taken for these."""
    found = hashlib.sha256()
    rows = problem.demonstrations, problem.chosen, problem.rejected
    for part in (problem.dense_features, problem.offsets, *rows):
        found.update(np.asarray(part).tobytes())
    return found.hexdigest()[:16]
