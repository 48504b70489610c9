"""A small model that is trained beside a frozen policy, whose logits it adds to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from tradeoff.errors import InputError
from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.methods.parameters.added import (
    BLOCKS,
    EMBEDDING,
    SHIFT,
    SIDE,
    Added,
    Shapes,
    Tensors,
    gradient_of,
    of_blocks,
)
from tradeoff.methods.parameters.ogd import across
from tradeoff.methods.parameters.subspaces import Rank

HEAD = "head.weight"
"""Name of the last layer of a network."""


@dataclass(frozen=True, kw_only=True)
class SmallModel(Added):
    """The policy before training stays as it is, and a small model adds its logits.

    On convex problems the logits are ``Phi theta_0 + Psi omega``, and omega alone moves. Psi are
    the features as the small model sees them: their coordinates in the directions in which the
    responses to a prompt differ most. With networks a small one of one hidden layer is trained from
    scratch; the features of the frozen network stay, and its last layer is trained with them. With
    language models the small network has a layer beside each block, which reads its own last state
    and that of the frozen model before the block, or after all of them, at the same token. If the
    frozen output layer is also the embedding, a matrix that begins with zeros is added to it.

    Attributes
    ----------
    size
        Parameters of the small model on convex problems: with as many as the policy has, the policy
        itself is trained. Units of the small network.

    Notes
    -----
    Card S32, after a second-hand description. How the paper joins both models is not known; the sum
    of their logits is ours. An update is counted as a whole gradient, though the frozen policy
    needs no backward pass. On the tiny language model its multiplications are counted.
    """

    name: ClassVar[str] = "levi"
    title: ClassVar[str] = "LEVI"
    source: ClassVar[str] = "arXiv 2402.04644"
    with_head: ClassVar[bool] = True
    size: Rank = 4

    def trained(self, shapes: Shapes, rng: np.random.Generator) -> Tensors:
        if EMBEDDING in shapes:
            return self._ladder(shapes, rng)
        columns, responses = next(iter(shapes.values()))[-1], shapes[HEAD][0]
        return {
            f"{SIDE}body.0.weight": 1.5 * rng.normal(size=(self.size, columns)) / columns**0.5,
            f"{SIDE}body.0.bias": 0.5 * rng.normal(size=self.size),
            f"{SIDE}{HEAD}": np.zeros((responses, self.size)),
        }

    def _ladder(self, shapes: Shapes, rng: np.random.Generator) -> Tensors:
        """A layer beside each state of a language model, and what is added to its last layer."""
        vocabulary, width = shapes[EMBEDDING]
        found: Tensors = {}
        for layer in range(_states(shapes)):
            columns = width + (self.size if layer else 0)
            drawn = rng.normal(size=(self.size, columns))
            found[f"{SIDE}body.{layer}.weight"] = 1.5 * drawn / columns**0.5
            found[f"{SIDE}body.{layer}.bias"] = 0.5 * rng.normal(size=self.size)
        found[SIDE + HEAD] = np.zeros((vocabulary, self.size))
        if "lm_head.weight" not in shapes:
            found[SHIFT] = np.zeros((vocabulary, width))
        return found

    def gradient_cost(self, shapes: Shapes, read: float, scored: float) -> float:
        vocabulary, width = shapes[EMBEDDING]
        states = _states(shapes)
        ladder = self.size * (states * width + (states - 1) * self.size + vocabulary)
        # The blocks have a forward pass alone; the last layer has gradients, and no inputs have.
        head = (3 if "lm_head.weight" not in shapes else 2) * vocabulary * width
        own = of_blocks(shapes, read) + scored * (head + 3 * ladder)
        return own / gradient_of(shapes, read, scored)

    def start(self, weights: Array) -> State:
        return {"frozen": copied(weights)}

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        if self._network(moment):
            return gradient, state
        return gradient - across(gradient, self._basis(gradient, moment)), state

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        """The nearest weights (..., d) in the ball that the small model can bring about."""
        if self._network(moment):
            return weights, state
        xp, basis = array_namespace(weights), self._basis(weights, moment)
        rest = across(state["frozen"], basis)
        own = weights - across(weights, basis)
        room = moment.policy.problem.radius**2 - xp.sum(rest * rest, axis=-1, keepdims=True)
        limit = xp.where(room > 0, room, 0 * room) ** 0.5
        length = xp.sum(own * own, axis=-1, keepdims=True) ** 0.5
        shorter = xp.where(length > limit, limit, 0 * limit + 1)
        return rest + own * (shorter / xp.where(length > limit, length, 0 * limit + 1)), state

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "the trainer has the weights of one model alone"
        return super().unsupported(scale)

    def _network(self, moment: Moment) -> bool:
        """Whether the small model has tensors of its own."""
        return any(name.startswith(SIDE) for name in moment.blocks)

    def _basis(self, like: Array, moment: Moment) -> Array:
        """(size, d) orthonormal directions in which the small model moves the policy."""
        if moment.policy is None:
            raise InputError(
                "the small model sees features, and the problem has none",
                field="parameters",
                value=self.name,
                remedy="Use a LogLinear problem with dense features, or a subspace.",
            )
        return array_namespace(like).asarray(moment.policy.main_directions(self.size))


def _states(shapes: Shapes) -> int:
    """States of a language model between its blocks, with the first and the last one."""
    return 1 + len({name.split(".")[1] for name in shapes if name.startswith(BLOCKS)})
