"""Preference losses on the terms of a problem: with its beta, and at a weight of equal pull.

Losses come with settings of their own, and few of these suit a problem. A comparison of their
formulas asks that all have the temperature of the loss that is scored, and that a weight means the
same for each.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tradeoff.arena.instances import problem_of
from tradeoff.convex import LogLinear
from tradeoff.convex.trained import preference_gradient
from tradeoff.methods import Method
from tradeoff.methods.losses import (
    Dpo,
    Nominal,
    Pairs,
    PreferenceLoss,
    Responses,
    pair_slopes,
)
from tradeoff.methods.losses.divergences import divergence

Match: TypeAlias = Literal["none", "beta", "weight"]
"""Terms of a comparison. "none": every loss has its own settings. "beta": it has the beta of the
problem. "weight": that, and it runs at the weight at which its pull is that of the problem's loss.
"""


def matched(method: Method, problem: str, lam: float, match: Match = "none") -> Method:
    """A method as it runs on a problem at a weight, on the terms of a comparison.

    Parameters
    ----------
    method
        The method; one that trains the loss of the problem stays as it is.
    problem
        Name of an instance.
    lam
        Weight of the preference objective that is asked for.
    match
        The terms, see :data:`Match`.
    """
    if match == "none" or isinstance(method.preference, Nominal):
        return method.at(lam)
    place = problem_of(problem)
    method = replace(method, preference=with_beta(method.preference, place.beta))
    weight = lam if match == "beta" else equal_weight(place, method.preference, lam)
    return method.at(weight)


def with_beta(loss: PreferenceLoss, beta: float) -> PreferenceLoss:
    """A loss with another inverse temperature, if it has one under any name.

    Parameters
    ----------
    loss
        Its setting ``beta`` becomes `beta`; without one, ``tau`` becomes ``1 / beta`` (ADPO, which
        is conservative DPO of that beta), or ``temperature`` becomes `beta` (reward-weighted
        regression, whose best policy is that of DPO). Other settings stay, and a loss without any
        of the three stays as it is.
    beta
        Inverse temperature of DPO; positive.

    Examples
    --------
    >>> from tradeoff.methods.losses import Adpo, Ipo
    >>> with_beta(Ipo(), 1.0).beta, with_beta(Adpo(), 5.0).tau
    (1.0, 0.2)
    """
    known = {field.name for field in fields(loss)}
    for name, value in (("beta", beta), ("tau", 1 / beta), ("temperature", beta)):
        if name in known:
            return replace(loss, **{name: value})
    return loss


def equal_weight(problem: LogLinear, loss: PreferenceLoss, lam: float) -> float:
    """The weight at which a loss pulls as its problem's own loss does at ``lam``.

    Parameters
    ----------
    problem
        The problem, whose own loss is DPO.
    loss
        Loss of pairs that is trained in its place.
    lam
        Weight in [0, 1] of the problem's own loss.

    Returns
    -------
    float
        ``lam s / (1 - lam + lam s)``, where s is the pull of the problem's own loss over that of
        the loss. Where the loss is a multiple of the problem's own one, the weighted sums of both
        have the same minima. A loss without a pull stays at ``lam``.
    """
    own = pull(problem, loss)
    if own == 0:
        return lam
    ratio = pull(problem, Nominal()) / own
    return float(lam * ratio / (1 - lam + lam * ratio))


def pull(problem: LogLinear, loss: PreferenceLoss) -> float:
    """Length of the gradient of the mean loss of pairs where the policy is the reference.

    Parameters
    ----------
    problem
        The problem that has the pairs.
    loss
        The loss; :class:`~tradeoff.methods.losses.Nominal` for that of the problem.

    Notes
    -----
    Identity I13 of the methods: for most losses this is their slope there times a length that is
    the same for all, such as ``beta / 2`` for DPO and ``1 / beta`` for IPO.
    """
    start = np.zeros(problem.dimension) if problem.reference is None else problem.reference
    if loss.grouped:
        return float(np.linalg.norm(preference_gradient(problem, loss, start)))
    every = problem.log_probs(start)
    if isinstance(loss, Nominal):
        loss = Dpo(beta=problem.beta, label_smoothing=problem.label_smoothing)
    apart = None
    if loss.compares is not None:
        same = [np.split(every, problem.offsets[1:-1])[x] for x in _prompts(problem)]
        apart = np.array([float(divergence(z[None], z[None], loss.compares)[0]) for z in same])
    rows = problem.chosen, problem.rejected
    both = Pairs(*(Responses(every[side], every[side], None, apart) for side in rows))
    slopes = pair_slopes(loss, both)[1] * problem.preference_weights[:, None]
    by_logit = np.zeros(len(every))
    for side, slope in zip(rows, slopes.T, strict=True):
        np.add.at(by_logit, side, slope)
    # A policy that is the reference has no divergence from it to first order.
    of_prompt = np.bincount(_prompts(problem), slopes.sum(axis=1), len(problem.offsets) - 1)
    by_logit -= np.exp(every) * of_prompt[problem.prompt_of_row]
    return float(np.linalg.norm(problem.features.T @ by_logit))


def _prompts(problem: LogLinear) -> NDArray[np.int64]:
    """(J,) prompts of the pairs."""
    return np.asarray(problem.prompt_of_row[problem.chosen])
