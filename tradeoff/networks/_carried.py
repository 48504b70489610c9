"""Adapters that learn behind a sparse autoencoder, for stacked policies of finite responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tradeoff.errors import InputError
from tradeoff.methods.after import Resa
from tradeoff.networks import policies

CARRIED = 2
"""Stream of the first values and of the prompts, beside the seed of a run."""
Stacked = dict[str, Tensor]


def carried(
    source: Stacked,
    base: Stacked,
    prompts: Float[Tensor, "N dx"],
    part: Resa,
    updates: int,
    rows: int,
    seeds: Sequence[int],
    coder: Stacked | None = None,
) -> Stacked:
    """Weights (n, ...) of the base with an adapter that was trained behind the source's coder.

    Parameters
    ----------
    source, base
        Stacked policies of one shape.
    prompts
        Of the demonstrations.
    part
        The settings.
    updates, rows
        Updates of the autoencoder, and of the adapter; prompts of each.
    seeds
        Of the runs: their first values and prompts do not depend on other runs.
    coder
        A stacked autoencoder in place of a trained one.

    Raises
    ------
    InputError
        If the policies have no hidden layer.
    """
    depth = sum(name.endswith(".bias") for name in base)
    if not depth:
        raise InputError(
            "the policy has no hidden layer",
            field="depth",
            value=0,
            remedy="Use a policy with hidden layers, or another method.",
        )
    layer = min(part.layer, depth - 1)
    drawn = [np.random.default_rng((seed, CARRIED)) for seed in seeds]

    def batches() -> Iterator[Tensor]:
        for _ in range(updates):
            picked = np.stack([rng.integers(len(prompts), size=rows) for rng in drawn])
            yield prompts[torch.from_numpy(picked).to(prompts.device)]

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(np.stack([rng.normal(size=shape) for rng in drawn])).to(prompts)

    if coder is None:
        units = torch.vmap(lambda one, x: _units(one, x, layer))
        width = base[f"body.{layer}.weight"].shape[1]
        wide = part.dictionary * width
        first = normal(wide, width) / width**0.5
        start = {"in": first, "bias": 0 * first[..., 0], "out": first.mT / part.dictionary}

        def error(coder: Stacked, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = units(source, x)
            z = _coded(coder, h)
            missed = ((z @ coder["out"].mT - h) ** 2).mean((1, 2))
            return missed + part.sparsity * z.mean((1, 2))

        coder = _descended(start, error, batches(), part.rate)
    names = [name for name, value in base.items() if value.ndim == 3]
    adapter = {}
    for name in names:
        out, into = base[name].shape[1:]
        adapter[f"{name} A"] = normal(part.rank, into) / into**0.5
        adapter[f"{name} B"] = base[name].new_zeros(len(seeds), out, part.rank)

    def joined(adapter: Stacked) -> Stacked:
        more = {n: part.strength * adapter[f"{n} B"] @ adapter[f"{n} A"] for n in names}
        return {n: value + more[n] if n in more else value for n, value in base.items()}

    plain = torch.vmap(policies.logits)
    behind = torch.vmap(lambda one, coder, x: policies.logits(one, x, _through(coder, layer)))

    def apart(adapter: Stacked, x: Tensor) -> Tensor:
        with torch.no_grad():
            known = plain(base, x).log_softmax(-1)
        found = behind(joined(adapter), coder, x).log_softmax(-1)
        return (known.exp() * (known - found)).sum(-1).mean(-1)

    with torch.no_grad():
        return joined(_descended(adapter, apart, batches(), part.rate))


def _descended(
    start: Stacked,
    loss: Callable[[Stacked, Tensor], Tensor],
    batches: Iterator[Tensor],
    rate: float,
) -> Stacked:
    """Weights after Adam on the losses (n,) of batches (n, B, dx)."""
    with torch.enable_grad():
        weights = {name: value.clone().requires_grad_() for name, value in start.items()}
        descent = torch.optim.Adam(weights.values(), rate)
        for batch in batches:
            descent.zero_grad()
            loss(weights, batch).sum().backward()
            descent.step()
    return {name: value.detach() for name, value in weights.items()}


def _coded(coder: Stacked, h: Tensor) -> Tensor:
    """(..., B, units) of a coder, for outputs (..., B, width) of a layer."""
    return torch.relu(h @ coder["in"].mT + coder["bias"][..., None, :])


def _through(coder: Stacked, layer: int) -> policies.Through:
    def read(number: int, h: Tensor) -> Tensor:
        return _coded(coder, h) @ coder["out"].mT if number == layer else h

    return read


def _units(parameters: Any, prompts: Tensor, layer: int) -> Tensor:
    """(B, width) outputs of a hidden layer."""
    kept: list[Tensor] = []

    def read(number: int, h: Tensor) -> Tensor:
        if number == layer:
            kept.append(h)
        return h

    policies.logits(parameters, prompts, read)
    return kept[0]
