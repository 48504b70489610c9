"""Tensors that are trained beside those of a network, which stay as they are.

The parameters of a policy say by their names what is added to it, so that they alone decide what it
answers. Where all that is added is zero, the policy is the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Float

from tradeoff.methods.hooks import Array
from tradeoff.methods.parameters.base import Parameters
from tradeoff.settings import BelowOne, NotNegative, Positive, Within

SIDE = "side."
"""Stands before the names of the parameters of a second network, whose logits are added."""
DOWN, UP, ROUTER, SCALE = ".down", ".up", ".router", ".scale"
"""Stand after the name of a matrix, for the adapters beside it: see :class:`LoraMoe`."""
EMBEDDING = "embed_tokens.weight"
"""Name of the embedding of a language model."""
SHIFT = "side.shift.weight"
"""Name of what is added to an output layer that is also the embedding, which stays as it is."""
BLOCKS = "layers."
"""Stands before the names of the parameters of a language model's blocks."""
LATENT = "latent"
"""Name of the vectors (N, width) that a language model reads before each response, see
:class:`tradeoff.methods.parameters.latents.LatentThoughts`; where all are zero there are none."""
Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Added(Parameters):
    """Trains tensors of its own beside a frozen network.

    Attributes
    ----------
    with_head
        Whether the last layer of the network is trained, too, a class attribute.
    """

    adds: ClassVar[bool] = True
    with_head: ClassVar[bool] = False

    @abstractmethod
    def trained(self, shapes: Shapes, rng: np.random.Generator) -> Tensors:
        """First values of what is added, by name.

        Parameters
        ----------
        shapes
            Shapes of the tensors of the network, by name, from the first layer on.
        rng
            Generator of the run.
        """

    @property
    def with_network(self) -> bool:
        """Whether all tensors of the network are trained, too."""
        return False

    def fixed(self, shapes: Shapes) -> Tensors:
        """Values that are added and are not trained, by name."""
        return {}

    def penalty(self, shares: Float[Array, "L B E"], objective: int) -> Array:
        """What is added to the loss of a batch, a number.

        Parameters
        ----------
        shares
            (L, B, E) shares of E experts in each of L layers, for B rows.
        objective
            Whose rows these are.
        """
        return 0 * array_namespace(shares).sum(shares)

    @property
    def penalises(self) -> bool:
        """Whether the penalty may differ from zero."""
        return False

    @abstractmethod
    def gradient_cost(self, shapes: Shapes, read: float, scored: float) -> float:
        """Cost of a gradient of a language model to which it is added, in those of the model alone.

        Parameters are those of :func:`gradient_of`.
        """


@dataclass(frozen=True, kw_only=True)
class LoraMoe(Added):
    """Several adapters of low rank beside each matrix, and a router that weights them by its input.

    A layer gives ``W h + alpha / rank * sum over experts i of softmax(G h)_i B_i A_i h``; the
    matrix W is frozen.

    Attributes
    ----------
    experts
        Adapters of each matrix. With one of them this is LoRA.
    rank
        Of each adapter.
    alpha
        Strength of the adapters, positive.
    balance
        Weight, not negative, of the variance of the experts' shares over their squared mean. It
        keeps the router from using few experts alone.
    specialised
        How much more the first half of the experts is meant for demonstrations and the second for
        pairs, in [0, 1): for the balance the shares count 1 plus this in rows of their own kind and
        1 minus this in others.

    Notes
    -----
    Card S51. In the published script the balance is off, as here by default; its experts lie beside
    feed-forward layers, and here beside every matrix. An update is counted as one gradient; its
    adapters cost about a tenth more on large models. On the tiny language model, where experts lie
    beside the matrices of its blocks, what they cost is counted.
    """

    name: ClassVar[str] = "lora_moe"
    title: ClassVar[str] = "LoRAMoE"
    source: ClassVar[str] = "arXiv 2312.09979"
    experts: Annotated[int, Within(1, 1024)] = 8
    rank: Annotated[int, Within(1, 4096)] = 4
    alpha: Positive = 32.0
    balance: NotNegative = 0.0
    specialised: BelowOne = 0.0

    def trained(self, shapes: Shapes, rng: np.random.Generator) -> Tensors:
        found: Tensors = {}
        for name in _matrices(shapes):
            rows, columns = shapes[name]
            about = self.experts, self.rank, columns
            found[name + DOWN] = rng.normal(size=about) / columns**0.5
            found[name + UP] = np.zeros((self.experts, rows, self.rank))
            found[name + ROUTER] = rng.normal(size=(self.experts, columns)) / columns**0.5
        return found

    def fixed(self, shapes: Shapes) -> Tensors:
        return {name + SCALE: np.array(self.alpha / self.rank) for name in _matrices(shapes)}

    @property
    def penalises(self) -> bool:
        return self.balance > 0

    def penalty(self, shares: Float[Array, "L B E"], objective: int) -> Array:
        xp, half = array_namespace(shares), (self.experts + 1) // 2
        first, second = 1 + self.specialised, 1 - self.specialised
        if objective:
            first, second = second, first
        wanted = xp.concat([first * shares[..., :half], second * shares[..., half:]], axis=-1)
        mean = xp.mean(wanted, axis=(-2, -1), keepdims=True)
        spread = xp.mean((wanted - mean) ** 2, axis=(-2, -1))
        return self.balance * xp.mean(spread / mean[..., 0, 0] ** 2)

    def gradient_cost(self, shapes: Shapes, read: float, scored: float) -> float:
        added = 0.0
        for name in _matrices(shapes):
            rows, columns = shapes[name]
            added += self.experts * (self.rank * (rows + columns) + columns)
        # The matrices themselves have no gradients. The balance asks for a second pass.
        frozen = of_blocks(shapes, read)
        own = 2 * frozen + 3 * read * added
        head = 2 * scored * prod(_head(shapes))
        passes = 2 if self.penalises else 1
        return (passes * own + head) / gradient_of(shapes, read, scored)

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex":
            return "a router over one linear map has no layers to route"
        if scale == "llm":
            return "the trainer's own adapters have no router"
        return super().unsupported(scale)


def _matrices(shapes: Shapes) -> list[str]:
    """Names of the matrices with experts: all of them, of a language model those of its blocks."""
    found = [name for name, shape in shapes.items() if len(shape) == 2]
    blocks = [name for name in found if name.startswith(BLOCKS)]
    return blocks or found


def is_added(name: str) -> bool:
    """Whether a parameter of this name is no part of the network itself."""
    return name.startswith(SIDE) or name.endswith((DOWN, UP, ROUTER, SCALE))


def gradient_of(shapes: Shapes, read: float, scored: float) -> float:
    """Multiplications of a gradient of a language model, for a row of so many tokens.

    Products with a matrix cost as much three times: forward, for its inputs, and for itself.
    Norms and the products of attention do not count.

    Parameters
    ----------
    shapes
        Shapes of its tensors.
    read, scored
        Tokens that it reads, and those whose logits are asked for.
    """
    return 3.0 * (of_blocks(shapes, read) + scored * prod(_head(shapes)))


def of_blocks(shapes: Shapes, read: float) -> float:
    """Multiplications of a forward pass through the blocks."""
    return read * sum(prod(shape) for name, shape in shapes.items() if name.startswith(BLOCKS))


def _head(shapes: Shapes) -> tuple[int, ...]:
    return shapes["lm_head.weight" if "lm_head.weight" in shapes else EMBEDDING]
