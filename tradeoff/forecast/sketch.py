"""Random projections that keep inner products on average: of long vectors, and of outer products.

A count sketch adds each entry, with a random sign, to one of m places. Places and signs are
functions of the entry's number, so nothing of the length of the vector is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tradeoff import draws

_STREAM = 17


@dataclass(frozen=True)
class CountSketch:
    """A linear map of concatenated tensors to `width` numbers (Charikar et al. 2002).

    Attributes
    ----------
    width
        Number m of outputs. The variance of an inner product falls as 1 / m.
    seed
        Seed of places and signs.
    """

    width: int
    seed: int = 0

    def __call__(self, parts: Iterable[Tensor]) -> Float[Tensor, " m"]:
        """Sketch of the tensors' entries, one tensor after another."""
        found, start = torch.zeros(self.width, dtype=torch.float64), 0
        for part in parts:
            flat = part.detach().flatten().to("cpu", torch.float64)
            places, signs = self._hash(start, len(flat))
            found.index_add_(0, places, signs * flat)
            start += len(flat)
        return found

    def _hash(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        number = torch.arange(start, start + count)
        bits = _mixed(number * 2 + 1, self.seed)
        # The sign is another bit than those that the place is taken from.
        places = (bits >> 20).remainder(self.width)
        return places, (1 - 2 * ((bits >> 10) & 1)).double()


def _mixed(number: Tensor, seed: int) -> Tensor:
    """The finaliser of SplitMix64 on int64, whose overflow wraps; shifts keep no sign."""
    key = int(draws.keys(seed, 0, _STREAM).item()) % 2**63
    z = number * -7046029254386353131 + key
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z = (z ^ ((z >> shift) & (2 ** (64 - shift) - 1))) * factor
    return z ^ ((z >> 31) & (2**33 - 1))


@dataclass(frozen=True)
class TwoSided:
    """Sketch of (onehot - p) x h by random signs on both sides: a last layer's gradients.

    Attributes
    ----------
    vocabulary, hidden
        (V, a) and (d, b) random signs, divided by the square root of their number of columns.
    """

    vocabulary: Float[Tensor, "V a"]
    hidden: Float[Tensor, "d b"]

    @classmethod
    def draw(cls, tokens: int, width: int, sides: tuple[int, int], seed: int = 0) -> TwoSided:
        """Draw both sides for a vocabulary and a width of hidden states."""
        generator = torch.Generator().manual_seed(seed)
        pair = [
            torch.randint(0, 2, shape, generator=generator).float().mul_(2).sub_(1)
            / shape[1] ** 0.5
            for shape in ((tokens, sides[0]), (width, sides[1]))
        ]
        return cls(*pair)

    def to(self, device: Any) -> TwoSided:
        """The same sketch on a device."""
        return TwoSided(self.vocabulary.to(device), self.hidden.to(device))

    def outer(self, left: Float[Tensor, "*n a"], right: Float[Tensor, "*n b"]) -> Tensor:
        """(*n, a b) products of both sketched sides."""
        return (left[..., :, None] * right[..., None, :]).flatten(-2)
