"""Half fine-tuning: half of the tensors of each kind move in a stage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, State
from tradeoff.methods.parameters.base import Mask
from tradeoff.settings import Seed, Share


@dataclass(frozen=True, kw_only=True)
class HalfFineTuning(Mask):
    """A random share of the tensors of each kind moves; the choice is made anew for each stage.

    Tensors are of one kind if their names differ in numbers alone, as those of several layers do.
    A kind of a single tensor moves. Where every kind has a single one, as on convex problems and in
    networks with one hidden layer, such a share of the coordinates of each tensor moves.

    Attributes
    ----------
    share
        Share that moves, in [0, 1].
    seed
        Of the choice, which is the same in all runs.

    Notes
    -----
    Card S57, after a second-hand description. The paper balances query, key, value and output
    matrices within a layer; here each of these kinds is balanced over the layers.
    """

    name: ClassVar[str] = "hft"
    title: ClassVar[str] = "half fine-tuning"
    source: ClassVar[str] = "arXiv 2404.18466, section 3"
    share: Share = 0.5
    seed: Seed = 0

    def free(self, weights: Array, state: State, moment: Moment) -> Array:
        every = weights == weights
        if len(set(map(kind, moment.blocks))) == len(moment.blocks):
            xp, count = array_namespace(weights), weights.shape[-1]
            own = (moment.block,) if moment.block else ()
            order = np.random.default_rng((self.seed, moment.stage, *own)).permutation(count)
            chosen = (np.argsort(order) < round(self.share * count)).tolist()
            return every & xp.asarray(chosen, device=getattr(weights, "device", None))
        return every if moment.block in self.chosen(moment.blocks, moment.stage) else ~every

    def chosen(self, blocks: tuple[str, ...], stage: int) -> set[int]:
        """Places of the tensors that move in a stage."""
        kinds: dict[str, list[int]] = {}
        for place, name in enumerate(blocks):
            kinds.setdefault(kind(name), []).append(place)
        rng, found = np.random.default_rng((self.seed, stage)), set()
        for places in kinds.values():
            count = 1 if len(places) == 1 else round(self.share * len(places))
            found |= set(rng.permutation(places)[:count].tolist())
        return found


def kind(name: str) -> str:
    """The kind of a tensor: its name without the numbers of layers."""
    return re.sub(r"\d+", "#", name)
