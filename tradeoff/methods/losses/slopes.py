"""Losses of numpy arrays with their slopes, which autograd finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.errors import InputError
from tradeoff.extras import require
from tradeoff.methods.losses.base import PreferenceLoss, SftLoss, losses_of
from tradeoff.methods.losses.records import Pairs, ResponseGroup, Responses

Array = NDArray[np.float64]


def sft_slopes(loss: SftLoss, tokens: Responses) -> tuple[Array, Array]:
    """Losses (n,) of demonstrations and their slopes (n,) in the log-probabilities."""
    record, leaf = _leaf(tokens)
    values = losses_of(loss, record)
    return _numpy(values), _slope(values, [leaf])[0]


def pair_slopes(
    loss: PreferenceLoss, pairs: Pairs
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 2"]]:
    """Losses of pairs, and slopes of their sum in both log-probabilities of each pair."""
    chosen, first = _leaf(pairs.chosen)
    rejected, second = _leaf(pairs.rejected)
    values = losses_of(loss, Pairs(chosen, rejected))
    return _numpy(values), np.stack(_slope(values, [first, second]), axis=-1)


def group_slopes(
    loss: PreferenceLoss, pairs: Pairs
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n K"]]:
    """Losses of pairs, and slopes of their sum in all log-probabilities of each prompt's group.

    A response that is not there has no slope.
    """
    require("nets", "torch")
    import torch

    group = pairs.known_group
    given: dict[str, Any] = {
        name: None if values is None else torch.from_numpy(np.array(values, dtype=float))
        for name, values in vars(group).items()
    }
    leaf = given["log_probs"].requires_grad_()
    values = losses_of(loss, replace(pairs, group=ResponseGroup(**given)))
    return _numpy(values), _slope(values, [leaf])[0]


def initial_pull(loss: PreferenceLoss) -> tuple[float, float]:
    """Slope of the loss of a pair in both log-probabilities where the policy is the reference.

    Losses of different pull need different step sizes or weights before they can be compared. The
    two responses have probability one half and one token each. DPO: (-beta / 2, beta / 2).
    """
    half = np.log(np.array([0.5]))
    same = Responses(half, half)
    chosen, rejected = pair_slopes(loss, Pairs(same, same))[1][0]
    return float(chosen), float(rejected)


def _leaf(responses: Responses) -> tuple[Responses, Any]:
    """The record as tensors, and its log-probabilities to differentiate by."""
    require("nets", "torch")  # the convex laboratory needs it for losses of this kind alone
    import torch

    def tensor(values: Any) -> Any:
        return None if values is None else torch.from_numpy(np.array(values, dtype=float))

    leaf = tensor(responses.log_probs).requires_grad_()
    fixed = {
        name: tensor(getattr(responses, name))
        for name in ("reference", "lengths", "divergence", "weights")
    }
    return replace(responses, log_probs=leaf, **fixed), leaf


def _slope(values: Any, leaves: list[Any]) -> list[Array]:
    import torch

    if not values.requires_grad:
        raise InputError(
            "a loss does not depend on the log-probabilities that it was given",
            field="loss",
            remedy="Compute it from them with torch or array-API functions, without detach().",
        )
    found = torch.autograd.grad(values, leaves, torch.ones_like(values), allow_unused=True)
    pairs = zip(found, leaves, strict=True)
    return [np.zeros(tuple(leaf.shape)) if g is None else g.numpy() for g, leaf in pairs]


def _numpy(values: Any) -> Array:
    return np.asarray(values.detach().numpy())
