"""Forgetting and relearning: SFT, DPO and SFT again, with probes after each stage.

Two comparisons are made: SFT from the base model, and SFT after the same DPO of a base model
without SFT before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.fernando2024.language.lm_models import SCALES, fit, task
from analysis.fernando2024.language.lm_study import compute, with_cost
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.tasks import Params, one_run
from tradeoff.networks.train import Ensemble, Run
from tradeoff.schedules import Alright

AGAIN = 20_000
"""Added to a seed when an objective is trained a second time."""


def relearn_batch(configurations: list[dict[str, Any]]) -> list[pd.DataFrame]:
    """Train SFT, then DPO with the SFT model as reference, then SFT again, with probes after each.

    Two comparisons are trained too: SFT from the base model ("learn"), and SFT after the same DPO
    of a base model without SFT before ("control"). Each SFT stage has ``updates`` updates, the DPO
    stage ``forget``, and ``rates`` are their step sizes. Configurations differ in their seeds only.
    ``cpu_seconds`` is a run's share of the processor time of this call, evaluation included.
    """
    began, c = time.process_time(), configurations[0]
    scale, updates = c["scale"], c["updates"]
    known = task(scale, c["conflict"])
    first, second = (
        [Run(Alright(lam=float(lam)), c["seed"]) for c in configurations] for lam in (0, 1)
    )
    anew = [Run(run.schedule, run.seed + AGAIN) for run in first]
    base = {name: value.detach()[None] for name, value in known.base.named_parameters()}

    def teach(start: Params) -> Ensemble:
        every = max(1, updates // c["marks"])
        rate = c["rates"][0]
        return fit(
            known, scale, anew, updates, start=start, evaluate_every=every, learning_rate=rate
        )

    def prefer(start: Params) -> Ensemble:
        steps, rate = c["forget"], c["rates"][1]
        return fit(
            known, scale, second, steps, start=start, reference=start, evaluate_every=steps,
            learning_rate=rate,
        )  # fmt: skip

    learn = fit(
        known, scale, first, updates, evaluate_every=max(1, updates // c["marks"]),
        learning_rate=c["rates"][0],
    )  # fmt: skip
    forget = prefer(learn.params)
    relearn = teach(forget.params)
    never = prefer(base)
    control = teach(never.params)
    stages = {"learn": learn, "forget": forget, "relearn": relearn, "never": never}
    stages |= {"control": control}
    tables = [
        pd.concat(
            [_stage(known, scale, name, done, place) for name, done in stages.items()]
            + [_stage(known, scale, "base", learn, None)],
            ignore_index=True,
        )
        for place in range(len(configurations))
    ]
    return with_cost(tables, began)


def _stage(
    known: LanguageTask, scale: str, name: str, done: Ensemble, place: int | None
) -> pd.DataFrame:
    """Losses during one stage of one run, or of the base model, and the probes at its end."""
    rows = done.table[done.table["run"] == (place or 0)]
    columns = ["step", "sft_loss", "preference_loss", "preference_accuracy"]
    rows = rows[columns] if place is not None else rows[columns].head(1)
    params: Params = (
        dict(known.base.named_parameters()) if place is None else one_run(done.params, place)
    )
    return rows.assign(stage=name, **probes(known, params, SCALES[scale].rows))


def probes(known: LanguageTask, params: Params, rows: int) -> dict[str, float]:
    """Three ways to ask for the same skill, from the strictest to the least like training.

    ``exact``: answer and style as in the demonstration. ``answer``: the answer in any style.
    ``statement``: the question rewritten as the beginning of a statement of its answer, as in the
    corpus.
    """
    shown = known.data.sft_test[:rows]
    stack = {name: value.detach()[None] for name, value in params.items()}
    scores = known.skills(stack, rows)
    written = known.answer(params, [as_statement(str(row.prompt)) for row in shown])
    hits = [
        text.strip().startswith(f"{row.answer}.") for text, row in zip(written, shown, strict=True)
    ]
    named = {"exact": "exact_match", "answer": "answer_match", "style": "preference_match"}
    return {key: float(scores[name][0]) for key, name in named.items()} | {
        "statement": float(np.mean(hits))
    }


STATED = {
    "Reverse": "reversed is",
    "Uppercase": "uppercased is",
    "Sort": "sorted is",
    "Count": "has",
}


def as_statement(prompt: str) -> str:
    """Rewrite a question as the beginning of a statement; the rewrite is invertible.

    >>> as_statement("Eve: Sort e n k e.\\n")
    'e n k e sorted is'
    """
    verb, letters = prompt.split(": ", 1)[1].strip().rstrip(".").split(" ", 1)
    return f"{letters} {STATED[verb]}"


def relearning(scale: str, configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Losses and probes of all stages of forgetting and relearning, see :func:`relearn_batch`."""
    return compute(scale, configurations, relearn_batch, ("scale", "forget", "updates", "rates"))
