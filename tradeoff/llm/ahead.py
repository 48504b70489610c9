"""Which pairs a run will read: rows and draws are functions of the seed, so it is known before.

A reference is computed for these pairs only, group by group. The groups are fixed: the pairs that
each update of the first epoch reads. So what is computed for a pair depends on seed and batch, and
never on the length of the run; and it is computed in the passes in which the pair is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from tradeoff import draws
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.gaps import KnownLosses
from tradeoff.llm.streams import Stream
from tradeoff.schedules import PREFERENCE, Plan, Rule

Rows = Int[np.ndarray, " _"]


@dataclass(frozen=True, eq=False)
class Needed:
    """Pairs whose reference a run needs.

    Attributes
    ----------
    groups
        Places of training pairs that are scored together; each pair is in one group at most.
    probes
        Places of the training pairs on which the schedule looks at losses, which are scored in
        passes of their own.
    order, probe_order
        What makes the groups and the probes, in words: two runs of equal words have equal groups.
    """

    groups: Sequence[Rows]
    probes: Rows
    order: str
    probe_order: str

    def held_out_only(self) -> Needed:
        """No training pairs: those of a reference that is made later."""
        return replace(self, groups=(), probes=self.probes[:0])


def needed(plan: Plan, config: TrainConfig, known: KnownLosses, processes: int = 1) -> Needed:
    """The pairs that a run will read, or may read where losses decide what it follows.

    Parameters
    ----------
    plan
        Of the schedule.
    config
        Seed, batch, and ``reference_rows``.
    known
        Says on which pairs losses are looked at.
    processes
        How many share the passes of an update.
    """
    size, batch = known.sizes[PREFERENCE], config.batch(PREFERENCE)
    order = Stream(size, config.seed, PREFERENCE).rows(0, size)
    groups = np.split(order, range(batch, size, batch))
    if config.reference_rows == "read":
        groups = groups[: -(-most_read(plan, config, processes) // batch)]
    watched = PREFERENCE in plan.watched or config.defects.stop_at_either_optimum
    probes = known.rows(PREFERENCE) if watched else order[:0]
    return Needed(
        groups,
        probes,
        f"updates of {batch} pairs, seed {config.seed}",
        f"{len(probes)} probes, seed {config.seed}",
    )


def most_read(plan: Plan, config: TrainConfig, processes: int = 1) -> int:
    """Pairs that a run reads, counted as often as it does; the most where losses decide that."""
    batch, steps = config.batch(PREFERENCE), np.arange(len(plan))
    if config.defects.discard_unused_batch or plan.rule is not Rule.DRAW:
        return len(plan) * batch
    key = draws.keys(0, config.seed, draws.OBJECTIVE)
    if not config.defects.choose_per_forward:
        drawn = draws.uniform(key, steps) < plan.probability
        return int((drawn | plan.together).sum()) * batch
    at_once = config.rows_per_forward * processes
    rounds = -(-config.batch_size // at_once)
    numbers = steps[:, None] * rounds + np.arange(rounds)
    drawn = draws.uniform(key, numbers) < plan.probability[:, None]
    return int((drawn | plan.together[:, None]).sum()) * -(-batch // rounds)
