"""The board of networks: no front is certified there, so methods are compared with the best known.

Regret is that of held-out rows: the excess of the weighted loss over the least mean of all methods
on the board at that weight. It is in units of the best known gains: how far below the policy before
training the board's least SFT loss and least preference loss are. So it depends on who takes part,
and single runs may be below 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tradeoff.arena import network_runs
from tradeoff.arena.board import BASELINES, Board
from tradeoff.arena.contenders import TRIED, affordable
from tradeoff.arena.network_scenarios import network_scenario
from tradeoff.arena.networks import network, of_scale
from tradeoff.errors import InputError
from tradeoff.methods import METHODS, Method, find, names
from tradeoff.methods.after import Resa
from tradeoff.methods.losses import Grouped
from tradeoff.methods.presets import PRESETS
from tradeoff.methods.transforms import Written
from tradeoff.scores import hypervolume, regret, weighted_loss
from tradeoff.settings import Count, Share, Within, checked
from tradeoff.study import engines
from tradeoff.study import run as run_study
from tradeoff.study.engines import Backend

NETWORK_LAMS = (0.25, 0.5, 0.75)
"""Weights of the preference objective at which every method runs."""
TOGETHER = {"policies": 24, "language": 4}
"""Configurations of one call: enough to share its overhead, few enough to resume in pieces."""
WEIGHTS = np.linspace(0, 1, 101)
"""Weights at which the distance behind the best known policies is measured."""
Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class NetworkBoard(Board):
    """A board of networks, whose regrets are in units of the best known gains."""

    def before(self, problem: str) -> dict[str, float]:
        """By skill, what the policy of a scenario has before training."""
        return network_scenario(problem).before

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """Share of the area below the start that a method's ends dominate, of that of all ends."""
        rows: dict[str, dict[str, float]] = {}
        for problem, group in self.runs.groupby("problem", sort=False):
            start, points = _start(group), _points(group)
            whole = hypervolume(points.to_numpy(), start)
            for name, own in points.groupby(level="name", sort=False):
                share = hypervolume(own.to_numpy(), start) / whole if whole > 0 else np.nan
                rows.setdefault(str(name), {})[str(problem)] = share
        return pd.DataFrame.from_dict(rows, orient="index")


@checked
def network_board(
    methods: Sequence[str] = (),
    problems: Sequence[str] = (),
    *,
    scale: str,
    folder: str | Path,
    lams: Sequence[Share] = NETWORK_LAMS,
    budget: Annotated[float, Within(1, 1e9)] | None = None,
    replicas: Count = 10,
    jobs: int = -1,
    backend: Backend = "loky",
    progress: bool = False,
) -> NetworkBoard:
    """Run what is missing of a board of networks, and score all of it.

    Parameters
    ----------
    methods
        Names, see :func:`tradeoff.methods.find`; all of the catalogue that the scale can hold by
        default. The baselines take part in any case.
    problems
        Names of :data:`tradeoff.arena.networks.NETWORKS`, all of the scale by default; on policies
        also of :data:`~tradeoff.arena.scenarios.SCENARIOS`.
    scale
        "policies" or "language".
    folder
        Where each run is stored; what is there already is not computed again.
    lams
        Weights of the preference objective, each in [0, 1].
    budget
        Cost of each run in gradients of a batch of demonstrations; that of the problem by default.
    replicas
        Seeds that score, which all methods share; at least 2.
    jobs, backend
        Processes, and the engine that starts them, see :func:`tradeoff.study.run`.
    progress
        Show a bar.

    Raises
    ------
    InputError
        If a name is unknown, a method cannot run at this scale, or a setting is out of range.
    """
    if replicas < 2:
        remedy = "Use at least 2, so that differences have intervals."
        raise InputError("too few", field="replicas", value=replicas, remedy=remedy)
    engines.check(backend, jobs)
    for name in problems:
        if network(name).scale != scale:
            remedy = f"Use --scale {network(name).scale}, or some of {', '.join(of_scale(scale))}."
            raise InputError(f"no problem of {scale}", field="problem", value=name, remedy=remedy)
    asked = list(dict.fromkeys((*BASELINES, *methods))) if methods else []
    taking_part = network_contenders(scale, asked)
    configurations = [
        network_runs.configuration(
            method, name, problem, lam, budget or network(problem).budget, replicas
        )
        for problem in problems or of_scale(scale)
        for name, method in taking_part.items()
        for lam in lams
    ]
    table = run_study(
        network_runs.run, configurations, folder, batch=TOGETHER[scale],
        alike=("problem", "steps", "replicas"), jobs=jobs, backend=backend, progress=progress,
    )  # fmt: skip
    return NetworkBoard(scored(table))


def network_contenders(scale: str, given: Iterable[str] = ()) -> dict[str, Method]:
    """Methods by name; all of the catalogue that a scale can hold, where no names are given.

    Parameters
    ----------
    scale
        "policies" or "language".
    given
        Names as the command line takes them, see :func:`tradeoff.methods.find`.

    Raises
    ------
    InputError
        If a name is unknown, or a method that is asked for cannot run at this scale.
    """
    wanted = list(given)
    found: dict[str, Method] = {}
    for name in wanted or names():
        why = network_left_out(name, scale)
        if why is None:
            method = find(name)
            found[name] = replace(method, schedule=affordable(method.schedule))
        elif wanted:
            remedy = "Leave it out, or use another scale."
            raise InputError(why, field="method", value=name, remedy=remedy)
    return found


def network_left_out(name: str, scale: str) -> str | None:
    """Why a method has no place on a board of networks; None if it has one."""
    method, finite = find(name), all(network(each).finite for each in of_scale(scale))
    if (reason := method.unsupported("networks")) is not None:
        return reason
    loss = method.preference
    listed = loss.grouped and not (isinstance(loss, Grouped) and loss.writers)
    # Entropies of the policy are those of each token there.
    compares = method.sft.compares not in (None, "entropy") or loss.compares is not None
    if not finite and (listed or compares):
        return f"{method.label}: the loss compares all responses of a prompt, which are too many"
    if finite and "likeness" in loss.asks:
        return f"{method.label}: responses there are numbers without features to be like another's"
    if finite and isinstance(method.data, Written):
        return f"{method.label}: rows there are kept or left out, and none is written"
    if finite and method.by_token:
        return f"{method.label}: it looks at tokens, and every response is one token there"
    if not finite and isinstance(method.after, Resa):
        return f"{method.label}: no autoencoder is trained on the layers of transformers"
    try:
        method.plan(TRIED)
    except InputError as error:
        return error.problem
    if not method.changed() and name not in {*METHODS, *PRESETS}:
        return "it is the schedule of another name"
    return None


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with regret, front_gap and rows_regret, in units of the best known gains.

    ``front_gap`` is the least regret over all weights, and ``rows_regret`` is that on training
    rows.
    """
    parts: list[Any] = []
    for _, group in table.groupby("problem", sort=False):
        lams = group["lam"].to_numpy()
        ends, every = _losses(group), _losses(group)[:, None]
        found = {
            "regret": regret(ends, lams, *_known(group, lams)),
            "rows_regret": regret(_losses(group, "rows_"), lams, *_known(group, lams, "rows_")),
            "front_gap": regret(every, WEIGHTS, *_known(group, WEIGHTS)).min(axis=1),
        }
        parts.append(group.assign(**found))
    return pd.concat(parts).sort_index()


def _known(group: pd.DataFrame, lams: Array, kind: str = "") -> tuple[Array, Array]:
    """Least mean weighted loss of one problem at some weights, and (2,) the best known gains."""
    points = _points(group, kind).to_numpy()
    gains = _start(group, kind) - points.min(axis=0)
    return weighted_loss(points[:, None], lams).min(axis=0), np.where(gains > 0, gains, np.nan)


def _losses(group: pd.DataFrame, kind: str = "") -> Array:
    """(runs, 2) losses at the end."""
    return group[[f"{kind}sft_loss", f"{kind}preference_loss"]].to_numpy()


def _points(group: pd.DataFrame, kind: str = "") -> pd.DataFrame:
    """Mean losses of each method at each weight, of one problem."""
    columns = [f"{kind}sft_loss", f"{kind}preference_loss"]
    return group.groupby(["name", "lam"], sort=False)[columns].mean()


def _start(group: pd.DataFrame, kind: str = "") -> Array:
    """(2,) mean losses before training, of one problem."""
    columns = [f"start_{kind}sft_loss", f"start_{kind}preference_loss"]
    return np.asarray(group[columns].mean().to_numpy())
