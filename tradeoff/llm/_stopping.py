"""Early stopping by the weighted held-out loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.llm._corpora import Corpora
from tradeoff.llm.config import TrainConfig
from tradeoff.schedules import OBJECTIVES, Plan

WEIGHTED = "weighted_loss"
"""Name of the weighted held-out loss in the record of an evaluation."""


@dataclass(frozen=True)
class Best:
    """The evaluation with the least weighted held-out loss.

    Attributes
    ----------
    step
        Number of updates done at that evaluation.
    loss
        Its weighted held-out loss, in nats.
    since
        Number of evaluations after it.
    """

    step: int
    loss: float
    since: int


def weighted_loss(record: Mapping[str, Any], lam: float) -> float:
    """``(1 - lam) * sft_loss + lam * preference_loss``; a loss with weight 0 may be absent."""
    parts = zip((1 - lam, lam), OBJECTIVES, strict=True)
    return float(sum(weight * record[f"{name}_loss"] for weight, name in parts if weight))


def best(lines: Iterable[Mapping[str, Any]], first: int = 0) -> Best | None:
    """Find the evaluation with the least loss in a log, the first if several are equal.

    Parameters
    ----------
    lines
        Records of a run in order; records that are not evaluations are ignored.
    first
        Number of updates; earlier evaluations do not count.

    Returns
    -------
    Best or None
        None if there is no finite value.
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
    """Number of updates before the last stage, during which the loss may not yet be trained."""
    return int(np.flatnonzero(plan.clock == 1)[-1])


def check(config: TrainConfig, data: Corpora, lam: float) -> None:
    """Raise an `InputError` if `patience` needs a held-out loss and there are no such rows."""
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
    """Raise an `InputError` if the checkpoint with the least weighted loss has been removed."""
    if not path.is_dir():
        raise InputError(
            "the checkpoint of the lowest weighted held-out loss is gone",
            file=path,
            remedy="Take the newest one by `tradeoff export`, or begin anew with --no-resume.",
        )
