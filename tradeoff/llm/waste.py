"""Choice of the layout with the least computation, by padding, masks and repeated prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tradeoff.llm import varlen
from tradeoff.llm._corpora import Corpora
from tradeoff.llm._cuts import Extents, passes
from tradeoff.llm._streams import Stream
from tradeoff.llm.batches import LAYOUTS, Layout, by_bounds
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.meter import Costs
from tradeoff.schedules import PREFERENCE, SFT

UPDATES = 8
"""Number of updates of each objective whose rows are counted."""
MASKED = 2.5
"""Time of an operation of attention under a dense mask, relative to other operations.

Measured with SmolLM2-135M on the CPU in bf16: with HH pairs, padded, packed and shared took 5.52,
5.82 and 4.22 s per update, which this number reproduces.
"""


def candidates(attention: str, device: str) -> tuple[Layout, ...]:
    """Layouts that may be the fastest with this attention on this device.

    Packed rows need a mask. FlashAttention and varlen attention use the ends of sequences instead,
    but they have no branches. Plain SDPA on a GPU is slow under a mask.
    """
    if attention == varlen.NAME:
        return ("padded", "packed")
    if by_bounds(attention):
        return ("packed",)
    if attention.startswith("flex"):
        return ("packed", "shared")
    return LAYOUTS if device == "cpu" else ("padded",)


def quickest(
    costs: Costs, data: Corpora, config: TrainConfig, attention: str, device: str
) -> list[Layout]:
    """Sort the candidates by the work of a few updates, the least first.

    Parameters
    ----------
    costs
        Costs of the model.
    data
        The rows; those of the first :data:`UPDATES` updates of each objective are counted.
    config
        Seed, batch, and how many rows or tokens share a pass.
    attention, device
        Names of attention and device.
    """
    found = candidates(attention, device)
    dense = _dense(attention)
    work = {layout: _work(costs, data, replace(config, layout=layout), dense) for layout in found}
    return sorted(found, key=lambda layout: work[layout])


def saved_by_bounds(
    costs: Costs, data: Corpora, config: TrainConfig, attention: str, device: str
) -> float:
    """Share of the work that varlen attention would save on a GPU; 0 where it does not run.

    Parameters
    ----------
    costs, data, config, attention, device
        As for :func:`quickest`, with the layout that was chosen.
    """
    runs = varlen.KERNEL and device == "cuda" and config.precision == "bf16"
    if not (runs and _dense(attention)):
        return 0.0
    packed = _work(costs, data, replace(config, layout="packed"), dense=False)
    return max(0.0, 1 - packed / _work(costs, data, config, dense=True))


def _dense(attention: str) -> bool:
    """Whether this attention multiplies what a mask hides."""
    return not (by_bounds(attention) or attention.startswith("flex"))


def _work(costs: Costs, data: Corpora, config: TrainConfig, dense: bool) -> float:
    """Work of the passes of some updates, in operations of matrix products."""
    layout, total = config.layout, 0.0
    assert layout != "auto"
    for objective in (SFT, PREFERENCE):
        extents = Extents.of(data.training(objective))
        stream, batch = Stream(len(extents.starts), config.seed, objective), config.batch(objective)
        for update in range(UPDATES):
            rows = stream.rows(update * batch, batch)
            for part, _ in passes(rows, extents, config, 0, 1):
                total += _of_pass(costs, extents, part, layout, dense)
    return total


def _of_pass(
    costs: Costs, extents: Extents, rows: np.ndarray, layout: Layout, dense: bool
) -> float:
    tokens, lengths = extents.tokens(rows, layout), extents.lengths[rows]
    if layout == "padded":
        squares = float(lengths.size * lengths.max() ** 2)
    elif dense:
        # Under a mask all pairs of tokens are multiplied, not only the causal half.
        squares = 2 * MASKED * tokens**2
    else:
        squares = float((lengths**2).sum())
    inner = 2.0 * (costs.weights - costs.head) * tokens
    return inner + 2.0 * costs.layers * costs.width * squares
