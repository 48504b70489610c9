"""Sizes of the study on real text: what is compared, on how many seeds, and for how long."""

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
        Rows, and the model that every run starts from.
    budget
        Cost that every run may spend, in updates on demonstrations.
    batch, marks, evaluated
        Rows of an update; evaluations of a run after that of the base; held-out rows of each set.
    lams, sweep
        Weights of the comparison, and of the wider sweep.
    rounds
        Numbers of alternations, at weight 1/2.
    intervals
        Updates between MAXRIGHT's evaluations, at weight 1/2.
    seeds, few, fewest
        Seeds at weight 1/2; of rounds, of MAXRIGHT's intervals, and at the other weights of the
        comparison; in the wider sweep and under other references. Always the first ones.
    specialists
        Runs that spend everything on one objective.
    tuning
        Seeds on which step sizes are chosen.
    grid, guess
        Step sizes; where the search begins.
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
    # As large as ten minutes of one H100 allow: see `llm_shown.command`.
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
