"""Convex problems from measurements of a model: of its last layer, and linearised.

Features are scaled so that gradients of a pair's margin have mean square length 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.forecast.lab import Lab
from tradeoff.forecast.sketch import TwoSided
from tradeoff.forecast.subject import Scored
from tradeoff.forecast.surrogate import GaussNewton, LinearMargins, Surrogate, TokenSoftmax

Array = NDArray[np.float64]
LIKELIEST = 16
"""Tokens of each softmax that have features; the others keep their logits."""
SIDES = 16, 8
"""Widths of the sketch of a last layer, on the side of the vocabulary and of hidden states."""


def frozen(lab: Lab) -> Surrogate:
    """Last layer of the frozen model, sketched from both sides: one forward pass of some rows.

    SFT is an exact softmax over the likeliest tokens with the base model's logits as offsets. DPO
    is the logistic loss of margins linear in theta: (onehot - p) x h, summed over the tokens.
    """
    demonstrations, pairs = lab.forward
    vocabulary, width = demonstrations.log_probs.shape[1], demonstrations.hidden.shape[1]
    sketch = TwoSided.draw(vocabulary, width, SIDES, lab.seed)
    differences = pair_differences(pairs, sketch)
    scale = _unit(differences)
    part = _softmax(demonstrations, sketch, scale)
    margins = LinearMargins(differences * scale, lab.subject.beta)
    return Surrogate(part, margins, 1.0, np.zeros(differences.shape[1]))


def pair_differences(pairs: Scored, sketch: TwoSided) -> Array:
    """(J, a b) sketched last-layer gradients of log pi(chosen) - log pi(rejected)."""
    residual = sketch.vocabulary[pairs.labels] - pairs.log_probs.exp() @ sketch.vocabulary
    outer = sketch.outer(residual, pairs.hidden @ sketch.hidden).double()
    total = outer.new_zeros(int(pairs.owners.max()) + 1, outer.shape[1])
    total.index_add_(0, pairs.owners, outer)
    return np.asarray((total[0::2] - total[1::2]).numpy())


def _softmax(rows: Scored, sketch: TwoSided, scale: float) -> TokenSoftmax:
    likeliest = _with_labels(rows)
    log_p = rows.log_probs.gather(1, likeliest).double()
    rest = torch.log1p(-log_p.exp().sum(1).clamp(max=1 - 1e-9))
    hidden = rows.hidden @ sketch.hidden
    codes = sketch.vocabulary[likeliest]
    found = sketch.outer(codes, hidden[:, None].expand(-1, codes.shape[1], -1))
    count = len(log_p)
    weights = np.full(count, 1 / count)
    return TokenSoftmax(scale * found.double().numpy(), log_p.numpy(), rest.numpy(), weights)


def _with_labels(rows: Scored) -> Tensor:
    """(M, K) the likeliest tokens, with the label in the first place and only there."""
    count = min(LIKELIEST, rows.log_probs.shape[1])
    raised = rows.log_probs.scatter(1, rows.labels[:, None], torch.inf)
    return raised.topk(count, dim=1).indices


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
    tokens = len(lab.forward[0].labels) * len(shown) / lab.effort.features
    part = GaussNewton(float(lab.base[0]), -shown.sum(0) / tokens, shown.T @ shown / tokens)
    margins = LinearMargins(compared, lab.subject.beta)
    return Surrogate(part, margins, 1.0, np.zeros(basis.shape[1]))


def _unit(differences: Array) -> float:
    """Factor that makes the mean square length of the rows 1."""
    mean = float(np.mean(np.sum(differences**2, axis=1)))
    return 1 / np.sqrt(mean) if mean > 0 else 1.0
