"""The two losses of post-training, as functions of response log-probabilities.

Each loss is written once, with functions of the array API. So the same line works on numpy arrays
(the convex laboratory) and on torch tensors (networks and language models, with autograd).
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any
"""A numpy array or a torch tensor."""


def sft(log_probs: Array) -> Array:
    """Supervised fine-tuning: the mean negative log-likelihood of the demonstrations.

    Parameters
    ----------
    log_probs
        log pi(y|x) of each demonstration, in nats; the mean is over the last axis.

    Notes
    -----
    f_SFT of arXiv 2410.15483, equation (4).
    """
    return -array_namespace(log_probs).mean(log_probs, axis=-1)


def margin(
    chosen: Array, rejected: Array, reference_chosen: Array = 0.0, reference_rejected: Array = 0.0
) -> Array:
    """Margin of chosen over rejected under the policy, less that under the reference, in nats."""
    return (chosen - rejected) - (reference_chosen - reference_rejected)


def dpo(margins: Array, beta: float, label_smoothing: float = 0.0) -> Array:
    """Direct preference optimisation (DPO): the logistic loss of each margin.

    Parameters
    ----------
    margins
        Output of :func:`margin`, any shape.
    beta
        Inverse temperature of the implicit reward ``beta * margin``; positive.
    label_smoothing
        Probability that a label is flipped (conservative DPO); 0 gives DPO of
        arXiv 2305.18290, equation (7).

    Returns
    -------
    Array
        One loss per margin; ``log 2`` where the margin is zero.
    """
    xp = array_namespace(margins)
    reward = beta * margins
    zero = xp.zeros_like(reward)
    loss = xp.logaddexp(zero, -reward)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * xp.logaddexp(zero, reward)
    return loss


def hinge(margins: Array, beta: float) -> Array:
    """Hinge loss of the implicit reward, ``max(0, 1 - beta m)`` (SLiC, arXiv 2305.10425)."""
    reward = beta * margins
    xp = array_namespace(reward)
    return xp.clip(1 - reward, min=0.0)


def ipo(margins: Array, beta: float) -> Array:
    """Squared distance of the margin from ``1 / (2 beta)``: equation (17) of arXiv 2310.12036."""
    return (margins - 1 / (2 * beta)) ** 2


def dpo_slope(margins: Array, beta: float, label_smoothing: float = 0.0) -> Array:
    """Derivative of :func:`dpo` in the margin: ``beta * (label_smoothing - sigma(-beta m))``.

    It is accurate also where it is tiny, since certificates there depend on the slope.
    """
    return beta * (label_smoothing - _sigmoid(-beta * margins))


def dpo_curvature(margins: Array, beta: float) -> Array:
    """Second derivative of :func:`dpo` in the margin; label smoothing does not change it."""
    z = beta * margins
    return beta**2 * _sigmoid(z) * _sigmoid(-z)


def _sigmoid(z: Array) -> Array:
    xp = array_namespace(z)
    return xp.exp(-xp.logaddexp(xp.zeros_like(z), -z))
