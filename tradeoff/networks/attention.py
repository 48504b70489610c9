"""Causal attention with rotary positions, for one model and for stacked ensembles alike.

torch has no batching rule for its fused attention: under `torch.vmap` it falls back to a loop
over the members, with a warning. `causal_attention` folds the members into the batch instead, so
that an ensemble costs one fused call.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Heads = Float[Tensor, "*batch heads time dim"]
Slots = Float[Tensor, "*batch heads slots dim"]


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
    """Turn each pair of coordinates of `x`, (..., time, dim), by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def causal_attention(query: Heads, key: Heads, value: Heads) -> Heads:
    """Each position attends to itself and to those before it.

    Parameters
    ----------
    query, key, value
        Of the same shape (..., heads, time, dim).

    Returns
    -------
    Tensor
        Of the shape of `value`.
    """
    # The same question torch.autograd.Function.apply asks; there is no public way to ask it.
    if torch._C._are_functorch_transforms_active():
        return _FoldedAttention.apply(query, key, value)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def cached_attention(
    query: Heads, key: Slots, value: Slots, visible: Bool[Tensor, "*batch time slots"]
) -> Heads:
    """Attend from new positions to the visible slots of a cache; every row must see one."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible[..., None, :, :])


class _FoldedAttention(torch.autograd.Function):
    """Fused attention whose rule under vmap is one call on the folded batch.

    With the gradient taken outside vmap, autograd follows that one call. With vmap over a
    gradient, `backward` below is used; it is made of operations that batch well.
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
