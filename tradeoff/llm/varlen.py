"""Attention "varlen": packed rows by their bounds, without masks and without another package.

One function is registered in transformers. Packed rows go through ``torch.nn.attention.varlen``,
which computes the blocks of the sequences only. Padded rows are causal, so they need no mask. No
mask is built, and nothing waits for the device to look at one. On a CPU, and in float32, each
sequence of a packed row has its own call of SDPA.
"""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tradeoff.errors import InputError

NAME = "varlen"
UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")
"""Arguments of attention that only some models give, and this one does not know."""
KERNEL = find_spec("torch.nn.attention.varlen") is not None
"""Whether this version of torch has the attention for a GPU."""
_GROUPS: dict[Any, bool] = {}
"""Whether a kernel takes fewer heads of keys than of queries; older versions of torch do not."""


def register() -> None:
    """Make the attention known to transformers; a second call does nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    # Batches of this package bring NO_MASK. Others, such as those of generation, need a mask.
    AttentionMaskInterface.register(NAME, sdpa_mask)


def no_mask(device: torch.device) -> Float[Tensor, "1 1 1 1"]:
    """A mask that transformers passes on as it is, and that stands for none."""
    return torch.zeros(1, 1, 1, 1, device=device)


def attend(
    module: Any,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Int[Tensor, " P"] | None = None,
    max_length_q: int | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """Causal attention, with the arguments that transformers gives.

    Parameters
    ----------
    module
        The layer.
    query, key, value
        Heads before time; G divides H.
    attention_mask
        A mask, :func:`no_mask`, or None for causal attention.
    scaling, dropout
        Factor of the logits; probability of dropout.
    sliding_window
        Number of tokens that a token attends to; None: all before it.
    cu_seq_lens_q, max_length_q
        Bounds of the sequences of one packed row, and the longest length.
    **more
        Further arguments of some models.

    Raises
    ------
    InputError
        If the model needs soft caps, sinks or biases, which this attention does not have.
    """
    if needed := [name for name in UNKNOWN if more.get(name) is not None]:
        raise InputError(
            f"the model's attention needs {needed[0]}",
            field="attention", value=NAME, remedy="Use attention = 'sdpa' or 'eager'.",
        )  # fmt: skip
    settings: dict[str, Any] = {"scale": scaling, "dropout_p": dropout}
    if cu_seq_lens_q is not None:
        if sliding_window is not None and (max_length_q or 0) <= sliding_window:
            sliding_window = None
        assert max_length_q is not None
        bounds = cu_seq_lens_q, max_length_q
        return _packed(query, key, value, bounds, sliding_window, settings), None
    if attention_mask is not None and attention_mask.numel() == 1:
        attention_mask = _band(query, sliding_window)
    causal = attention_mask is None and query.shape[2] > 1
    return _sdpa(query, key, value, attention_mask, is_causal=causal, **settings), None


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> Tensor:
    groups = query.shape[1] != key.shape[1]
    found = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=groups, **settings
    )
    return found.transpose(1, 2).contiguous()


def _band(query: Tensor, window: int | None) -> Tensor | None:
    """The mask of a sliding window that is shorter than the row; otherwise None."""
    time = query.shape[2]
    if window is None or window >= time:
        return None
    place = torch.arange(time, device=query.device)
    apart = place[:, None] - place
    return ((apart >= 0) & (apart < window))[None, None]


def _packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[Tensor, int],
    window: int | None,
    settings: dict[str, Any],
) -> Tensor:
    """Attention within the sequences of one packed row."""
    if _has_kernel(query) and not settings["dropout_p"]:
        return _by_kernel(query, key, value, bounds, window, settings["scale"])
    parts = []
    for start, end in pairwise(bounds[0].tolist()):
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        band = _band(q, window)
        parts.append(_sdpa(q, k, v, band, is_causal=band is None, **settings))
    return torch.cat(parts, dim=1)


def _has_kernel(query: Tensor) -> bool:
    """Whether this version of torch has a kernel for this device and precision."""
    known = query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16)
    return known and KERNEL


def _takes_groups(kernel: Any) -> bool:
    # Not functools.cache, of which torch.compile warns.
    if kernel not in _GROUPS:
        _GROUPS[kernel] = "enable_gqa" in inspect.signature(kernel).parameters
    return _GROUPS[kernel]


def _by_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[Tensor, int],
    window: int | None,
    scale: float | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = bounds
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    more: dict[str, Any] = {
        "scale": scale,
        "window_size": (-1 if window is None else window - 1, 0),
    }
    if query.shape[1] != key.shape[1]:
        if _takes_groups(varlen_attn):
            more["enable_gqa"] = True
        else:
            times = query.shape[1] // key.shape[1]
            k, v = (part.repeat_interleave(times, dim=1) for part in (k, v))
    found = varlen_attn(q, k, v, ends, ends, longest, longest, **more)
    assert isinstance(found, Tensor)
    return found[None]
