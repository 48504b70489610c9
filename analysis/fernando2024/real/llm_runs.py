"""One post-training of the figures on real text, and the models to which runs are compared.

A configuration names everything that a run depends on. It names references by the address of their
folder. :mod:`tradeoff.study` can then store every run once, and figures share runs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fernando2024.real import llm_base, llm_text
from analysis.fernando2024.real.llm_base import Base
from tradeoff.data import chosen_as_sft
from tradeoff.data.rows import SftRow
from tradeoff.records import replacing_folder
from tradeoff.schedules import OBJECTIVES, Alright, Schedule, from_dict

BASE = "base"
"""Value in place of a folder: the reference is the policy before training."""
BETA = 0.1
PROBES = 8
"""Number of training rows of each objective in one of MAXRIGHT's evaluations."""
FORWARD = 1 / 3
"""Cost of a forward pass in units of a forward and a backward pass."""
MEASURED = 200
"""Number of training rows on which the final training loss of a run is computed."""


def post_train(configuration: Mapping[str, Any]) -> pd.DataFrame:
    """Trajectory of one run: held-out losses, counts and costs at each evaluation.

    ``optimum`` is the final loss on training rows, if the configuration names an objective as
    ``measure``. Otherwise it is NaN.

    Raises
    ------
    KeyboardInterrupt
        If a signal ended the run early. Its partial result is not stored.
    """
    began = time.process_time()
    trainer = make(configuration)
    with warnings.catch_warnings():
        # The study measures optima itself, and the table counts the updates of each objective.
        warnings.filterwarnings("ignore", message="none of .* updates followed")
        done = trainer.train(progress=False)
    if done.interrupted:
        raise KeyboardInterrupt
    table = done.table.assign(
        diverged_at=np.nan if done.diverged_at is None else done.diverged_at,
        optimum=training_loss(trainer, configuration.get("measure")),
    )
    return table.assign(cpu_seconds=time.process_time() - began)


def make(
    c: Mapping[str, Any], sft: Sequence[SftRow] | None = None, output: Path | None = None
) -> Any:
    """The trainer of a configuration, with other demonstrations if they are given.

    With a ``budget`` the run ends when it is spent, and ``updates`` is the largest number of
    updates.
    """
    from analysis.fernando2024.real.llm_budget import Budgeted
    from tradeoff.llm import JointTrainer, TrainConfig, models
    from tradeoff.llm.config import ModelConfig

    base, given, schedule = Base(**c["base"]), llm_text.rows(c["text"]), from_dict(c["schedule"])
    model, tokenizer = models.load(ModelConfig(path=str(llm_base.folder(base))))
    own, marks = c["reference"] == BASE, c["marks"]
    limit = None if c["budget"] is None else Budget(**c["budget"], batch=c["batch"], marks=marks)
    config = TrainConfig(
        steps=c["updates"],
        batch_size=c["batch"],
        rows_per_forward=c["batch"],
        learning_rate=c["rate"],
        preference_learning_rate=c["preference_rate"],
        beta=BETA,
        reference="initial" if own else str(reference_folder(c["reference"])),
        reference_cache=str(llm_base.FOLDER / "references"),
        reference_rows="all",  # The loss on training rows is also measured.
        optima=tuple(c["optima"]),
        chat=False,
        max_length=base.context,
        layout="padded",
        precision="fp32" if base.device == "cpu" else "bf16",
        # A trainer with a budget is asked after every update, and decides when an evaluation is
        # due.
        evaluate_every=max(1, c["updates"] // marks) if limit is None else 1,
        evaluate_rows=c["evaluated"],
        log_every=max(1, c["updates"] // marks),
        seed=c["seed"],
    )
    scored = given.validation if c["rows"] == "validation" else given.test
    kind = JointTrainer if limit is None else partial(Budgeted, budget=limit)
    return kind(
        model,
        tokenizer,
        sft=given.training[0] if sft is None else sft,
        preference=given.training[1],
        schedule=schedule,
        config=config,
        sft_test=scored[0],
        preference_test=scored[1],
        output=output,
    )


def training_loss(trainer: Any, objective: str | None) -> float:
    """Loss of the trained policy on some training rows."""
    if objective is None:
        return float("nan")
    few = np.arange(min(MEASURED, len(trainer.data.training(OBJECTIVES.index(objective)))))
    if objective == "sft":
        return float(trainer.scorer.mean_sft(trainer.data.sft, few)["sft_loss"])
    pairs = trainer.data.preference
    return float(trainer.scorer.mean_pairs(pairs, trainer.references.train, few)["preference_loss"])


# ---------------------------------------------------------------------- references


def reference_folder(name: str) -> Path:
    """Folder of a reference that :func:`reference` has made."""
    return llm_base.FOLDER / "models" / name / "model"


def reference(settings: Mapping[str, Any]) -> str:
    """Name of a model trained by SFT on ``demonstrations`` or on ``chosen`` responses.

    Parameters
    ----------
    settings
        A configuration without a schedule, with the kind of ``responses`` to train on.
    """
    read = [*llm_text.files(settings["text"]), *llm_base.files(Base(**settings["base"]))]
    place = llm_base.kept(
        "analysis.fernando2024.real.llm_runs:train_reference", dict(settings), read
    )
    if not place.exists():
        train_reference(settings, place)
    return place.name


def train_reference(settings: Mapping[str, Any], place: Path) -> None:
    """Train a reference and write its folder."""
    given = llm_text.rows(settings["text"])
    chosen = settings["responses"] == "chosen"
    sft = chosen_as_sft(given.training[1]) if chosen else given.training[0]
    c = {**settings, "schedule": Alright(lam=0.0).to_dict(), "reference": BASE}
    with replacing_folder(place) as unfinished:
        make(c, sft, output=unfinished).train(progress=False)


# ---------------------------------------------------------------------- costs


@cache
def pair_cost(text: str, base: Base) -> float:
    """Operations of an update on pairs over those of one on as many demonstrations.

    :class:`tradeoff.llm.meter.Costs` counts them over all training rows, so the result is the same
    on every machine.
    """
    c = {
        "base": asdict(base),
        "text": text,
        "schedule": Alright().to_dict(),
        "updates": 1,
        "budget": None,
        "batch": 1,
        "rate": 1.0,
        "preference_rate": None,
        "reference": BASE,
        "optima": [0.0, 0.0],
        "marks": 1,
        "evaluated": 1,
        "rows": "validation",
        "seed": 0,
    }
    trainer = make(c)
    sft, pairs = (
        trainer.costs.update(*trainer.data.extent(o, np.arange(len(rows)))) / len(rows)
        for o, rows in enumerate((trainer.data.sft, trainer.data.preference))
    )
    return float(pairs / sft)


def updates_for(budget: float, per_update: float, marks: int) -> int:
    """Updates that a budget pays for: a multiple of the evaluations, at least one for each."""
    return max(1, round(budget / per_update / marks)) * marks


def per_update(schedule: Schedule, pair: float, updates: int = 1000) -> float:
    """Expected cost of an update in SFT updates, for a schedule that does not depend on losses."""
    return float(schedule.plan(updates).cost(1.0, pair).mean())


@dataclass(frozen=True)
class Budget:
    """Budget of a run, in updates on demonstrations.

    Attributes
    ----------
    total
        The budget.
    pair
        Cost of an update on pairs.
    batch
        Rows of an update.
    marks
        Number of evaluations after that of the base model, at equal parts of the budget.
    """

    total: float
    pair: float
    batch: int
    marks: int = 1

    def spent(self, counts: Mapping[str, Any] | pd.DataFrame) -> Any:
        """Cost of the counts in one row, or in a table with the columns of evaluations."""
        probes = counts["probe_rows"] / 2 / self.batch * (1 + self.pair) * FORWARD
        return counts["sft_updates"] + self.pair * counts["preference_updates"] + probes
