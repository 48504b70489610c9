"""Update directions: sample gradients of the losses, joined by each method's gradient rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.convex._chosen_rows import added_logits, trained_on
from tradeoff.convex._in_context import InContextSampler
from tradeoff.convex._trained_losses import TrainedLossSampler, row_weights
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.problem import Simulated
from tradeoff.convex.quadratic import Quadratic, QuadraticSampler
from tradeoff.convex.sampling import LogLinearSampler, PlainSampler, Sampler
from tradeoff.convex.setting import Setting, alike, places
from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.methods.gradients import GradientRule, Seen, State, Update
from tradeoff.methods.gradients.base import factors_of
from tradeoff.methods.gradients.coordinates import direction_of
from tradeoff.methods.losses import Nll, TokenWeighted
from tradeoff.methods.transforms.retrieved import InContext
from tradeoff.schedules import PREFERENCE, SFT

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LossGroup:
    """Configurations with the same losses, whose gradients are evaluated in one call.

    Attributes
    ----------
    members
        (G,) numbers of the configurations.
    sampler
        Sampler of all their runs, one configuration after another.
    values
        Whether a gradient rule of the group uses loss values.
    """

    members: Int[np.ndarray, " G"]
    sampler: Any
    values: bool


@dataclass(frozen=True)
class Joined:
    """Configurations with the same gradient rule, applied in the same updates.

    Attributes
    ----------
    rule
        The gradient rule.
    members
        (G,) numbers of the configurations.
    together
        (T,) whether each update follows both objectives.
    """

    rule: GradientRule
    members: Int[np.ndarray, " G"]
    together: NDArray[np.bool_]


class Directions:
    """Update directions of all runs, computed one update at a time.

    Parameters
    ----------
    setting
        Setting of the runs.

    Raises
    ------
    InputError
        If the problem lacks a member that the methods need.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.replicas = np.arange(setting.replicas)
        self.groups = list(self._grouped())
        self.joined = list(self._joined())
        self.states: list[State] = [
            each.rule.start((len(each.members), setting.replicas)) for each in self.joined
        ]
        self._join_keys = draws.keys(setting.seed, self.replicas, draws.JOIN)[:, None]
        shape = (len(setting.methods), setting.replicas, 2)
        self._gradient, self._losses = np.zeros((*shape, len(setting.start))), np.zeros(shape)
        self._vectors: dict[int, dict[str, Any]] = {}
        self._joins = np.zeros((len(setting.methods), len(setting.plans[0])), dtype=bool)
        for each in self.joined:
            self._joins[each.members] = each.together

    def followed(self, weights: Float[np.ndarray, "C R 2"], step: int) -> Bool[np.ndarray, "C R 2"]:
        """Which gradients update ``step`` needs: both for a rule, whatever their weights."""
        return (weights != 0) | self._joins[:, step, None, None]

    def plain(self, replicas: NDArray[np.int64]) -> Sampler:
        """Sampler of the problem's own losses, for runs of these replicas."""
        problem, seed = self.setting.problem, self.setting.seed
        if isinstance(problem, LogLinear):
            return LogLinearSampler(problem, seed, replicas, compiled=self.setting.compiled)
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
        """Directions of update ``step`` at ``theta``, for the gradient weights of the schedules."""
        gradient, losses = self._gradient, self._losses
        followed = self.followed(weights, step)
        for group in self.groups:
            for objective in (SFT, PREFERENCE):
                self._evaluate(group, objective, theta, followed[..., objective], step)
        factors = weights.copy()
        apart: list[tuple[Joined, Array]] = []
        for k, each in enumerate(self.joined):
            if not each.together[step]:
                continue
            at, rule = places(each.members), each.rule
            excess = losses[at] - (self.setting.optima if rule.above_optima else 0.0)
            if rule.coordinatewise:
                direction = self._of_vectors(k, gradient[at], weights[at], excess, step)
                apart.append((each, direction))
                continue
            coins = np.broadcast_to(self._coins(step, 2), excess.shape) if rule.draws else None
            seen = Seen(_gram(gradient[at]), weights[at], excess, coins)
            factors[at], self.states[k] = factors_of(rule, seen, self.states[k])
        found = factors[..., 0, None] * gradient[..., 0, :]
        found += factors[..., 1, None] * gradient[..., 1, :]
        for each, direction in apart:
            found[each.members] = direction
        return found

    def _of_vectors(
        self, k: int, gradient: Array, weights: Array, losses: Array, step: int
    ) -> Array:
        """(G, R, d) directions of a rule that uses the full gradients (G, R, 2, d)."""
        rule: Any = self.joined[k].rule
        first, second = np.moveaxis(weights[..., None] * gradient, 2, 0)
        coins = np.broadcast_to(self._coins(step, gradient.shape[-1]), first.shape)
        state = self._vectors[k] if k in self._vectors else rule.remembered(first)
        about = Update(coins, weights, losses)
        direction, self._vectors[k] = direction_of(rule, first, second, about, state)
        return np.asarray(direction)

    def _coins(self, step: int, size: int) -> Array:
        """(R, size) draws for the rules of update ``step``."""
        return draws.uniform(self._join_keys, step * size + np.arange(size))

    def _evaluate(
        self, group: LossGroup, objective: int, theta: Array, followed: NDArray[np.bool_], step: int
    ) -> None:
        """Evaluate one objective for the runs of a group that follow it.

        Stores the gradients, and the losses where a rule uses them.
        """
        here = places(group.members)
        follow = followed[here]
        if follow.all():
            at, run = theta[here].reshape(-1, theta.shape[-1]), slice(None)
            found = self._sampled(group, objective, at, step, run)
            self._gradient[here, :, objective] = found[1].reshape(*follow.shape, -1)
            if group.values:
                self._losses[here, :, objective] = found[0].reshape(follow.shape)
            return
        self._gradient[here, :, objective] = 0.0
        self._losses[here, :, objective] = 0.0
        inner, replica = np.nonzero(follow)
        if not len(inner):
            return
        members, chosen = group.members[inner], inner * len(self.replicas) + replica
        found = self._sampled(group, objective, theta[members, replica], step, chosen)
        self._gradient[members, replica, objective] = found[1]
        if group.values:
            self._losses[members, replica, objective] = found[0]

    def _sampled(
        self, group: LossGroup, objective: int, theta: Array, step: int, run: Any
    ) -> tuple[Array, Array]:
        """Losses (B,), zero where no rule uses them, and gradients (B, d) at theta (B, d)."""
        if self.setting.full:
            gradient, losses = self._mean(group, objective, theta), np.zeros(len(theta))
            if group.values:
                problem = getattr(group.sampler, "problem", self.setting.problem)
                losses = problem.losses(theta)[:, objective]
            return losses, gradient
        if group.values:
            both: tuple[Array, Array] = group.sampler.sample(objective, theta, step, run)
            return both
        return np.zeros(len(theta)), group.sampler.gradient(objective, theta, step, run)

    def _mean(self, group: LossGroup, objective: int, theta: Array) -> Array:
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
        found = np.asarray(problem.gradients(theta))
        if found.shape != (len(theta), 2, theta.shape[1]):
            raise InputError(
                "the problem's gradients are not two gradients for each run",
                field="gradients",
                value=found.shape,
                remedy=f"Return an array of shape {(len(theta), 2, theta.shape[1])}.",
            )
        return np.asarray(found[:, objective])

    def _grouped(self) -> Iterator[LossGroup]:
        """Groups of configurations, in the order in which their losses first occur."""
        methods = self.setting.methods
        keys = ((m.data, m.sft, m.preference, m.gradient.uses_losses) for m in methods)
        for (*_, values), members in alike(keys):
            replicas = np.tile(self.replicas, len(members))
            yield LossGroup(members, self._sampler(methods[members[0]], replicas), values)

    def _joined(self) -> Iterator[Joined]:
        """Configurations with a gradient rule, grouped by rule."""
        pairs = zip(self.setting.methods, self.setting.plans, strict=True)
        keys = (
            (method.gradient, plan.together.tobytes()) if "gradient" in method.changed() else None
            for method, plan in pairs
        )
        for key, members in alike(keys):
            if key is not None:
                yield Joined(key[0], members, self.setting.plans[members[0]].together)

    def _sampler(self, method: Method, replicas: NDArray[np.int64]) -> Sampler:
        problem = self.setting.problem
        if method.plain_losses:
            return self.plain(replicas)
        if not isinstance(problem, LogLinear):
            raise InputError(
                "methods with their own losses or rows need a log-linear problem",
                field="problem",
                value=type(problem).__name__,
                remedy="Use a LogLinear problem, or a method that trains the problem's losses.",
            )
        seed, compiled = self.setting.seed, self.setting.compiled
        if isinstance(method.data, InContext):
            added = added_logits(problem, method.data)
            # Without it, all is as it is without a prompt's examples, bit for bit.
            if added.any():
                return InContextSampler(
                    problem, added, seed, replicas,
                    sft=method.sft, preference=method.preference, compiled=compiled,
                )  # fmt: skip
        if "data" in method.changed():
            problem = trained_on(problem, method.data, self.setting.start)
        sft = method.sft
        if isinstance(sft, TokenWeighted) and row_weights(problem, sft) is None:
            sft = Nll()
        if problem is self.setting.problem and replace(method, sft=sft).plain_losses:
            return self.plain(replicas)
        if sft == Nll() and "preference" not in method.changed():
            return LogLinearSampler(problem, seed, replicas, compiled=compiled)
        return TrainedLossSampler(
            problem, seed, replicas, sft, method.preference, compiled=compiled
        )


def _gram(gradient: Float[np.ndarray, "G R 2 d"]) -> Float[np.ndarray, "G R 2 2"]:
    """Inner products of both gradients."""
    first, second = gradient[..., 0, :], gradient[..., 1, :]
    found = np.empty((*gradient.shape[:-1], 2))
    pairs = {(0, 0): (first, first), (0, 1): (first, second), (1, 1): (second, second)}
    for (i, j), (a, b) in pairs.items():
        found[..., i, j] = found[..., j, i] = np.einsum("grd,grd->gr", a, b)
    return found
