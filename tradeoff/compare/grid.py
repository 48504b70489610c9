"""The runs of a comparison: every method at every weight with every seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.llm.config import Experiment
from tradeoff.methods import Method, find

TRIED = 64
"""Updates of the plans that show whether a method reads its weight."""


@dataclass(frozen=True)
class Planned:
    """A run to make.

    Attributes
    ----------
    name
        Of its folder.
    experiment
        All of its settings.
    """

    name: str
    experiment: Experiment

    @property
    def method(self) -> Method:
        """What it trains."""
        return self.experiment.make_method()


def grid(
    make: Callable[[str, float, int], Experiment],
    methods: Sequence[str],
    lams: Sequence[float],
    seeds: Sequence[int],
) -> list[Planned]:
    """Every method at every weight with every seed; the seed varies slowest.

    A method in which the weight changes nothing, such as Constrained, is trained at the first.

    Parameters
    ----------
    make
        Makes the settings of a run of a method's name, a weight and a seed.
    methods
        Names, see :func:`tradeoff.methods.find`.
    lams
        Weights of the preference objective.
    seeds
        Root seeds of the runs.

    Raises
    ------
    InputError
        For an unknown method, a setting out of range, or settings that undo what varies here.

    Examples
    --------
    >>> from tradeoff.experiment import settings
    >>> def make(method, lam, seed):
    ...     return settings(None, {"method": method, "schedule.lam": lam, "train.seed": seed})
    >>> [run.name for run in grid(make, ["mix", "constrained"], [0.25, 0.75], [0])]
    ['mix-lam0.25-seed0', 'mix-lam0.75-seed0', 'constrained-lam0.25-seed0']
    """
    every = list(dict.fromkeys(lams))
    weights = {name: every if reads_weight(find(name)) else every[:1] for name in methods}
    planned: dict[str, Planned] = {}
    for seed in dict.fromkeys(seeds):
        for method in weights:
            for lam in weights[method]:
                name = f"{re.sub(r'[^A-Za-z0-9+._-]', '-', method)}-lam{lam}-seed{seed}"
                run = Planned(name, make(method, lam, seed))
                _check(run, method, lam, seed, taken=name in planned)
                planned[name] = run
    return list(planned.values())


def reads_weight(method: Method) -> bool:
    """Whether another weight of the preference objective makes another run."""
    first, second = (method.at(lam) for lam in (0.25, 0.75))
    parts = [_without_weight(each.to_dict()) for each in (first, second)]
    plans = [each.schedule.plan(TRIED) for each in (first, second)]
    return parts[0] != parts[1] or any(
        not _equal(getattr(plans[0], field.name), getattr(plans[1], field.name))
        for field in fields(plans[0])
    )


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second))
    return bool(first == second)


def _without_weight(description: dict[str, Any]) -> dict[str, Any]:
    schedule = {k: v for k, v in description["schedule"].items() if k != "lam"}
    return {**description, "schedule": schedule}


def _check(run: Planned, method: str, lam: float, seed: int, *, taken: bool) -> None:
    """An `InputError` where a name would be shared, or the settings do not hold what varies."""
    if taken:
        raise InputError(
            "two methods would share a folder",
            field="--method",
            value=method,
            remedy="Compare them in two output folders, then give both to `tradeoff compare`.",
        )
    found = {"schedule.lam": run.method.lam, "train.seed": run.experiment.train.seed}
    for name, wanted in {"schedule.lam": lam, "train.seed": seed}.items():
        if found[name] != wanted:
            raise InputError(
                "a comparison varies this setting by itself",
                field=name,
                value=found[name],
                remedy="Give --lam and --seeds in place of --set.",
            )
    run.method.plan(run.experiment.train.steps or TRIED)
