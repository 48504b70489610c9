"""Which rows fight: the influence of a row on the price of conflict, exact and by gradients.

The price of conflict at a weight is G = min f_lambda - (1 - lam) min f_SFT - lam min f_DPO: what
one policy loses because it must serve both sets. It is 0 exactly if one policy minimises both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray

from tradeoff import objectives
from tradeoff.convex import LogLinear
from tradeoff.convex.certify import Minimum
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.settings import Share, checked

Array = NDArray[np.float64]
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Price:
    """The price of conflict of a convex problem, with the three minima that it consists of.

    Attributes
    ----------
    lam
        Weight of the preference objective.
    joint, sft, preference
        Certified minima of f_lambda and of either objective.
    """

    lam: float
    joint: Minimum
    sft: Minimum
    preference: Minimum

    @property
    def value(self) -> float:
        """The price in nats."""
        alone = (1 - self.lam) * self.sft.value + self.lam * self.preference.value
        return self.joint.value - alone

    @property
    def certificate(self) -> float:
        """Bound on the error of :attr:`value`, to either side."""
        alone = (1 - self.lam) * self.sft.certificate + self.lam * self.preference.certificate
        return max(self.joint.certificate, alone)


@checked
def price(problem: LogLinear, lam: Share = 0.5) -> Price:
    """The price of conflict of both data sets of a problem.

    Parameters
    ----------
    problem
        A log-linear problem.
    lam
        Weight of the preference objective.
    """
    joint, sft, preference = (
        minimise(problem, weight, tolerance=TOLERANCE) for weight in (lam, 0.0, 1.0)
    )
    return Price(lam, joint, sft, preference)


def influence(
    problem: LogLinear, found: Price
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " J"]]:
    """Derivative of the price in the weight of each demonstration and each pair.

    By the envelope theorem the minimisers may be held fixed, so the derivative is exact: with
    normalised weights that of demonstration i is (1 - lam) times the difference, between the joint
    minimiser and that of SFT, of its loss less the mean loss. Positive rows fight.

    Parameters
    ----------
    problem
        The problem of the price.
    found
        Its price, see :func:`price`.

    Returns
    -------
    tuple of ndarray
        (M,) and (J,) derivatives in nats per unit of weight, where all weights of a set sum to one.
    """
    lam, joint = found.lam, row_losses(problem, found.joint.theta)
    alone = (
        row_losses(problem, found.sft.theta)[0],
        row_losses(problem, found.preference.theta)[1],
    )
    weights = problem.sft_weights, problem.preference_weights
    sft, pairs = (
        factor * ((both - w @ both) - (own - w @ own))
        for factor, both, own, w in zip((1 - lam, lam), joint, alone, weights, strict=True)
    )
    return sft, pairs


def row_losses(
    problem: LogLinear, theta: ArrayLike
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " J"]]:
    """Loss of each demonstration and of each pair, in nats."""
    z = problem.logits(theta)
    shown = -problem.log_probs(theta)[problem.demonstrations]
    margins = z[problem.chosen] - z[problem.rejected] - problem.margin_shift
    return shown, np.asarray(objectives.dpo(margins, problem.beta, problem.label_smoothing))


def gradient_conflict(
    demonstrations: Float[np.ndarray, "n m"], pairs: Float[np.ndarray, "k m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " k"]]:
    """How much a small step on each row raises the other set's loss, by gradients of one model.

    Parameters
    ----------
    demonstrations
        (n, m) gradients of log pi(y|x), or their sketches.
    pairs
        (k, m) gradients of log pi(chosen) - log pi(rejected), likewise.

    Returns
    -------
    tuple of ndarray
        (n,) and (k,) minus the cosine of each row's gradient with the mean of the other set's.
        Positive rows fight: to first order, a step on them raises the other loss.
    """
    one, other = (
        -(rows @ mean) / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(mean), 1e-300)
        for rows, mean in (
            (demonstrations, pairs.mean(axis=0)),
            (pairs, demonstrations.mean(axis=0)),
        )
    )
    return one, other


def auroc(scores: Float[np.ndarray, " n"], planted: Bool[np.ndarray, " n"]) -> float:
    """Probability that a planted row scores above another one; ties count one half.

    Raises
    ------
    InputError
        If all rows are planted, or none is.
    """
    planted = np.asarray(planted, dtype=bool)
    if planted.all() or not planted.any():
        raise InputError(
            "rows of one kind only cannot be told apart",
            field="planted",
            value=int(planted.sum()),
            remedy="Give rows of both kinds.",
        )
    from scipy.stats import rankdata

    count = int(planted.sum())
    ranks = rankdata(scores)[planted].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(planted) - count)))
