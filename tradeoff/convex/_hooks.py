"""Hooks of methods in runs on convex problems, whose parameters are one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.convex._directions import Directions
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.setting import Setting, alike, places
from tradeoff.convex.views import PolicyView
from tradeoff.errors import InputError
from tradeoff.methods.chain import Chain

Array = NDArray[np.float64]
Parameters = Float[np.ndarray, "C R d"]
BLOCKS = ("theta",)
REPEATS = 60
"""Most alternating projections for a feasible point whose masked coordinates do not move."""


class ConvexHooks:
    """The hooks of all configurations; their results are projected on the feasible set.

    Parameters
    ----------
    setting
        Setting of the runs.
    directions
        Source of the gradients of single rows.
    """

    def __init__(self, setting: Setting, directions: Directions) -> None:
        self.setting, self.directions = setting, directions
        self.replicas = np.arange(setting.replicas)
        self._keys = draws.keys(setting.seed, self.replicas, draws.COORDINATES)[:, None]
        self.chains: list[tuple[Any, Chain]] = []
        for members, chain in self._grouped():
            shape = (len(members), setting.replicas, len(setting.start))
            chain.start([np.broadcast_to(setting.start, shape).copy()])
            self.chains.append((places(members), chain))

    def begin(self, theta: Parameters, step: int, count: Int[np.ndarray, "C R 2"]) -> None:
        """Apply the hooks before update `step` to theta, in place.

        Gradients of single rows that a part requests are added to ``count``.
        """
        for members, chain in self.chains:
            theta[members] = chain.begin([theta[members]], step)[0]
            for slot, objective, rows in list(chain.passes(step)):
                for gradient in self._of_rows(objective, theta[members], rows):
                    chain.observe(slot, [gradient], step)
                chain.conclude(slot, step)
                count[members, :, objective] += rows
            count[members] += np.array(chain.costs(step))

    def direct(self, direction: Parameters, theta: Parameters, step: int) -> Parameters:
        """Apply the hooks on the directions of update `step`, in place; returns the directions."""
        for members, chain in self.chains:
            direction[members] = chain.direct([direction[members]], [theta[members]], step)[0]
        return direction

    def finish(self, theta: Parameters, step: int) -> None:
        """Apply the hooks after update `step` to theta, in place."""
        for members, chain in self.chains:
            moved = chain.finish([theta[members]], step)[0]
            theta[members] = self._inside(moved, chain)

    def output(self, theta: Parameters, done: int) -> Parameters:
        """A copy of the parameters to record after ``done`` updates."""
        shown = theta.copy()
        for members, chain in self.chains:
            output = chain.output([shown[members]], done)[0]
            shown[members] = self.setting.problem.project(output)
        return shown

    def _grouped(self) -> Iterator[tuple[Int[np.ndarray, " G"], Chain]]:
        """Chains, each with the configurations that have the same hooks at the same moments."""
        setting = self.setting
        pairs = list(zip(setting.methods, setting.plans, strict=True))
        keys = (
            (list(m.hooks.items()), *(a.tobytes() for a in (p.clock, p.probability, p.together)))
            for m, p in pairs
        )
        for (hooks, *_), members in alike(keys):
            if hooks:
                method, plan = pairs[members[0]]
                yield members, Chain(method, plan, BLOCKS, self._uniform, self._policy())

    def _policy(self) -> PolicyView | None:
        problem = self.setting.problem
        dense = isinstance(problem, LogLinear) and problem.is_dense
        return PolicyView(problem) if dense else None

    def _inside(self, theta: Array, chain: Chain) -> Array:
        """Project on the feasible set, with masked coordinates kept."""
        state = chain.states[0].get("parameters", {})
        found = np.asarray(self.setting.problem.project(theta))
        if "kept" not in state:
            return found
        for _ in range(REPEATS):
            held = np.where(state["free"], found, state["kept"])
            found = np.asarray(self.setting.problem.project(held))
            if np.array_equal(found, held):
                break
        return np.where(state["free"], found, state["kept"])

    def _of_rows(self, objective: int, theta: Array, rows: int) -> Iterator[Array]:
        """Yield (G, R, d) gradients of ``rows`` single rows, on draws after those of the run."""
        if self.setting.full and not hasattr(self.setting.problem, "sample_gradients"):
            raise InputError(
                "a part needs gradients of single rows, which the problem does not have",
                field="problem",
                value=type(self.setting.problem).__name__,
                remedy="Give it a method sample_gradients, or use another method.",
            )
        sampler = self.directions.plain(np.tile(self.replicas, len(theta)))
        flat, steps = theta.reshape(-1, theta.shape[-1]), len(self.setting.plans[0])
        for j in range(rows):
            yield sampler.gradient(objective, flat, steps + j).reshape(theta.shape)

    def _uniform(self, step: int, block: int, weights: Array) -> Array:
        size = weights.shape[-1]
        uniform = draws.uniform(self._keys, step * size + np.arange(size))
        return np.broadcast_to(uniform, weights.shape)
