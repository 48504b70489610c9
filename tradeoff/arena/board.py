"""The board: every method on every problem, scored against certified fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from tradeoff.arena import ranks, runs
from tradeoff.arena.contenders import contenders
from tradeoff.arena.instances import SUITE, front, instance, law_front
from tradeoff.arena.matching import Match
from tradeoff.arena.scenarios import SKILLS, is_scenario, scenario
from tradeoff.display import Shown
from tradeoff.errors import InputError
from tradeoff.scores import holm, hypervolume, interval
from tradeoff.settings import Count, Share, Within, checked
from tradeoff.study import engines
from tradeoff.study import run as run_study
from tradeoff.study.engines import Backend

LAMS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Weights of the preference objective at which every method runs."""
BASELINES = ("mix", "sft-dpo")
"""Methods to which the others are compared: joint and sequential training as they are common."""
THIRD = ("law_regret", "kl", "lost", "gained", "flips", "calibration", "documents")
"""Scores beside the two losses that were trained on, where a scale has them."""
LEVEL = 0.05
"""Probability of any false difference to a baseline, over all methods."""
ORDERS = ("rank", "regret", "front_gap", "coverage")
"""Columns that a table can be sorted by."""
BATCH = 400
"""Configurations that one call simulates together."""


@dataclass(frozen=True, repr=False)
class Board(Shown):
    """Losses of all runs, and what they say of the methods.

    Attributes
    ----------
    runs
        One row for each run that scores: name, problem, lam, replica, sft_loss, preference_loss,
        regret and front_gap in units of the front's ranges, law_regret likewise on the law that
        the rows were drawn from, the third measures (:mod:`tradeoff.arena.measures`), skills of
        scenarios (:mod:`tradeoff.arena.scenarios`), step,
        later_step, at_edge, steps, cpu_seconds.
    """

    runs: pd.DataFrame

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Mean of each method on each problem at each weight, with half-widths of its regret."""
        rows = []
        for key, group in self.runs.groupby(["name", "problem", "lam"], sort=False):
            regret = interval(group["regret"])
            rows.append(
                dict(zip(("name", "problem", "lam"), key, strict=True))
                | {
                    "regret": float(regret.mean),
                    "± regret": float(regret.high - regret.mean),
                    "front_gap": float(group["front_gap"].mean()),
                    "sft_loss": float(group["sft_loss"].mean()),
                    "preference_loss": float(group["preference_loss"].mean()),
                    **{n: float(group[n].mean()) for n in (*THIRD, *SKILLS) if n in group},
                    "step": float(group["step"].iloc[0]),
                    "at_edge": bool(group["at_edge"].iloc[0]),
                    "updates": int(group["steps"].iloc[0]),
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def regret(self) -> pd.DataFrame:
        """Regret of each method (rows) on each problem (columns): mean over weights and runs."""
        return self._mean("regret")

    @cached_property
    def front_gap(self) -> pd.DataFrame:
        """Distance behind the front, likewise, whatever weight was asked for."""
        return self._mean("front_gap")

    @cached_property
    def skills(self) -> pd.DataFrame:
        """Skills of scenarios by method: means over weights and runs, one column a skill.

        The first row, "before", is the policy before training. Empty without scenarios.
        """
        places = [name for name in self.regret.columns if is_scenario(name)]
        found = {}
        for place in places:
            for skill, before in self.before(place).items():
                found[f"{place}: {skill}"] = pd.concat(
                    [pd.Series({"before": before}), self.third(skill)[place]]
                )
        return pd.DataFrame(found)

    def before(self, problem: str) -> dict[str, float]:
        """By skill, what the policy of a scenario has before training."""
        return scenario(problem).before

    def third(self, name: str) -> pd.DataFrame:
        """One of :data:`THIRD` or a skill, likewise; NaN on a problem that does not have it."""
        return self._mean(name)

    @property
    def thirds(self) -> pd.DataFrame:
        """The measures of :data:`THIRD` that the board has, by method: means over problems."""
        found = {name: self.third(name).mean(axis=1) for name in THIRD if name in self.runs}
        return pd.DataFrame(found, index=self.regret.index)

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """Share of the front's area that the ends of a method's weights dominate together.

        One policy a weight: the mean losses of its runs. At equal cost in total.
        """
        rows: dict[str, dict[str, float]] = {}
        for (name, problem), group in self.cells.groupby(["name", "problem"], sort=False):
            found = front(str(problem))
            points = group[["sft_loss", "preference_loss"]].to_numpy()
            whole = found.hypervolume_bounds()[0]
            rows.setdefault(str(name), {})[str(problem)] = hypervolume(points, found.nadir) / whole
        return pd.DataFrame.from_dict(rows, orient="index")

    def table(self, sort: str = "rank") -> pd.DataFrame:
        """The board, one row a method, the best first.

        Parameters
        ----------
        sort
            Column to sort by: rank, regret, front_gap or coverage.

        Returns
        -------
        DataFrame
            name; rank by regret, mean over problems with its 95 % interval (over replicas, on a
            board of one problem); regret and front_gap
            in units of the front's ranges and coverage, means over problems; for each baseline
            the number of problems on which the method has less or more regret than it, after
            Holm's correction over all methods and problems; at_edge, the number of its cells
            whose best step lies at an end of the grid.
        """
        check_order(sort)
        found = ranks.rank_table(self._ranked)
        for name in ("regret", "front_gap", "coverage"):
            found[name] = getattr(self, name).mean(axis=1)
        for baseline in BASELINES:
            if baseline in found.index:
                found = found.join(self.against(baseline))
        found["at_edge"] = self.cells.groupby("name", sort=False)["at_edge"].sum()
        ordered = found.sort_values(sort, ascending=sort != "coverage", kind="stable")
        return ordered.rename_axis("name").reset_index()

    def against(self, baseline: str) -> pd.DataFrame:
        """On how many problems each method has less and more regret than a baseline.

        A difference counts if it is significant at :data:`LEVEL`, see :meth:`differences`.
        """
        found = ranks.wins(self.differences(baseline), LEVEL)
        return found.rename(columns=lambda side: f"{side}_than_{baseline}")

    def differences(self, baseline: str, score: str = "regret") -> pd.DataFrame:
        """A score of each method less that of a baseline, on each problem.

        Parameters
        ----------
        baseline
            Name of a method on the board.
        score
            Column of ``runs`` in which less is better, such as regret or front_gap.

        Returns
        -------
        DataFrame
            name, problem, difference (mean over runs, paired by replica and averaged over
            weights), half_width of its 95 % interval, and p of a paired t-test after Holm's
            correction over all methods and problems; NaN for the baseline itself.

        Raises
        ------
        InputError
            If the baseline is not on the board.
        """
        if baseline not in self.regret.index:
            remedy = f"Use one of {', '.join(map(str, self.regret.index))}."
            raise InputError("not on the board", field="baseline", value=baseline, remedy=remedy)
        regrets = self._by_replica(score)
        found = []
        for name in self.regret.index:
            for problem in self.regret.columns:
                apart = (regrets.loc[(name, problem)] - regrets.loc[(baseline, problem)]).to_numpy()
                p = np.nan if name == baseline else ranks.paired_p(apart)
                spread = interval(apart)
                half = float(spread.high - spread.mean)
                found.append((name, problem, float(spread.mean), half, p))
        columns = ["name", "problem", "difference", "half_width", "p"]
        tests = pd.DataFrame(found, columns=columns)
        return tests.assign(p=holm(tests["p"]))

    @property
    def spread(self) -> pd.DataFrame:
        """Half-widths of the 95 % intervals of :attr:`regret`, over replicas."""
        found = self._by_replica("regret")
        ends = interval(found.to_numpy(), axis=1)
        half = pd.Series(ends.high - ends.mean, index=found.index)
        return half.unstack("problem").loc[self.regret.index, self.regret.columns]

    def _by_replica(self, score: str) -> pd.DataFrame:
        """(methods x problems, replicas) a score, mean over weights."""
        keys = ["name", "problem", "replica"]
        return self.runs.groupby(keys, sort=False)[score].mean().unstack("replica")

    @property
    def _ranked(self) -> pd.DataFrame:
        """What ranks are taken of: problems, or the replicas of the only one."""
        if self.regret.shape[1] > 1:
            return self.regret
        return self._by_replica("regret").droplevel("problem")

    def _mean(self, score: str) -> pd.DataFrame:
        means = self.runs.groupby(["name", "problem"], sort=False)[score].mean()
        return means.unstack("problem")

    def __repr__(self) -> str:
        methods, problems = self.regret.shape
        places = f"{problems} problem{'s' * (problems != 1)}"
        return f"Board({methods} methods on {places}, {len(self.runs)} runs)"


@checked
def board(
    methods: Sequence[str] = (),
    problems: Sequence[str] = (),
    *,
    folder: str | Path,
    lams: Sequence[Share] = LAMS,
    budget: Annotated[float, Within(1, 1e9)] = 500.0,
    replicas: Count = 32,
    match: Match = "none",
    jobs: int = -1,
    backend: Backend = "loky",
    progress: bool = False,
) -> Board:
    """Run what is missing of a board, and score all of it.

    Parameters
    ----------
    methods
        Names, see :func:`tradeoff.methods.find`; the whole catalogue by default. The baselines
        take part in any case.
    problems
        Names of :data:`~tradeoff.arena.SUITE`, all of which are the default, of
        :data:`~tradeoff.arena.scenarios.SCENARIOS`, or files of your own rows.
    folder
        Where each run is stored; what is there already is not computed again.
    lams
        Weights of the preference objective, each in [0, 1].
    budget
        Cost of each run in gradients of a data point, looks at losses included.
    replicas
        Runs that score, on draws that all methods share; at least 2.
    match
        Terms on which preference losses are compared. "none": each with its own settings. "beta":
        with the beta of the problem. "weight": that, and at the weight at which their pull is that
        of the problem's loss; see :mod:`tradeoff.arena.matching`.
    jobs, backend
        Processes, -1 for all cores; and the engine that starts them, see
        :func:`tradeoff.study.run`.
    progress
        Show a bar.

    Raises
    ------
    InputError
        If a name is unknown, a method cannot run on convex problems, or a setting is out of range.
    """
    if replicas < 2:
        remedy = "Use at least 2, so that differences have intervals."
        raise InputError("too few", field="replicas", value=replicas, remedy=remedy)
    engines.check(backend, jobs)
    asked = dict.fromkeys((*BASELINES, *methods)) if methods else ()
    taking_part = contenders(asked)
    places = [instance(name).name for name in problems] or list(SUITE)
    configurations = [
        runs.configuration(method, name, problem, lam, budget, replicas, match)
        for problem in places
        for name, method in taking_part.items()
        for lam in lams
    ]
    table = run_study(
        runs.run, configurations, folder, batch=BATCH, alike=("problem", "steps", "replicas"),
        jobs=jobs, backend=backend, progress=progress,
    )  # fmt: skip
    return Board(scored(table))


def check_order(sort: str) -> None:
    """An `InputError` for an order that a board's table does not have."""
    if sort not in ORDERS:
        remedy = f"Use one of {', '.join(ORDERS)}."
        raise InputError("no such order", field="sort", value=sort, remedy=remedy)


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with their regret and their distance behind the front of their problem."""
    parts: list[Any] = []
    for problem, group in table.groupby("problem", sort=False):
        lams, known = group["lam"].to_numpy(), law_front(str(problem))
        places = front(str(problem)).score(group, lams)
        found = group.join(places[["regret", "front_gap", "matched_weight"]])
        if known is not None:
            losses = group[["law_sft_loss", "law_preference_loss"]].to_numpy()
            found["law_regret"] = known.score(losses, lams)["regret"].to_numpy()
        parts.append(found)
    return pd.concat(parts).sort_index()
