"""Demonstrations and pairs as tensors, in one of three layouts.

``padded``
    One row per sequence, padded on the right. Attention is causal, so no token attends to the
    padding and no mask is needed.
``packed``
    All sequences end to end in one row, without padding; a block mask separates them.
``shared``
    As packed, with one copy of the prompt before the two responses of a pair.

All three give the same log-probabilities, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tradeoff.llm import varlen
from tradeoff.llm._data import Example, Pair
from tradeoff.methods.losses import PreferenceLoss

Layout = Literal["padded", "packed", "shared"]
LAYOUTS: tuple[Layout, ...] = ("padded", "packed", "shared")
Collator = Callable[[Sequence[Any], Layout, int], "Batch"]
"""Makes the batch of a pass from its rows, their layout, and the padding token."""


def by_bounds(attention: str) -> bool:
    """Whether this attention separates packed rows by their bounds, without a mask."""
    return attention.startswith("flash") or attention == varlen.NAME


@runtime_checkable
class Prompted(Protocol):
    """Sequences that share a prompt: their first `start` tokens, which are not scored."""

    @property
    def sequences(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """Token ids of each sequence."""

    @property
    def start(self) -> int:
        """Number of tokens of the prompt, at least 1."""


@dataclass(frozen=True)
class Batch:
    """Token sequences of S responses, of which M tokens are scored.

    Attributes
    ----------
    tokens, positions
        (rows, time) token ids, and their positions within their sequences.
    segment, parent
        (time,) for a single packed row: tokens attend to earlier tokens of their own segment and
        of its parent. ``None`` for padded rows.
    bounds, longest
        First token of each segment of a packed row, then its end; length of the longest segment.
    select
        (M,) flat indices of the positions that predict a scored token.
    labels
        (M,) the scored tokens.
    owner
        (M,) the response of each scored token. For pairs, all chosen responses come first.
    lengths
        (S,) number of scored tokens of each response.
    ends
        (rows,) tokens of each padded row before the padding; ``None`` for a packed row.
    weights
        (M,) weight of each scored token; ``None``: ones.
    fed_back, others
        Share of the second tokens (rows, time) in the embeddings that are read; ``None``: there are
        no second tokens yet.
    """

    tokens: Int[Tensor, "rows time"]
    positions: Int[Tensor, "rows time"]
    segment: Int[Tensor, " time"] | None
    parent: Int[Tensor, " time"] | None
    select: Int[Tensor, " M"]
    labels: Int[Tensor, " M"]
    owner: Int[Tensor, " M"]
    lengths: Int[Tensor, " S"]
    bounds: Int[Tensor, " P"] | None = None
    longest: int = 0
    ends: Int[Tensor, " rows"] | None = None
    weights: Float[Tensor, " M"] | None = None
    fed_back: float = 0.0
    others: Int[Tensor, "rows time"] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Move the batch to a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def per_response(self, values: Float[Tensor, " M"]) -> Float[Tensor, " S"]:
        """Sum of token values over each response."""
        total = values.new_zeros(len(self.lengths))
        return total.index_add(0, self.owner, values)

    def token_weights(self, loss: PreferenceLoss) -> Float[Tensor, " M"]:
        """Weights that a loss of pairs gives to the scored tokens of a batch of pairs."""
        count, responses = len(self.owner), len(self.lengths)
        place = torch.arange(count, device=self.owner.device)
        first = place.new_full((responses,), count)
        first = first.scatter_reduce(0, self.owner, place, "amin")
        others = self.lengths.roll(responses // 2)
        found: Tensor = loss.token_weights(
            place - first[self.owner], self.lengths[self.owner], others[self.owner]
        )
        return found

    def inputs(self, attention: str) -> dict[str, Any]:
        """Arguments of a model with this attention implementation."""
        given: dict[str, Any] = {"input_ids": self.tokens}
        if attention == varlen.NAME:
            given["attention_mask"] = varlen.no_mask(self.tokens.device)
        if self.segment is None:
            return given
        given["position_ids"] = self.positions
        if by_bounds(attention):
            # Otherwise each layer would find them from the positions, and wait for the device.
            ends = {"cu_seq_lens_q": self.bounds, "cu_seq_lens_k": self.bounds}
            return given | ends | {"max_length_q": self.longest, "max_length_k": self.longest}
        if attention == "flex_attention":
            return given | {"attention_mask": self._block_mask()}
        mask = self.mask()
        if attention == "eager":
            low = torch.finfo(torch.get_default_dtype()).min
            return given | {"attention_mask": torch.where(mask, 0.0, low)}
        return given | {"attention_mask": mask}

    def mask(self) -> Bool[Tensor, "1 1 time time"]:
        """Block mask of a packed row: which token attends to which."""
        assert self.segment is not None
        assert self.parent is not None
        own, parent, seen = self.segment[:, None], self.parent[:, None], self.segment[None]
        return ((own == seen) | (parent == seen)).tril_()[None, None]

    def _block_mask(self) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        segment, parent = self.segment, self.parent
        assert segment is not None
        assert parent is not None
        time = len(segment)
        return create_block_mask(
            lambda batch, head, query, key: (
                (query >= key)
                & ((segment[query] == segment[key]) | (parent[query] == segment[key]))
            ),
            B=None,
            H=None,
            Q_LEN=time,
            KV_LEN=time,
            device=str(segment.device),
        )


@dataclass(frozen=True)
class _Piece:
    """Consecutive tokens of a row: their start in the sequence, and the scored part.

    `before` is the piece that this one continues, if any; `owner` is -1 for a shared prompt.
    """

    tokens: Int[np.ndarray, " n"]
    offset: int
    scored: int
    owner: int
    before: int | None = None


def collate(items: Sequence[Example] | Sequence[Pair], layout: Layout, pad: int) -> Batch:
    """A batch of demonstrations or of pairs, as :func:`demonstrations` or :func:`pairs` makes it.

    This is the collator of the trainer, which takes another one with the same arguments: the rows
    of a pass, their layout, and the padding token. The SFT loss is a mean over the tokens of the
    rows; tokens that another collator drops count as well.
    """
    if isinstance(items[0], Pair):
        return pairs(items, layout, pad)  # type: ignore[arg-type]
    return demonstrations(items, layout, pad)  # type: ignore[arg-type]


def demonstrations(items: Sequence[Example], layout: Layout, pad: int) -> Batch:
    """A batch of S demonstrations, one response each."""
    sequences = [_Piece(item.tokens, 0, item.start, i) for i, item in enumerate(items)]
    return _padded(sequences, pad) if layout == "padded" else _packed(sequences)


def pairs(items: Sequence[Pair], layout: Layout, pad: int) -> Batch:
    """A batch of S/2 pairs; response i is chosen, response S/2 + i rejected."""
    if layout == "shared":
        owners = [(i, len(items) + i) for i in range(len(items))]
        return _packed(_with_shared_prompts(items, owners))
    both = [(item.chosen, item.start) for item in items]
    both += [(item.rejected, item.start) for item in items]
    sequences = [_Piece(tokens, 0, start, i) for i, (tokens, start) in enumerate(both)]
    return _padded(sequences, pad) if layout == "padded" else _packed(sequences)


def options(items: Sequence[Prompted], layout: Layout, pad: int) -> Batch:
    """A batch of the responses to several prompts, any number to each, prompt by prompt."""
    ends = np.cumsum([len(item.sequences) for item in items])
    owners = [range(end - len(item.sequences), end) for end, item in zip(ends, items, strict=True)]
    if layout == "shared":
        return _packed(_with_shared_prompts(items, owners))
    sequences = [
        _Piece(tokens, 0, item.start, owner)
        for item, own in zip(items, owners, strict=True)
        for tokens, owner in zip(item.sequences, own, strict=True)
    ]
    return _padded(sequences, pad) if layout == "padded" else _packed(sequences)


def split(values: Float[Tensor, " S"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Values of all responses of pairs as (chosen, rejected)."""
    chosen, rejected = values.chunk(2)
    return chosen, rejected


def _with_shared_prompts(
    items: Sequence[Prompted], owners: Sequence[Sequence[int]]
) -> list[_Piece]:
    pieces: list[_Piece] = []
    for item, own in zip(items, owners, strict=True):
        prompt = len(pieces)
        pieces.append(_Piece(item.sequences[0][: item.start], 0, item.start, -1))
        for tokens, owner in zip(item.sequences, own, strict=True):
            pieces.append(_Piece(tokens[item.start :], item.start, 0, owner, before=prompt))
    return pieces


def _padded(sequences: Sequence[_Piece], pad: int) -> Batch:
    time = max(len(piece.tokens) for piece in sequences)
    tokens = np.full((len(sequences), time), pad, dtype=np.int64)
    select, labels, owner = [], [], []
    for row, piece in enumerate(sequences):
        n = len(piece.tokens)
        tokens[row, :n] = piece.tokens
        select.append(row * time + np.arange(piece.scored - 1, n - 1))
        labels.append(piece.tokens[piece.scored :])
        owner.append(np.full(n - piece.scored, piece.owner))
    positions = np.broadcast_to(np.arange(time), tokens.shape).copy()
    batch = _batch(tokens, positions, None, None, select, labels, owner)
    return replace(batch, ends=torch.tensor([len(piece.tokens) for piece in sequences]))


def _packed(pieces: Sequence[_Piece]) -> Batch:
    starts = np.cumsum([0] + [len(piece.tokens) for piece in pieces])
    select, labels, owner = [], [], []
    parent = np.arange(len(pieces))
    for i, piece in enumerate(pieces):
        predicting = starts[i] + np.arange(piece.scored - 1, len(piece.tokens) - 1)
        if piece.before is not None:
            parent[i] = piece.before
            # The first token is predicted by the last one of the prompt.
            predicting[0] = starts[piece.before + 1] - 1
        if piece.owner >= 0:
            select.append(predicting)
            labels.append(piece.tokens[piece.scored :])
            owner.append(np.full(len(predicting), piece.owner))
    sizes = np.diff(starts)
    tokens = np.concatenate([piece.tokens for piece in pieces])[None]
    offsets = np.repeat([piece.offset for piece in pieces] - starts[:-1], sizes)
    positions = (np.arange(starts[-1]) + offsets)[None]
    segment = np.repeat(np.arange(len(pieces)), sizes)
    batch = _batch(tokens, positions, segment, parent[segment], select, labels, owner)
    bounds = torch.from_numpy(starts.astype(np.int32))
    return replace(batch, bounds=bounds, longest=int(sizes.max()))


def _batch(
    tokens: np.ndarray,
    positions: np.ndarray,
    segment: np.ndarray | None,
    parent: np.ndarray | None,
    select: list[np.ndarray],
    labels: list[np.ndarray],
    owner: list[np.ndarray],
) -> Batch:
    owners = np.concatenate(owner)
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        segment=None if segment is None else torch.from_numpy(segment),
        parent=None if parent is None else torch.from_numpy(parent),
        select=torch.from_numpy(np.concatenate(select)),
        labels=torch.from_numpy(np.concatenate(labels)),
        owner=torch.from_numpy(owners),
        lengths=torch.from_numpy(np.bincount(owners)),
    )
