"""Convex problems from measurements of a model: of its last layer, and linearised.

Features are scaled so that gradients of a pair's margin have mean square length 1.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.forecast.lab import Lab
from tradeoff.forecast.sketch import TwoSided
from tradeoff.forecast.subject import Scored
from tradeoff.forecast.surrogate import GaussNewton, LinearMargins, Surrogate, TokenSoftmax

Array = NDArray[np.float64]


def frozen(lab: Lab) -> Surrogate:
    """Last layer of the frozen model, sketched from both sides: one forward pass of some rows.

    SFT is an exact softmax over the likeliest tokens with the base model's logits as offsets. DPO
    is the logistic loss of margins linear in theta: (onehot - p) x h, summed over the tokens.
    """
    demonstrations, pairs = lab.forward
    differences = pair_differences(pairs, lab.sketch)
    scale = _unit(differences)
    part = _softmax(demonstrations, lab.sketch, scale)
    margins = LinearMargins(differences * scale, lab.subject.beta)
    return Surrogate(part, margins, 1.0, np.zeros(differences.shape[1]))


def pair_differences(pairs: Scored, sketch: TwoSided) -> Float[np.ndarray, "J ab"]:
    """Sketched last-layer gradients of log pi(chosen) - log pi(rejected) of each pair."""
    residual = sketch.vocabulary[pairs.likeliest[:, 0]] - pairs.expected
    outer = sketch.outer(residual, pairs.hidden).double()
    total = outer.new_zeros(int(pairs.owners.max()) + 1, outer.shape[1])
    total.index_add_(0, pairs.owners, outer)
    return np.asarray((total[0::2] - total[1::2]).numpy())


def _softmax(rows: Scored, sketch: TwoSided, scale: float) -> TokenSoftmax:
    log_p = rows.log_p.double()
    rest = torch.log1p(-log_p.exp().sum(1).clamp(max=1 - 1e-9))
    codes = sketch.vocabulary[rows.likeliest]
    found = sketch.outer(codes, rows.hidden[:, None].expand(-1, codes.shape[1], -1))
    weights = np.full(len(log_p), 1 / len(log_p))
    return TokenSoftmax(scale * found.double().numpy(), log_p.numpy(), rest.numpy(), weights)


def linear(lab: Lab) -> Surrogate:
    """Linearised model: sketched gradients of some rows of each set in the trained weights.

    The Gauss-Newton matrix of the SFT loss is a Fisher matrix of whole responses. It equals that of
    their tokens on average, as scores of different tokens are uncorrelated under the model.
    """
    demonstrations, pairs = lab.gradients
    scale = _unit(pairs)
    basis = np.linalg.qr(np.vstack([demonstrations, pairs]).T)[0]
    # Parameters outside the span of the gradients change nothing.
    shown, compared = scale * demonstrations @ basis, scale * pairs @ basis
    tokens = len(lab.forward[0].owners) * len(shown) / lab.effort.features
    part = GaussNewton(float(lab.base[0]), -shown.sum(0) / tokens, shown.T @ shown / tokens)
    margins = LinearMargins(compared, lab.subject.beta)
    return Surrogate(part, margins, 1.0, np.zeros(basis.shape[1]))


def _unit(differences: Array) -> float:
    """Factor that makes the mean square length of the rows 1."""
    mean = float(np.mean(np.sum(differences**2, axis=1)))
    return 1 / np.sqrt(mean) if mean > 0 else 1.0
