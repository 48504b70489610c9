"""Sizes of the study on real text: weights, methods, seeds and length of runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.fernando2024.real import llm_text
from analysis.fernando2024.real.llm_base import Base

BASE = Base()


@dataclass(frozen=True)
class TextSizes:
    """One form of the study.

    Attributes
    ----------
    text, base
        Rows of the study, and the model at the start of every run.
    budget
        Budget of every run, in updates on demonstrations.
    batch, marks, evaluated
        Rows of an update; number of evaluations after that of the base model; held-out rows of each
        set.
    lams, sweep
        Weights of the comparison, and of the wider sweep.
    rounds
        Numbers of rounds, at weight 1/2.
    intervals
        Updates between MAXRIGHT's evaluations, at weight 1/2.
    seeds, few, fewest
        Numbers of seeds, always the first ones. ``seeds`` is for weight 1/2. ``few`` is for rounds,
        for MAXRIGHT's intervals, and for the other weights of the comparison. ``fewest`` is for the
        wider sweep and for other references.
    specialists
        Number of runs that spend everything on one objective.
    tuning
        Number of seeds on which step sizes are chosen.
    grid, guess
        Step sizes, and the one at which the search begins.
    """

    text: str = "rasbt"
    base: Base = BASE
    budget: float = 120.0
    batch: int = 4
    marks: int = 4
    evaluated: int = 100
    lams: tuple[float, ...] = (0.25, 0.5, 0.75)
    sweep: tuple[float, ...] = (0.01, 0.25, 0.5, 0.75, 0.99)
    rounds: tuple[int, ...] = (2, 4, 8)
    intervals: tuple[int, ...] = (1, 10, 50, 1000)
    seeds: int = 5
    few: int = 5
    fewest: int = 3
    specialists: int = 5
    tuning: int = 3
    grid: tuple[float, ...] = tuple(5e-5 * 2**k for k in range(9))
    guess: float = 8e-4


SCALES = {
    "full": TextSizes(),
    "fast": TextSizes(
        text=llm_text.GENERATED,
        base=replace(
            BASE,
            books=False,
            width=16,
            layers=1,
            heads=2,
            vocabulary=280,
            context=128,
            steps=10,
            batch=4,
        ),
        budget=24,
        marks=2,
        evaluated=8,
        lams=(0.5,),
        sweep=(0.25, 0.5),
        rounds=(2,),
        intervals=(1, 10, 1000),
        seeds=2,
        few=2,
        fewest=2,
        specialists=2,
        tuning=1,
        grid=(4e-3,),
        guess=4e-3,
    ),
    # The largest size that ten minutes of one H100 allow, see `llm_shown.command`.
    "gpu": TextSizes(
        text="dolly",
        base=replace(
            BASE,
            width=768,
            layers=12,
            heads=12,
            vocabulary=8192,
            context=512,
            batch=64,
            device="cuda",
        ),
        batch=32,
        seeds=3,
        grid=tuple(2.5e-5 * 2**k for k in range(7)),
        guess=2e-4,
    ),
}
