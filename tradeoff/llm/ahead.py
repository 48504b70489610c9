"""Prediction of the pairs that a run will read, as rows and draws are functions of the seed.

Reference log-probabilities are computed for these pairs only, group by group. The groups are fixed:
each has the pairs of one update of the first epoch. So the values of a pair depend on seed and
batch, but not on the length of the run. A pair is scored in the same pass as it is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from tradeoff import draws
from tradeoff.llm._gaps import KnownLosses
from tradeoff.llm._streams import Stream
from tradeoff.llm.config import TrainConfig
from tradeoff.schedules import PREFERENCE, Plan, Rule

Rows = Int[np.ndarray, " _"]


@dataclass(frozen=True, eq=False)
class Needed:
    """Pairs whose reference log-probabilities a run needs.

    Attributes
    ----------
    groups
        Indices of training pairs that are scored together; each pair is in one group at most.
    probes
        Indices of the training pairs on which the schedule evaluates losses; they are scored in
        separate passes.
    order, probe_order
        Description of groups and probes: runs with equal descriptions have equal groups.
    """

    groups: Sequence[Rows]
    probes: Rows
    order: str
    probe_order: str

    def held_out_only(self) -> Needed:
        """The needs of a reference that is made later: no training pairs."""
        return replace(self, groups=(), probes=self.probes[:0])


def needed(plan: Plan, config: TrainConfig, known: KnownLosses, processes: int = 1) -> Needed:
    """Find the pairs that a run will read, or may read if losses decide which objective it follows.

    Parameters
    ----------
    plan
        Plan of the schedule.
    config
        Seed, batch, and ``reference_rows``.
    known
        Gives the pairs on which losses are evaluated.
    processes
        Number of processes that share the passes of an update.
    """
    size, batch = known.sizes[PREFERENCE], config.batch(PREFERENCE)
    order = Stream(size, config.seed, PREFERENCE).rows(0, size)
    groups = np.split(order, range(batch, size, batch))
    if config.reference_rows == "read":
        groups = groups[: -(-most_read(plan, config, processes) // batch)]
    watched = config.defects.watched(plan)
    probes = known.rows(PREFERENCE) if PREFERENCE in watched else order[:0]
    return Needed(
        groups,
        probes,
        f"updates of {batch} pairs, seed {config.seed}",
        f"{len(probes)} probes, seed {config.seed}",
    )


def most_read(plan: Plan, config: TrainConfig, processes: int = 1) -> int:
    """Number of pair reads of a run; the largest possible number if losses decide it."""
    batch, steps = config.batch(PREFERENCE), np.arange(len(plan))
    if plan.rule is not Rule.DRAW or config.defects.discards(plan.rule):
        return len(plan) * batch
    at_once = config.rows_per_forward * processes
    count = config.defects.draws(plan.rule, config.batch_size, at_once)
    numbers = steps[:, None] * count + np.arange(count)
    key = draws.keys(0, config.seed, draws.OBJECTIVE)
    drawn = draws.uniform(key, numbers) < plan.probability[:, None]
    return int((drawn | plan.together[:, None]).sum()) * -(-batch // count)
