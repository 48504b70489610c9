"""Early stopping: the evaluation of least weighted held-out loss, and how many came after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.corpora import Corpora
from tradeoff.schedules import OBJECTIVES, Plan

WEIGHTED = "weighted_loss"
"""Name of the weighted held-out loss in the record of an evaluation."""


@dataclass(frozen=True)
class Best:
    """The evaluation of least weighted held-out loss.

    Attributes
    ----------
    step
        Updates done by then.
    loss
        Its weighted held-out loss, in nats.
    since
        How many evaluations came after it.
    """

    step: int
    loss: float
    since: int


def weighted_loss(record: Mapping[str, Any], lam: float) -> float:
    """``(1 - lam) * sft_loss + lam * preference_loss``; an objective of weight 0 is not needed."""
    parts = zip((1 - lam, lam), OBJECTIVES, strict=True)
    return float(sum(weight * record[f"{name}_loss"] for weight, name in parts if weight))


def best(lines: Iterable[Mapping[str, Any]], first: int = 0) -> Best | None:
    """The first of the least among the evaluations of a log.

    Parameters
    ----------
    lines
        Records of a run in their order; those that are no evaluations do not count.
    first
        Updates before which evaluations do not count.

    Returns
    -------
    Best or None
        None while there is no finite value.
    """
    found: Best | None = None
    for line in lines:
        if line["kind"] != "evaluation" or line["step"] < first:
            continue
        value = math.nan if line.get(WEIGHTED) is None else float(line[WEIGHTED])
        if math.isfinite(value) and (found is None or value < found.loss):
            found = Best(line["step"], value, 0)
        elif found is not None:
            found = Best(found.step, found.loss, found.since + 1)
    return found


def last_stage(plan: Plan) -> int:
    """Updates done when the last stage begins; before, the loss need not have been trained on."""
    return int(np.flatnonzero(plan.clock == 1)[-1])


def check(config: TrainConfig, data: Corpora, lam: float) -> None:
    """An `InputError` if `patience` is set and a loss of positive weight has no held-out rows."""
    if config.patience is None:
        return
    for weight, name in zip((1 - lam, lam), OBJECTIVES, strict=True):
        if weight and not len(getattr(data, f"{name}_test")):
            raise InputError(
                f"there are no held-out {name} rows to stop early by",
                field="patience",
                value=config.patience,
                remedy=f"Give {name}_test or a holdout above 0, or leave patience out.",
            )


def check_kept(path: Path) -> None:
    """An `InputError` if the checkpoint of the least weighted loss has been removed."""
    if not path.is_dir():
        raise InputError(
            "the checkpoint of the lowest weighted held-out loss is gone",
            file=path,
            remedy="Take the newest one by `tradeoff export`, or begin anew with --no-resume.",
        )
