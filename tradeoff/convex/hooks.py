"""Hooks of methods in runs on convex problems, whose parameters are one tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.convex.directions import Directions
from tradeoff.convex.setting import Setting
from tradeoff.errors import InputError
from tradeoff.methods.chain import Chain

Array = NDArray[np.float64]
Parameters = Float[np.ndarray, "C R d"]
BLOCKS = ("theta",)
REPEATS = 60
"""Most projections by which weights are brought back where some must not move."""


class Hooks:
    """The hooks of all configurations; what they return is projected on the feasible set.

    Parameters
    ----------
    setting
        Of the run.
    directions
        Where gradients of single rows come from.
    """

    def __init__(self, setting: Setting, directions: Directions) -> None:
        self.setting, self.directions = setting, directions
        self.replicas = np.arange(setting.replicas)
        self._keys = draws.keys(setting.seed, self.replicas, draws.COORDINATES)[:, None]
        pairs = zip(setting.methods, setting.plans, strict=True)
        made = (Chain(method, plan, BLOCKS, self._uniform) for method, plan in pairs)
        self.chains = {c: chain for c, chain in enumerate(made) if chain}
        first = np.broadcast_to(setting.start, (setting.replicas, len(setting.start))).copy()
        for chain in self.chains.values():
            chain.start([first])

    def begin(self, theta: Parameters, step: int, count: Int[np.ndarray, "C R 2"]) -> None:
        """Change theta, in place, to that from which update `step` starts.

        Gradients of single rows that a part asks for are added to ``count``.
        """
        for c, chain in self.chains.items():
            theta[c] = chain.begin([theta[c]], step)[0]
            for slot, objective, rows in list(chain.passes(step)):
                for gradient in self._of_rows(objective, theta[c], rows):
                    chain.observe(slot, [gradient], step)
                chain.conclude(slot, step)
                count[c, :, objective] += rows

    def direct(self, direction: Parameters, theta: Parameters, step: int) -> Parameters:
        """Directions of update `step`."""
        for c, chain in self.chains.items():
            direction[c] = chain.direct([direction[c]], [theta[c]], step)[0]
        return direction

    def finish(self, theta: Parameters, step: int) -> None:
        """Change theta, in place, to that after update `step`."""
        for c, chain in self.chains.items():
            moved = chain.finish([theta[c]], step)[0]
            theta[c] = self._inside(moved, chain)

    def output(self, theta: Parameters, done: int) -> Parameters:
        """Parameters that are recorded after so many updates, a copy."""
        shown = theta.copy()
        for c, chain in self.chains.items():
            shown[c] = self.setting.problem.project(chain.output([theta[c]], done)[0])
        return shown

    def _inside(self, theta: Array, chain: Chain) -> Array:
        """The nearest feasible point, where a mask holds some coordinates."""
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
        """(R, d) gradients of the loss of so many rows, on draws after those of the run."""
        if self.setting.full and not hasattr(self.setting.problem, "sample_gradients"):
            raise InputError(
                "a part asks for gradients of single rows, which the problem does not have",
                field="problem",
                value=type(self.setting.problem).__name__,
                remedy="Give it a method sample_gradients, or use another method.",
            )
        sampler, steps = self.directions.plain(self.replicas), len(self.setting.plans[0])
        for j in range(rows):
            yield sampler.gradient(objective, theta, steps + j)

    def _uniform(self, step: int, block: int, weights: Array) -> Array:
        size = weights.shape[-1]
        return draws.uniform(self._keys, step * size + np.arange(size))
