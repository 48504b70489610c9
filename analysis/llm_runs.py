"""One post-training of the figures on real text, and the models that runs are compared with.

A configuration names all that a run depends on, its references by the address of their folder,
so that :mod:`tradeoff.study` keeps every run once and figures share them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import llm_base, llm_text
from analysis.llm_base import Base
from tradeoff.data import chosen_as_sft
from tradeoff.data.rows import SftRow
from tradeoff.records import replacing_folder
from tradeoff.schedules import OBJECTIVES, Alright, Schedule, from_dict

BASE = "base"
"""In place of a folder: the policy before training is the reference."""
BETA = 0.1
PROBES = 8
"""Training rows of each objective that MAXRIGHT evaluates at a time."""
MEASURED = 200
"""Training rows on which a run tells the training loss that it ends with."""


def post_train(configuration: Mapping[str, Any]) -> pd.DataFrame:
    """Trajectory of one run: held-out losses, counts and costs at each evaluation.

    ``optimum`` is the loss on training rows that it ends with, where the configuration names the
    objective as ``measure``; NaN else.
    """
    began = time.process_time()
    trainer = make(configuration)
    done = trainer.train(progress=False)
    table = done.table.assign(
        diverged_at=np.nan if done.diverged_at is None else done.diverged_at,
        optimum=training_loss(trainer, configuration.get("measure")),
    )
    return table.assign(cpu_seconds=time.process_time() - began)


def make(
    c: Mapping[str, Any], sft: Sequence[SftRow] | None = None, output: Path | None = None
) -> Any:
    """The trainer of a configuration, on other demonstrations where they are given."""
    from tradeoff.llm import JointTrainer, TrainConfig, models
    from tradeoff.llm.config import ModelConfig

    base, given, schedule = Base(**c["base"]), llm_text.rows(c["text"]), from_dict(c["schedule"])
    model, tokenizer = models.load(ModelConfig(path=str(llm_base.folder(base))))
    own = c["reference"] == BASE
    config = TrainConfig(
        steps=c["updates"],
        batch_size=c["batch"],
        rows_per_forward=c["batch"],
        learning_rate=c["rate"],
        preference_learning_rate=c["preference_rate"],
        beta=BETA,
        reference="initial" if own else str(reference_folder(c["reference"])),
        reference_cache=str(llm_base.FOLDER / "references"),
        optima=tuple(c["optima"]),
        chat=False,
        max_length=base.context,
        layout="padded",
        precision="fp32" if base.device == "cpu" else "bf16",
        evaluate_every=max(1, c["updates"] // c["marks"]),
        evaluate_rows=c["evaluated"],
        log_every=max(1, c["updates"] // c["marks"]),
        seed=c["seed"],
    )
    scored = given.validation if c["rows"] == "validation" else given.test
    return JointTrainer(
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
    """Where a reference lies that :func:`reference` has made."""
    return llm_base.FOLDER / "models" / name / "model"


def reference(settings: Mapping[str, Any]) -> str:
    """Name of a model trained by SFT on ``demonstrations`` or on ``chosen`` responses.

    Parameters
    ----------
    settings
        A configuration without a schedule, and which ``responses`` it learns from.
    """
    read = [*llm_text.files(settings["text"]), *llm_base.files(Base(**settings["base"]))]
    place = llm_base.kept("analysis.llm_runs:train_reference", dict(settings), read)
    if not place.exists():
        train_reference(settings, place)
    return place.name


def train_reference(settings: Mapping[str, Any], place: Path) -> None:
    """Train a reference and write its folder."""
    given = llm_text.rows(settings["text"])
    chosen = settings["responses"] == "chosen"
    sft = chosen_as_sft(given.training[1]) if chosen else given.training[0]
    c = {**settings, "schedule": Alright(lam=0.0).to_dict(), "reference": BASE}
    with replacing_folder(place) as partial:
        make(c, sft, output=partial).train(progress=False)


# ---------------------------------------------------------------------- costs


@cache
def pair_cost(text: str, base: Base) -> float:
    """Operations of an update on pairs over those of one on as many demonstrations.

    Counted over all training rows by :class:`tradeoff.llm.meter.Costs`, so the same everywhere.
    """
    c = {
        "base": asdict(base),
        "text": text,
        "schedule": Alright().to_dict(),
        "updates": 1,
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
    """Updates that a budget pays for, a multiple of the evaluations and at least one of each."""
    return max(1, round(budget / per_update / marks)) * marks


def per_update(schedule: Schedule, pair: float, updates: int = 1000) -> float:
    """Expected cost of an update of a schedule that follows no gaps, in SFT updates."""
    return float(schedule.plan(updates).cost(1.0, pair).mean())


def spent(table: pd.DataFrame, pair: float, batch: int, passes: float = 3.0) -> pd.Series:
    """Cost of each row's training so far in SFT updates; a probe is a forward pass only."""
    probes = table["probe_rows"] / 2 / batch * (1 + pair) / passes
    return table["sft_updates"] + pair * table["preference_updates"] + probes
