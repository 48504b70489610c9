"""Problems of the arena on networks: small policies, and the tiny language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch

from tradeoff.arena import tiny_language
from tradeoff.arena.network_scenarios import network_scenario
from tradeoff.arena.scenarios import SCENARIOS, is_scenario, named
from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.networks.batches import Batch
from tradeoff.networks.policies import PolicyConfig, PolicyData, policy_data
from tradeoff.networks.tasks import PolicyTask, Task

Scale = Literal["policies", "language"]
RowsOf = Literal["test", "validation"]
"""Held-out rows on which runs are scored, and those on which their steps are chosen."""
NETWORK_SCALES: tuple[Scale, ...] = ("policies", "language")


def _no_more(method: Method) -> tuple[float, float]:
    return 1.0, 0.0


@dataclass(frozen=True)
class NetworkProblem:
    """A task with a name, and how methods are trained on it.

    Attributes
    ----------
    name
        Unique name.
    scale
        "policies" or "language".
    varies
        In what it differs from the others of its scale.
    make
        Makes the task with the held-out rows of one kind; the same one at every call.
    rates
        Grid of learning rates of AdamW, the same for all methods.
    batch
        Rows of a gradient.
    budget
        Cost of a run in gradients of a batch of demonstrations.
    pair
        Cost of a gradient of a batch of pairs, in gradients of a batch of demonstrations.
    finite
        Whether each prompt has few responses, so that losses can compare all of them.
    tuning_seeds
        Seeds of the runs that choose rates.
    clip
        Largest norm of a gradient; None: any.
    documents
        Gives held-out documents, on which forgetting is measured; None where there are none.
    costs
        Cost of a gradient of a method, in those of the policy alone, and of what it does beside the
        gradients of an update, see :func:`tradeoff.arena.tiny_language.costs`. By default none of
        these is counted.
    response
        Cost of a gradient of a batch of written responses, in gradients of a batch of
        demonstrations; None where all responses are listed.
    """

    name: str
    scale: Scale
    varies: str
    make: Callable[[RowsOf], Task]
    rates: tuple[float, ...]
    batch: int
    budget: float
    pair: Callable[[], float]
    finite: bool = True
    tuning_seeds: int = 2
    clip: float | None = None
    documents: Callable[[], Batch] | None = None
    costs: Callable[[Method], tuple[float, float]] = _no_more
    response: Callable[[], float] | None = None


PROMPTS = 256
"""Held-out prompts of a policy; steps are chosen on the first half, and scores are of the other."""


def policy_task(conflict: float, rows: RowsOf) -> PolicyTask:
    """A network that chooses among 8 responses to continuous prompts.

    It starts as the uniform policy, has one hidden layer of 16 units, and computes in float64, so
    that a run depends on those computed with it by rounding alone.
    """
    data = policy_data(
        0, conflict=conflict, prompts=64, demonstrations=256, pairs=256, test_prompts=PROMPTS,
        test_rows=2048,
    )  # fmt: skip
    shape = PolicyConfig(width=16, depth=1)
    return PolicyTask(_with_test_rows(data, rows), shape, dtype=torch.float64)


def _with_test_rows(data: PolicyData, rows: RowsOf) -> PolicyData:
    """The data with the held-out rows of one half of the held-out prompts."""
    middle = data.training_prompts + PROMPTS // 2

    def own(table: np.ndarray) -> np.ndarray:
        return table[(table[:, 0] < middle) == (rows == "validation")]

    return replace(
        data,
        test_demonstrations=own(data.test_demonstrations),
        test_pairs=own(data.test_pairs),
    )


def _policies(name: str, conflict: float) -> NetworkProblem:
    return NetworkProblem(
        f"policies-{name}", "policies", f"conflict {conflict:g}", partial(policy_task, conflict),
        rates=(0.003, 0.01, 0.03, 0.1, 0.3), batch=4, budget=250.0, pair=lambda: 1.0,
    )  # fmt: skip


def _language(name: str, conflict: float) -> NetworkProblem:
    return NetworkProblem(
        f"language-{name}", "language", f"conflict {conflict:g}",
        partial(tiny_language.language_task, conflict), rates=(5e-4, 2e-3, 8e-3), batch=4,
        budget=64.0, pair=partial(tiny_language.pair_cost, conflict), finite=False,
        tuning_seeds=1, clip=1.0, documents=tiny_language.documents,
        costs=partial(tiny_language.costs, conflict, 4),
        response=partial(tiny_language.response_cost, conflict),
    )  # fmt: skip


NETWORKS: Mapping[str, NetworkProblem] = MappingProxyType(
    {
        each.name: each
        for each in (
            _policies("mild", 0.25),
            _policies("strong", 0.75),
            _policies("opposed", 1.0),
            _language("mild", 0.25),
            _language("strong", 0.75),
        )
    }
)
"""The problems of networks that boards have by default."""
LIKE = "policies-strong"
"""The problem whose rates, batch and budget scenarios have."""


def _scenario(name: str, rows: RowsOf) -> PolicyTask:
    return network_scenario(name).task(rows)


def network(name: str) -> NetworkProblem:
    """The problem of a name: one of :data:`NETWORKS`, or a scenario on policies.

    See :mod:`tradeoff.arena.network_scenarios`.

    Raises
    ------
    InputError
        If there is none.
    """
    if is_scenario(name):
        kind, _ = named(name)
        return replace(
            NETWORKS[LIKE], name=name, varies=SCENARIOS[kind], make=partial(_scenario, name)
        )
    if name not in NETWORKS:
        remedy = f"Use some of {', '.join((*NETWORKS, *SCENARIOS))}."
        raise InputError("no such problem of networks", field="problem", value=name, remedy=remedy)
    return NETWORKS[name]


def of_scale(scale: str) -> list[str]:
    """Names of the problems that a scale has by default, which are no scenarios.

    Raises
    ------
    InputError
        If there is no such scale.
    """
    if scale not in NETWORK_SCALES:
        remedy = f"Use one of {', '.join(NETWORK_SCALES)}; convex problems have another board."
        raise InputError("no such scale of networks", field="scale", value=scale, remedy=remedy)
    return [name for name, each in NETWORKS.items() if each.scale == scale]


@cache
def task_of(name: str, rows: RowsOf = "test") -> Task:
    """The task of a problem, made once."""
    return network(name).make(rows)
