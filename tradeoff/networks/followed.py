"""Choice of the objective and of the data rows of each run of an ensemble.

All draws are functions of the run's seed and the update, so they do not depend on the other runs.
They equal those of replica `seed` in `tradeoff.convex.simulate` with root seed 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.methods import Method
from tradeoff.methods.gradients import GradientRule, Seen
from tradeoff.methods.gradients.base import factors_of
from tradeoff.methods.transforms import Online
from tradeoff.parts import Part
from tradeoff.schedules import SFT, Decay, Plan, Schedule, step_shares
from tradeoff.settings import Seed, check

ROOT = 0
_SAMPLES = (draws.SFT_SAMPLE, draws.PREFERENCE_SAMPLE)
_ESTIMATES = (draws.SFT_ESTIMATE, draws.PREFERENCE_ESTIMATE)
OBJECTIVE_SLOTS = ("sft", "preference")
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """A method and a seed, which fixes the initial weights and all draws.

    Attributes
    ----------
    method
        A method, or a schedule alone.
    seed
        A number that is not negative.
    """

    method: Method | Schedule
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "method", Method.of(self.method))

    @property
    def schedule(self) -> Schedule:
        """The schedule of the method."""
        return Method.of(self.method).schedule


class Choices:
    """The choices of R runs over T updates.

    Parameters
    ----------
    runs
        Length R.
    steps
        Number of updates T.
    batch_size
        Rows per gradient; drawn with replacement.
    sizes
        Numbers of training rows of (SFT, preference).
    optima
        (R, 2) minimal training losses, from which gaps are measured. For a NaN the least value seen
        so far is used.
    recent
        Weight of the newest training loss in the running average of a known value.
    kept
        Data rows that a run trains on, by run and objective, if these are not all rows.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        steps: int,
        batch_size: int,
        sizes: tuple[int, int],
        optima: NDArray[np.float64],
        recent: float,
        kept: Mapping[tuple[int, int], Rows] | None = None,
    ) -> None:
        self.kept = kept or {}
        self.seeds = seeds = np.array([run.seed for run in runs])
        self.batch_size, self.sizes, self.optima, self.recent = batch_size, sizes, optima, recent
        members: dict[Method, list[int]] = {}
        for place, run in enumerate(runs):
            members.setdefault(Method.of(run.method), []).append(place)
        self.groups: list[tuple[Plan, Rows]] = [
            (method.plan(steps), np.array(rows)) for method, rows in members.items()
        ]
        self.methods = list(members)
        self._states = [method.gradient.start((len(rows),)) for method, rows in members.items()]
        self.vectors: dict[int, dict[str, Any]] = {}
        self.compares = any(plan.watched for plan, _ in self.groups)
        self.known, self.least = np.full((2, len(runs), 2), np.nan)
        self.base = np.full(len(runs), np.nan)
        self._shares: dict[Decay, list[NDArray[np.float64]]] = {}
        self._objective = draws.keys(ROOT, seeds, draws.OBJECTIVE)
        self._join = draws.keys(ROOT, seeds, draws.JOIN)
        self._coordinates = draws.keys(ROOT, seeds, draws.COORDINATES)
        self._views = draws.keys(ROOT, seeds, draws.VIEW)
        self._tokens = draws.keys(ROOT, seeds, draws.TOKENS)
        self._samples = [draws.keys(ROOT, seeds, stream) for stream in _SAMPLES]
        self._estimates = [draws.keys(ROOT, seeds, stream) for stream in _ESTIMATES]

    def weights(self, step: int) -> NDArray[np.float64]:
        """(R, 2) gradient weights of update `step`, from 0; the known values must be up to date."""
        weights = np.empty((len(self._objective), 2))
        uniform = draws.uniform(self._objective, step)
        optima = np.where(np.isnan(self.optima), self.least, self.optima)
        for plan, rows in self.groups:
            least = optima[rows] + plan.gaps.optimum_error
            base = self.base[rows] - least[:, SFT]
            weights[rows] = plan.follow(step, uniform[rows], self.known[rows] - least, base)
        return weights

    def followed(self, weights: NDArray[np.float64], step: int) -> NDArray[np.bool_]:
        """(R, 2) which gradients update `step` needs: both for a rule, whatever their weights."""
        found = weights != 0
        found[self.joined(step)] = True
        return found

    def losses(self, objective: int) -> list[tuple[Part | None, Rows]]:
        """Losses that methods train, with their runs; None for the loss of the task."""
        found: dict[Part | None, list[Rows]] = {}
        slot = OBJECTIVE_SLOTS[objective]
        for method, (_, rows) in zip(self.methods, self.groups, strict=True):
            found.setdefault(method.changed().get(slot), []).append(rows)
        return [(loss, np.sort(np.concatenate(rows))) for loss, rows in found.items()]

    def joined(self, step: int) -> Rows:
        """Runs whose gradient rule joins both gradients in update `step`."""
        rules = zip(self.methods, self.groups, strict=True)
        found = [rows for m, (p, rows) in rules if "gradient" in m.changed() and p.together[step]]
        return np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    def of_vectors(self, step: int) -> Iterator[tuple[int, Any, Rows, Rows]]:
        """Rules that use whole gradients: method number, rule, its runs and the runs' places.

        Places are indices into the runs of :meth:`joined`. The state of a rule is kept in
        ``vectors`` by the number of its method.
        """
        named = self.joined(step)
        for k, (method, (plan, rows)) in enumerate(zip(self.methods, self.groups, strict=True)):
            if method.gradient.coordinatewise and plan.together[step]:
                yield k, method.gradient, rows, np.searchsorted(named, rows)

    def excess(
        self, rule: GradientRule, runs: Rows, losses: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n, 2) losses of some runs as a rule sees them: above the known optima, if it says so."""
        return losses - np.nan_to_num(self.optima[runs]) if rule.above_optima else losses

    def coins(self, step: int, runs: Rows, size: int) -> NDArray[np.float64]:
        """(len(runs), size) draws for the coordinates of the gradients of update `step`."""
        return draws.uniform(self._join[runs][:, None], step * size + np.arange(size))

    def join(
        self,
        step: int,
        gram: NDArray[np.float64],
        weights: NDArray[np.float64],
        losses: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Factors (n, 2) of both gradients of the runs of :meth:`joined`.

        Parameters
        ----------
        step
            The update, from 0.
        gram, weights, losses
            (n, 2, 2) inner products of their gradients, (n, 2) weights of the schedule, and (n, 2)
            minibatch losses.
        """
        named, factors = self.joined(step), np.empty_like(weights)
        for k, (method, (plan, rows)) in enumerate(zip(self.methods, self.groups, strict=True)):
            if "gradient" in method.changed() and plan.together[step]:
                place = np.searchsorted(named, rows)
                coins = self.coins(step, rows, 2) if method.gradient.draws else None
                values = self.excess(method.gradient, rows, losses[place])
                seen = Seen(gram[place], weights[place], values, coins)
                found = factors_of(method.gradient, seen, self._states[k])
                factors[place], self._states[k] = found
        return factors

    def hidden(self, loss: Any, step: int, runs: Rows, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """(n, rows, time) whether a token is hidden, in update `step` of some runs."""
        rates = loss.hidden(self.progress(step)[runs])
        return np.asarray(self.tosses(step, runs, shape) < rates[:, None, None])

    def progress(self, step: int) -> NDArray[np.float64]:
        """(R,) share of the updates of the stage that are done before update `step`."""
        found = np.empty(len(self._objective))
        for plan, rows in self.groups:
            found[rows] = (plan.clock[step] - 1) / plan.lengths[step]
        return found

    def tosses(self, step: int, runs: Rows, shape: tuple[int, int]) -> NDArray[np.float64]:
        """(n, *shape) draws for the tokens of the demonstrations of update `step`."""
        counter = step * shape[0] * shape[1] + np.arange(shape[0] * shape[1]).reshape(shape)
        return draws.uniform(self._tokens[runs][:, None, None], counter)

    def candidates(self, step: int, runs: Rows, factor: int) -> Rows:
        """(len(runs), factor * batch_size) demonstrations from which an update's are chosen."""
        count = factor * self.batch_size
        return self._pick(self._samples[SFT], SFT, step * count + np.arange(count), runs)

    def selecting(self) -> Iterator[tuple[Any, Rows]]:
        """Data parts that choose the demonstrations of each update, and their runs."""
        for method, (_, rows) in zip(self.methods, self.groups, strict=True):
            if isinstance(method.data, Online):
                yield method.data, rows

    def clock(self, step: int) -> NDArray[np.int64]:
        """(R,) number of the update within its stage, from 1."""
        clock = np.empty(len(self._objective), dtype=np.int64)
        for plan, rows in self.groups:
            clock[rows] = plan.clock[step]
        return clock

    def shares(self, step: int, decay: Decay) -> NDArray[np.float64]:
        """(R,) step size of update `step`, as a share of the first step size of its stage."""
        if decay not in self._shares:
            self._shares[decay] = [step_shares(plan.clock, decay) for plan, _ in self.groups]
        shares = np.empty(len(self._objective))
        for own, (_, rows) in zip(self._shares[decay], self.groups, strict=True):
            shares[rows] = own[step]
        return shares

    def stage(self, step: int) -> NDArray[np.int64]:
        """(R,) number of the stage that the update belongs to, from 0."""
        stage = np.empty(len(self._objective), dtype=np.int64)
        for plan, rows in self.groups:
            stage[rows] = np.count_nonzero(plan.clock[: step + 1] == 1) - 1
        return stage

    def batch(self, objective: int, step: int, runs: Rows) -> Rows:
        """(len(runs), batch_size) data rows of the gradients of update `step`."""
        counter = step * self.batch_size + np.arange(self.batch_size)
        return self._pick(self._samples[objective], objective, counter, runs)

    def beside(self, objective: int, step: int, size: int, runs: Rows) -> Rows:
        """(len(runs), batch_size) data rows that an anchor looks at in update `step`.

        Of `size` draws for the weights of an update, the first ones choose them.
        """
        counter = step * size + np.arange(self.batch_size)
        return self._pick(self._coordinates, objective, counter, runs)

    def factors(
        self, noise: float, step: int, shape: tuple[int, int], runs: Rows
    ) -> NDArray[np.float64]:
        """(len(runs), *shape) factors of mean 1 in update `step`, with the noise as deviation."""
        counter = step * shape[0] * shape[1] + np.arange(shape[0] * shape[1])
        uniform = draws.uniform(self._views[runs][:, None], counter)
        return 1 + noise * 12**0.5 * (uniform.reshape(-1, *shape) - 0.5)

    def due(self, step: int) -> Iterator[tuple[Rows, Plan]]:
        """Runs whose values must be evaluated before update `step`, and their plan."""
        for plan, rows in self.groups:
            refresh = plan.gaps.refresh
            again = step == 0 or (refresh is not None and step % refresh == 0)
            if plan.watched and again:
                yield rows, plan

    def learn(self, step: int, objective: int, runs: Rows, values: NDArray[np.float64]) -> None:
        """Store the values (len(runs),) of an evaluation before update `step`."""
        self.known[runs, objective] = values
        self.least[runs, objective] = np.fmin(self.least[runs, objective], values)
        if step == 0 and objective == SFT:
            self.base[runs] = values

    def probe(self, objective: int, samples: int, runs: Rows) -> Rows:
        """(len(runs), rows) data rows on which losses are estimated, the same during a run."""
        if samples == 0:
            return np.tile(np.arange(self.sizes[objective]), (len(runs), 1))
        return self._pick(self._estimates[objective], objective, np.arange(samples), runs)

    def single_rows(self, objective: int, count: int, runs: Rows) -> Iterator[Rows]:
        """Draw `count` times a data row (len(runs), 1) for each run, the same in every call."""
        for j in range(count):
            yield self._pick(self._estimates[objective], objective, np.array([j]), runs)

    def observe(self, losses: NDArray[np.float64], seen: NDArray[np.bool_]) -> None:
        """Update the running averages by training losses (R, 2), where these were computed."""
        self.known = np.where(seen, self.known + self.recent * (losses - self.known), self.known)
        self.least = np.fmin(self.least, self.known)

    def _pick(self, keys: NDArray[np.uint64], objective: int, counter: Rows, runs: Rows) -> Rows:
        u = draws.uniform(keys[runs][:, None], counter)
        found = (u * self.sizes[objective]).astype(np.int64)
        for place, run in enumerate(runs.tolist() if self.kept else ()):
            if (rows := self.kept.get((run, objective))) is not None:
                found[place] = rows[(u[place] * len(rows)).astype(np.int64)]
        return np.asarray(found)
