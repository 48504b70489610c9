"""Causal attention with rotary positions, over padded rows, a cache, or packed sequences.

An `Attend` function hides from a block of the language model how its tokens are laid out. torch has
no batching rule for its fused attention: under `torch.vmap` it warns and falls back to a loop over
the members. `causal_attention` folds the members into the batch instead, so that an ensemble costs
one fused call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from tradeoff.networks import _attention_kernels

Heads = Float[Tensor, "*batch heads time dim"]
Slots = Float[Tensor, "*batch heads slots dim"]
Laid = Float[Tensor, "tokens heads dim"]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Maps the number of a layer, and its query, key and value of shape (..., time, heads, dim), to the
output of its attention, which has that shape too."""


@dataclass
class Cache:
    """Keys and values of every layer, one slot per position; generation writes into it.

    Attributes
    ----------
    keys, values
        (layers, batch, heads, slots, dim).
    """

    keys: Tensor
    values: Tensor

    def update(
        self, layer: int, positions: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store (batch, heads, time, dim) at (batch, time) positions; all slots of the layer."""
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        for store, new in ((self.keys, key), (self.values, value)):
            store[layer][rows, :, positions] = new.transpose(1, 2)
        return self.keys[layer], self.values[layer]


def over_rows(cosine: Float[Tensor, "time dim"], sine: Float[Tensor, "time dim"]) -> Attend:
    """Attention within rows (..., time), which are padded on the right."""

    def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(-3, -2) for x in (query, key, value))
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        return causal_attention(query, key, value).transpose(-3, -2)

    return attend


def over_cache(
    cosine: Float[Tensor, "batch time dim"],
    sine: Float[Tensor, "batch time dim"],
    positions: Int[Tensor, "batch time"],
    cache: Cache,
) -> Attend:
    """Attention of new tokens to the cache up to their positions; they are added to the cache."""
    turn = cosine[:, None], sine[:, None]

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(-3, -2) for x in (query, key, value))
        keys, values = cache.update(layer, positions, rotate(key, *turn), value)
        slots = torch.arange(keys.shape[-2], device=keys.device)
        seen = cached_attention(rotate(query, *turn), keys, values, slots <= positions[..., None])
        return seen.transpose(-3, -2)

    return attend


def over_ragged(
    cosine: Float[Tensor, "longest dim"],
    sine: Float[Tensor, "longest dim"],
    starts: Int[Tensor, " starts"],
    after: Int[Tensor, " sequences"],
) -> Attend:
    """Attention within packed sequences, see `ragged_attention`."""

    def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return ragged_attention(query, key, value, starts, after, cosine, sine)

    return attend


def rotary_angles(
    positions: Int[Tensor, "*time"], dim: int, theta: float
) -> Float[Tensor, "*time dim"]:
    """Angle of each position in each coordinate; coordinates i and i + dim/2 turn together.

    Notes
    -----
    RoFormer, arXiv 2104.09864, in the layout of Llama.
    """
    even = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None].float() * (1.0 / theta ** (even / dim))
    return torch.cat([angles, angles], dim=-1)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each pair of coordinates of `x`, (..., time, dim), by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def causal_attention(query: Heads, key: Heads, value: Heads) -> Heads:
    """Each position attends to itself and to those before it.

    Parameters
    ----------
    query, key, value
        Tensors of one shape (..., heads, time, dim).

    Returns
    -------
    Tensor
        Of the shape of `value`.
    """
    # torch.autograd.Function.apply makes the same test; there is no public function for it.
    if torch._C._are_functorch_transforms_active():
        return _FoldedAttention.apply(query, key, value)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def cached_attention(
    query: Heads, key: Slots, value: Slots, visible: Bool[Tensor, "*batch time slots"]
) -> Heads:
    """Attend from new positions to the visible slots of a cache; every row must see one."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible[..., None, :, :])


def spans(
    starts: Int[Tensor, " starts"], after: Int[Tensor, " sequences"]
) -> Int[Tensor, " sequences"]:
    """Length of each sequence plus that of the one that it continues."""
    length = starts.diff()
    return length + torch.where(after < 0, 0, length[after])


def ragged_attention(
    query: Laid,
    key: Laid,
    value: Laid,
    starts: Int[Tensor, " starts"],
    after: Int[Tensor, " sequences"],
    cosine: Float[Tensor, "longest dim"],
    sine: Float[Tensor, "longest dim"],
) -> Laid:
    """Rotate queries and keys by their positions, and attend within each packed sequence, on a CPU.

    Parameters
    ----------
    query, key, value
        Values of all tokens, with the sequences end to end. They can be differentiated once.
    starts
        First token of each sequence, and the number of tokens as the last entry.
    after
        The sequence that each one continues and also attends to, or -1. That sequence continues
        none.
    cosine, sine
        Cosine and sine of the angles of each position, see `rotary_angles`.

    Returns
    -------
    Tensor
        Of the shape of `value`.
    """
    return _RaggedAttention.apply(query, key, value, starts, after, cosine, sine)


class _RaggedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *place: Tensor) -> Tensor:
        given = [x.contiguous() for x in (query, key, value, *place)]
        starts, after = given[3:5]
        squares = starts.diff() * spans(starts, after) * query.shape[1]
        corners = F.pad(squares.cumsum(0), (1, 0))
        # Allocated by torch, so that counts of torch's memory include them.
        weights, mixed = query.new_empty(int(corners[-1])), torch.empty_like(given[2])
        _attention_kernels.forward(*_arrays(*given, corners, weights, mixed))
        ctx.save_for_backward(*given, corners, weights)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given = ctx.saved_tensors
        slopes = [torch.zeros_like(x) for x in given[:3]]
        _attention_kernels.backward(*_arrays(*given, gradient.contiguous(), *slopes))
        return *slopes, None, None, None, None


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.detach().numpy() for tensor in tensors]


class _FoldedAttention(torch.autograd.Function):
    """Fused attention whose rule under vmap is one call on the folded batch.

    If the gradient is taken outside vmap, autograd follows that one call. Under vmap over a
    gradient, `backward` is used; its operations all have batching rules.
    """

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        (gradient,) = gradients
        scale = query.shape[-1] ** -0.5
        time = query.shape[-2]
        future = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1)
        scores = (query @ key.transpose(-1, -2) * scale).masked_fill(future, -torch.inf)
        weights = scores.softmax(-1)
        slope = gradient @ value.transpose(-1, -2)
        slope = scale * weights * (slope - (slope * weights).sum(-1, keepdim=True))
        d_value = weights.transpose(-1, -2) @ gradient
        return slope @ key, slope.transpose(-1, -2) @ query, d_value

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        members = info.batch_size
        front = (
            x.expand(members, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims, strict=True)
        )
        folded = [x.flatten(0, 1) for x in front]
        return causal_attention(*folded).unflatten(0, (members, -1)), 0
