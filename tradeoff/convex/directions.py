"""Directions of updates: sample gradients of what is followed, joined by each method's rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.convex.chosen_rows import trained_on
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.problem import Simulated
from tradeoff.convex.quadratic import Quadratic, QuadraticSampler
from tradeoff.convex.sampling import LogLinearSampler, PlainSampler, Sampler
from tradeoff.convex.setting import Setting
from tradeoff.convex.trained_losses import TrainedLossSampler
from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.methods.gradients import Seen, State, Update
from tradeoff.schedules import PREFERENCE, SFT

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Configurations whose gradients are evaluated in one call: their losses are the same.

    Attributes
    ----------
    members
        (G,) numbers of the configurations.
    sampler
        Of all their runs, one configuration after another.
    values
        Whether some rule of them looks at losses.
    """

    members: Int[np.ndarray, " G"]
    sampler: Any
    values: bool


class Directions:
    """The directions of all runs, update by update.

    Parameters
    ----------
    setting
        Of the run.

    Raises
    ------
    InputError
        If the problem has not what the methods need.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.replicas = np.arange(setting.replicas)
        self.groups = list(self._grouped())
        self.states: list[State] = [
            method.gradient.start((setting.replicas,)) for method in setting.methods
        ]
        self._vectors: dict[int, dict[str, Any]] = {}

    def plain(self, replicas: NDArray[np.int64]) -> Sampler:
        """Samples of the problem's own losses."""
        problem, seed = self.setting.problem, self.setting.seed
        if isinstance(problem, LogLinear):
            return LogLinearSampler(problem, seed, replicas)
        if isinstance(problem, Quadratic):
            return QuadraticSampler(problem, seed, replicas)
        if not isinstance(problem, Simulated) and not self.setting.full:
            raise InputError(
                "the problem cannot be simulated",
                field="problem",
                value=type(problem).__name__,
                remedy="Give it the members of tradeoff.convex.problem.Simulated.",
            )
        return PlainSampler(problem, seed, replicas)

    def __call__(
        self, theta: Float[np.ndarray, "C R d"], weights: Float[np.ndarray, "C R 2"], step: int
    ) -> Float[np.ndarray, "C R d"]:
        """Directions at ``theta`` of update ``step``, to which the schedules give weights."""
        gradient = np.zeros((*theta.shape[:2], 2, theta.shape[2]))
        losses = np.zeros((*theta.shape[:2], 2))
        for group in self.groups:
            for objective in (SFT, PREFERENCE):
                self._evaluate(group, objective, theta, weights, step, gradient, losses)
        factors = weights.copy()
        apart: dict[int, Array] = {}
        for c, method in enumerate(self.setting.methods):
            if "gradient" in method.changed() and self.setting.plans[c].together[step]:
                rule = method.gradient
                excess = losses[c] - (self.setting.optima if rule.above_optima else 0.0)
                if method.gradient.coordinatewise:
                    apart[c] = self._of_vectors(c, gradient[c], weights[c], excess, step)
                    continue
                gram = np.einsum("rid,rjd->rij", gradient[c], gradient[c])
                coins = self._coins(step, 2) if method.gradient.draws else None
                seen = Seen(gram, weights[c], excess, coins)
                factors[c], self.states[c] = method.gradient.factors(seen, self.states[c])
        found = np.asarray(np.einsum("cri,crid->crd", factors, gradient))
        for c, direction in apart.items():
            found[c] = direction
        return found

    def _of_vectors(
        self, c: int, gradient: Array, weights: Array, losses: Array, step: int
    ) -> Array:
        """(R, d) directions of a rule that sees the gradients (R, 2, d)."""
        rule: Any = self.setting.methods[c].gradient
        about = Update(self._coins(step, gradient.shape[-1]), weights, losses)
        first, second = (weights[..., None] * gradient).swapaxes(0, 1)
        state = self._vectors[c] if c in self._vectors else rule.remembered(first)
        direction, self._vectors[c] = rule.joined(first, second, about, state)
        return np.asarray(direction)

    def _coins(self, step: int, size: int) -> Array:
        """(R, size) draws for the rules of update ``step``."""
        keys = draws.keys(self.setting.seed, self.replicas, draws.JOIN)[:, None]
        return draws.uniform(keys, step * size + np.arange(size))

    def _evaluate(
        self,
        group: Group,
        objective: int,
        theta: Array,
        weights: Array,
        step: int,
        gradient: Array,
        losses: Array,
    ) -> None:
        """Write gradients, and losses where a rule looks at them, of the runs that follow."""
        inner, run = np.nonzero(weights[group.members, :, objective])
        if not len(run):
            return
        members = group.members[inner]
        at, place = theta[members, run], inner * len(self.replicas) + run
        if self.setting.full:
            gradient[members, run, objective] = self._mean(group, objective, at)
            if group.values:
                problem = getattr(group.sampler, "problem", self.setting.problem)
                losses[members, run, objective] = problem.losses(at)[:, objective]
        elif group.values:
            found = group.sampler.sample(objective, at, step, place)
            losses[members, run, objective], gradient[members, run, objective] = found
        else:
            found = group.sampler.gradient(objective, at, step, place)
            gradient[members, run, objective] = found

    def _mean(self, group: Group, objective: int, theta: Array) -> Array:
        if isinstance(group.sampler, TrainedLossSampler):
            return group.sampler.mean_gradient(objective, theta)
        problem = getattr(group.sampler, "problem", self.setting.problem)
        if not hasattr(problem, "gradients"):
            raise InputError(
                "the problem has no full gradients",
                field="gradients",
                value="full",
                remedy="Give it a method gradients(theta), or use sample gradients.",
            )
        return np.asarray(problem.gradients(theta)[:, objective])

    def _grouped(self) -> Any:
        """Groups of configurations, in the order in which their losses first come."""
        found: dict[Any, list[int]] = {}
        for c, method in enumerate(self.setting.methods):
            key = (method.data, method.sft, method.preference, method.gradient.uses_losses)
            found.setdefault(key, []).append(c)
        for (*_, values), members in found.items():
            method = self.setting.methods[members[0]]
            replicas = np.tile(self.replicas, len(members))
            yield Group(np.array(members), self._sampler(method, replicas), values)

    def _sampler(self, method: Method, replicas: NDArray[np.int64]) -> Sampler:
        problem = self.setting.problem
        if method.plain_losses:
            return self.plain(replicas)
        if not isinstance(problem, LogLinear):
            raise InputError(
                "losses and choices of rows need a log-linear problem",
                field="problem",
                value=type(problem).__name__,
                remedy="Use a LogLinear problem, or a method that trains the problem's losses.",
            )
        if "data" in method.changed():
            problem = trained_on(problem, method.data, self.setting.start)
            if not method.changed().keys() & {"sft", "preference"}:
                return LogLinearSampler(problem, self.setting.seed, replicas)
        return TrainedLossSampler(
            problem, self.setting.seed, replicas, method.sft, method.preference
        )
