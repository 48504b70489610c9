"""Least training losses of both objectives, from short runs on one objective each.

Gaps count from these losses. With ``train.optima = "auto"`` a run measures them before its first
update. The policy is trained on one objective for a tenth of the updates, at least 4, and then gets
its weights back. Learning rates are those of the whole run, passed through faster by as much, so
that a warm-up takes no larger part of the short run. Such a loss is an upper bound of the optimum,
so it falls with the least loss that the run itself sees. Time and tokens of the short runs count as
those of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from jaxtyping import Float, Int

from tradeoff.errors import InputError
from tradeoff.llm import _state
from tradeoff.llm._passes import Feed
from tradeoff.llm._tally import Tally
from tradeoff.schedules import OBJECTIVES, PREFERENCE, SFT

AUTO = "auto"
SHARE, FEWEST = 0.1, 4
"""Updates of a short run, as a share of those of the run, and how many there are at least."""
LATE = 3
"""A training loss is the mean over the last of so many parts of a short run."""


def updates(steps: int) -> int:
    """Number of updates of each short run before a run of `steps` updates."""
    return min(steps, max(FEWEST, round(SHARE * steps)))


def places(steps: int) -> Int[np.ndarray, " n"]:
    """The update of a run of `steps` whose learning rate each update of a short run has."""
    short = updates(steps)
    return ((np.arange(short) + 0.5) * steps / short).astype(int)


def needed(run: Any) -> list[int]:
    """Objectives whose optimum the schedule, a defect or the gradient rule of a run uses."""
    rule: Any = run.joining.rule
    if rule is not None and rule.uses_losses and rule.above_optima:
        return [SFT, PREFERENCE]
    return sorted(run.config.defects.watched(run.plan))


def measure(run: Any, progress: Callable[..., Iterable[int]] = iter) -> Float[np.ndarray, " 2"]:
    """Train on each needed objective for a while, and restore the policy.

    Parameters
    ----------
    run
        A :class:`~tradeoff.llm.trainer.JointTrainer` before its first update, with its reference.
    progress
        Wraps the updates of a short run to show how far it is.

    Returns
    -------
    (2,) losses
        Mean training losses of (SFT, preference): on the rows on which the schedule compares
        losses, or else over the last third of the short run; NaN for an objective without need.

    Raises
    ------
    InputError
        If a short run diverges.
    """
    kept = _state.copies(run.policy)
    tally, feed = run.tally, run.feed
    found = np.full(2, np.nan)
    process, processes = run.accelerator.process_index, run.accelerator.num_processes
    for objective in needed(run):
        run.tally, run.feed = Tally(), Feed(run.data, run.config, process, processes)
        try:
            found[objective] = _alone(run, objective, progress)
        finally:
            run.tally, run.feed = tally, feed
            _restore(run, kept)
    # Sums may differ between processes in their last bits.
    return broadcast(torch.from_numpy(found).to(run.accelerator.device)).cpu().numpy()


def _alone(run: Any, objective: int, progress: Callable[..., Iterable[int]]) -> float:
    """The training loss that updates on one objective lead to."""
    weights, losses = np.eye(2)[objective], []
    rated = places(run.steps).tolist()
    for step in progress(range(updates(run.steps))):
        run.meter.start()
        passes, found = run._accumulate(step, lambda draw: weights, joins=False)
        losses.append(found[objective])
        run._descend(passes, rated[step])
        run._count_work()
    if objective in run.plan.watched:
        loss = run._mean_training_loss(objective, run.known.rows(objective))
    else:
        late = losses[-max(1, len(losses) // LATE) :]
        loss = float(run.scorer.add_up(torch.stack(late).mean()))
    run.meter.stop()
    if not np.isfinite(loss):
        raise InputError(
            f"a short run on the {OBJECTIVES[objective]} objective alone diverges",
            field="train.optima",
            value=AUTO,
            remedy="Lower train.learning_rate, or give both optima.",
        )
    return loss


def _restore(run: Any, kept: list[torch.Tensor]) -> None:
    """Give the policy its weights back, without gradients, and the optimiser no memory."""
    _state.put_back(run.policy, kept)
    run.optimizer.zero_grad()
    run.optimizer.optimizer.state.clear()
