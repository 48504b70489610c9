"""Gradients of the losses that methods train, in place of those of the problem."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tradeoff.convex._trained_losses import TrainedLossSampler
from tradeoff.convex.log_linear import LogLinear
from tradeoff.methods.losses import Nll, PreferenceLoss
from tradeoff.schedules import PREFERENCE


def preference_gradient(
    problem: LogLinear, loss: PreferenceLoss, theta: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " d"]:
    """Gradient of the mean of a loss over all pairs of a problem.

    Parameters
    ----------
    problem
        The problem; its reference policy is that of the loss, and its pairs are all that a judge
        sees.
    loss
        The loss. Factors that it takes as constants have no slope.
    theta
        Where.

    Raises
    ------
    InputError
        If the loss needs more than the problem has, such as a reference policy.

    Examples
    --------
    >>> from tradeoff.convex import random_log_linear
    >>> from tradeoff.methods.losses import Dpo
    >>> problem = random_log_linear(0)
    >>> theta = np.zeros(problem.dimension)
    >>> found = preference_gradient(problem, Dpo(beta=problem.beta), theta)
    >>> bool(np.allclose(found, problem.gradients(theta)[1]))
    True
    """
    sampler = TrainedLossSampler(problem, 0, np.zeros(1, dtype=np.int64), Nll(), loss)
    return np.asarray(sampler.mean_gradient(PREFERENCE, theta[None])[0])
