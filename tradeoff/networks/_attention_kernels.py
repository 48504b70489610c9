"""Compiled causal attention over packed sequences, with rotary positions.

torch's fused attention needs sequences of one length, so that short ones are padded, and computes
the whole square of positions. Here a sequence costs half of its own square. The calling thread
processes one sequence after the other without the interpreter's lock, so the runs of an ensemble
can use a thread each.

Queries, keys, values, outputs and their gradients are (tokens, heads, dim). Sequence s has the
tokens from ``starts[s]`` to ``starts[s + 1]``. It may continue an earlier sequence ``after[s]``, to
which it attends too: the responses of a pair share their prompt. Its attention weights have the
shape (heads, tokens, seen), where `seen` includes the tokens that it continues. They begin at
``corners[s]`` of one flat array. Row i of cosine and sine, (longest, dim), rotates position i.

Notes
-----
The backward pass is that of FlashAttention, arXiv 2205.14135, appendix B. The weights are kept, as
the sequences are short.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Sums may be regrouped for vector instructions; NaN and infinity are handled as usual.
_compiled = njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "arcp", "nsz"},
)


@_compiled
def _turn(x: Array, cosine: Array, sine: Array, scale: Any, turned: Array) -> None:
    half = len(x) // 2
    for d in range(half):
        a, b = x[d] * scale, x[d + half] * scale
        turned[d] = a * cosine[d] - b * sine[d]
        turned[d + half] = b * cosine[d] + a * sine[d]


@_compiled
def _multiply(columns: Array, x: Array, count: int, product: Array) -> None:
    """product[j] = sum over d of columns[d, j] x[d], for j below `count`; two d at a time."""
    half = len(x) // 2
    a, b, first, second = x[0], x[half], columns[0], columns[half]
    for j in range(count):
        product[j] = a * first[j] + b * second[j]
    for d in range(1, half):
        a, b, first, second = x[d], x[half + d], columns[d], columns[half + d]
        for j in range(count):
            product[j] += a * first[j] + b * second[j]


@_compiled
def _place(starts: Array, after: Array, s: int) -> tuple[int, int, int, int]:
    """First token and length of a sequence and of the one that it continues."""
    first, length, root = starts[s], starts[s + 1] - starts[s], after[s]
    if root < 0:
        return first, length, 0, 0
    return first, length, starts[root], starts[root + 1] - starts[root]


@_compiled
def forward(
    query: Array,
    key: Array,
    value: Array,
    starts: Array,
    after: Array,
    cosine: Array,
    sine: Array,
    corners: Array,
    weights: Array,
    mixed: Array,
) -> None:
    """Write the attention weights and the weighted sums of the values."""
    heads, dim = query.shape[1:]
    longest, kind = len(cosine), query.dtype
    keys, values = np.empty((dim, longest), kind), np.empty((longest, dim), kind)
    turned, total = np.empty(dim, kind), np.empty(dim, kind)
    one, scale = kind.type(1), kind.type(1 / np.sqrt(dim))
    for s in range(len(after)):
        first, length, front, ahead = _place(starts, after, s)
        for h in range(heads):
            for j in range(ahead + length):
                token = front + j if j < ahead else first + j - ahead
                _turn(key[token, h], cosine[j], sine[j], one, turned)
                for d in range(dim):
                    keys[d, j] = turned[d]
                    values[j, d] = value[token, h, d]
            for i in range(length):
                token, seen = first + i, ahead + i + 1
                corner = corners[s] + (h * length + i) * (ahead + length)
                weight = weights[corner : corner + seen]
                _turn(query[token, h], cosine[seen - 1], sine[seen - 1], scale, turned)
                _multiply(keys, turned, seen, weight)
                top = weight[0]
                for j in range(seen):
                    top = max(top, weight[j])
                mass = kind.type(0)
                for j in range(seen):
                    weight[j] = np.exp(weight[j] - top)
                for j in range(seen):
                    mass += weight[j]
                for j in range(seen):
                    weight[j] /= mass
                for d in range(dim):
                    total[d] = 0
                for j in range(seen):
                    factor, line = weight[j], values[j]
                    for d in range(dim):
                        total[d] += factor * line[d]
                for d in range(dim):
                    mixed[token, h, d] = total[d]


@_compiled
def backward(
    query: Array,
    key: Array,
    value: Array,
    starts: Array,
    after: Array,
    cosine: Array,
    sine: Array,
    corners: Array,
    weights: Array,
    gradient: Array,
    d_query: Array,
    d_key: Array,
    d_value: Array,
) -> None:
    """Compute the gradients in queries, keys and values from the gradient in the outputs.

    The last two are added to what is there, as several sequences may continue one.
    """
    heads, dim = query.shape[1:]
    longest, kind = len(cosine), query.dtype
    values, keys = np.empty((dim, longest), kind), np.empty((longest, dim), kind)
    key_slopes, value_slopes = np.empty((longest, dim), kind), np.empty((longest, dim), kind)
    turned, total, slope = np.empty(dim, kind), np.empty(dim, kind), np.empty(dim, kind)
    d_scores = np.empty(longest, kind)
    one, scale = kind.type(1), kind.type(1 / np.sqrt(dim))
    for s in range(len(after)):
        first, length, front, ahead = _place(starts, after, s)
        for h in range(heads):
            for j in range(ahead + length):
                token = front + j if j < ahead else first + j - ahead
                _turn(key[token, h], cosine[j], sine[j], one, keys[j])
                for d in range(dim):
                    values[d, j] = value[token, h, d]
                    key_slopes[j, d] = 0
                    value_slopes[j, d] = 0
            for i in range(length):
                token, seen = first + i, ahead + i + 1
                corner = corners[s] + (h * length + i) * (ahead + length)
                weight = weights[corner : corner + seen]
                _turn(query[token, h], cosine[seen - 1], sine[seen - 1], scale, turned)
                for d in range(dim):
                    slope[d] = gradient[token, h, d]
                    total[d] = 0
                _multiply(values, slope, seen, d_scores)
                mean = kind.type(0)
                for j in range(seen):
                    mean += weight[j] * d_scores[j]
                for j in range(seen):
                    d_scores[j] = weight[j] * (d_scores[j] - mean)
                for j in range(seen):
                    factor, line = weight[j], value_slopes[j]
                    for d in range(dim):
                        line[d] += factor * slope[d]
                for j in range(seen):
                    factor, line = d_scores[j], keys[j]
                    for d in range(dim):
                        total[d] += factor * line[d]
                for j in range(seen):
                    factor, line = d_scores[j], key_slopes[j]
                    for d in range(dim):
                        line[d] += factor * turned[d]
                # Rotate back by the same angle.
                _turn(total, cosine[seen - 1], -sine[seen - 1], scale, d_query[token, h])
            for j in range(ahead + length):
                token = front + j if j < ahead else first + j - ahead
                _turn(key_slopes[j], cosine[j], -sine[j], one, turned)
                for d in range(dim):
                    d_key[token, h, d] += turned[d]
                    d_value[token, h, d] += value_slopes[j, d]
