"""Measures of the literature: they look at trained policies, and train none that is kept.

Those of probabilities take them response by response, prompt after prompt, as ``log_probs`` of a
:class:`tradeoff.convex.LogLinear` gives them. Finite policies of networks give the same once their
prompts and responses are flattened, with ``offsets = arange(P + 1) * K``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from tradeoff.arena.measures import calibration_error
from tradeoff.convex import LogLinear, minimise
from tradeoff.settings import Count, Within, checked

Array = NDArray[np.float64]
Joined = Literal["mean", "largest", "vote"]
TOLERANCE = 1e-8
"""Certified error of the SFT specialist and of the preference specialist."""


# ---------------------------------------------------------------------- calibration of ensembles


@checked
def ensembled(
    members: Float[np.ndarray, "k N"], offsets: Int[np.ndarray, " ends"], joined: Joined = "mean"
) -> Float[np.ndarray, " N"]:
    """Probabilities of all responses under several policies together.

    Parameters
    ----------
    members
        (k, N) probabilities under k policies: of bootstrapped rows, seeds or checkpoints.
    offsets
        (P + 1,) rows ``offsets[x]:offsets[x + 1]`` belong to prompt x.
    joined
        "mean": the average. "largest": the largest over policies, normalised. "vote": the share of
        policies whose likeliest response it is; the first one of several.

    Raises
    ------
    InputError
        If ``joined`` is none of these.
    """
    if joined == "mean":
        return np.asarray(members.mean(axis=0))
    prompt = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if joined == "largest":
        found = members.max(axis=0)
        return np.asarray(found / np.add.reduceat(found, offsets[:-1])[prompt])
    votes = np.zeros(members.shape[1])
    for first, end in pairwise(offsets):
        winners = first + members[:, first:end].argmax(axis=1)
        np.add.at(votes, winners, 1 / len(members))
    return votes


def self_ensembled_calibration(
    members: Float[np.ndarray, "k N"],
    offsets: Int[np.ndarray, " ends"],
    truth: Float[np.ndarray, " N"],
    joined: Joined = "mean",
) -> float:
    """Expected calibration error of several policies together, over all responses.

    Parameters
    ----------
    members, offsets, joined
        As for :func:`ensembled`; with one policy it is that policy's own error.
    truth
        (N,) probability of each response under the law, or its share in the demonstrations of its
        prompt.

    Notes
    -----
    Self-ensembling, arXiv 2312.13772. The error over all responses in place of the likeliest one is
    ours, and exact: where every policy is the truth, it is 0.
    """
    found = ensembled(members, offsets, joined)
    weights = np.full(len(found), 1 / len(found))
    return float(calibration_error(found[:, None], truth[:, None], weights)[0])


# ---------------------------------------------------------------------- mistakes and omissions


@dataclass(frozen=True)
class ElementScores:
    """Precision, recall, and their harmonic mean, each (B,) in [0, 1]."""

    precision: Array
    recall: Array
    both: Array


def two_sided(
    probabilities: Float[np.ndarray, "N B"],
    offsets: Int[np.ndarray, " ends"],
    elements: Bool[np.ndarray, "N E"],
    wanted: Bool[np.ndarray, "P E"],
) -> ElementScores:
    """What responses say that is wrong, and what they leave out, element by element.

    Parameters
    ----------
    probabilities
        (N, B) of all responses under B policies.
    offsets
        (P + 1,) rows ``offsets[x]:offsets[x + 1]`` belong to prompt x.
    elements
        (N, E) which elements, such as facts, a response has.
    wanted
        (P, E) which elements the reference response of a prompt has.

    Returns
    -------
    ElementScores
        Of a response, precision is the share of its elements that the reference has, and recall the
        share of the reference's elements that it has. They are averaged over each policy's
        responses and over prompts. A response without elements makes no mistake, and against a
        reference without elements nothing is left out.

    Notes
    -----
    After PoSh, arXiv 2510.19060, with known elements in place of a judge's. The harmonic mean is
    ours.
    """
    prompt = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    shared = (elements & wanted[prompt]).sum(axis=1)
    precision, recall = (
        (_shares(shared, of.sum(axis=1)) @ probabilities) / len(wanted)
        for of in (elements, wanted[prompt])
    )
    total = precision + recall
    both = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return ElementScores(precision, recall, both)


def _shares(part: NDArray[Any], whole: NDArray[Any]) -> Array:
    """Part of the whole; 1 where there is nothing."""
    return np.divide(part, whole, out=np.ones(len(part)), where=whole > 0)


# ---------------------------------------------------------------------- what tuning wrote


@dataclass(frozen=True)
class TrainingScores:
    """What training wrote into B policies.

    Attributes
    ----------
    scores
        (N, B) log-probability of each response after training less that before, in nats.
    divergence
        (P, B) KL divergence from the policy before training at each prompt: the mean of the scores
        over the policy's own responses.
    """

    scores: Float[np.ndarray, "N B"]
    divergence: Float[np.ndarray, "P B"]

    def top(self, count: int) -> Int[np.ndarray, "count B"]:
        """Rows of the responses that gained the most, the first ones first."""
        return np.argsort(-self.scores, axis=0, kind="stable")[:count]


def what_tuning_wrote(
    after: Float[np.ndarray, "N B"],
    before: Float[np.ndarray, " N"],
    offsets: Int[np.ndarray, " ends"],
) -> TrainingScores:
    """Rank all responses by what training added to their log-probabilities.

    Parameters
    ----------
    after, before
        Log-probabilities of all responses under B policies, and under the policy before training.
    offsets
        (P + 1,) rows ``offsets[x]:offsets[x + 1]`` belong to prompt x.

    Notes
    -----
    CGE, arXiv 2410.14765, after a second-hand description. Its repeated form, which trains on what
    was found, is not here.
    """
    scores = after - before[:, None]
    return TrainingScores(scores, np.add.reduceat(np.exp(after) * scores, offsets[:-1], axis=0))


# ---------------------------------------------------------------------- learning again


@checked
def relearning(
    problem: LogLinear,
    theta: Float[np.ndarray, "B d"],
    *,
    slack: Annotated[float, Within(0, 1)] = 0.05,
    step: Annotated[float, Within(0, 1e9, "()")] | None = None,
    limit: Count = 1000,
) -> Float[np.ndarray, " B"]:
    """Updates of SFT until the loss of demonstrations is back where the SFT specialist has it.

    Parameters
    ----------
    problem
        A log-linear problem.
    theta
        (B, d) policies, such as ends of SFT-then-DPO.
    slack
        How far above the specialist's loss counts as there, in units of the rise from the SFT
        specialist to the preference specialist.
    step
        Step size; one over a bound of the curvature by default.
    limit
        Updates after which the search ends.

    Returns
    -------
    ndarray
        (B,) updates, each along the whole gradient; infinite where ``limit`` was not enough. A
        policy that has the loss needs none.

    Notes
    -----
    After arXiv 2306.05539, which counts samples of a task. A small number says that the skill was
    suppressed, a large one that it was erased.
    """
    ends = [minimise(problem, lam, tolerance=TOLERANCE).theta for lam in (0.0, 1.0)]
    low, high = (float(problem.losses(end)[0]) for end in ends)
    level = low + slack * (high - low) + 2 * TOLERANCE
    rows = problem.dense_features
    size = step or 1 / float((rows**2).sum(axis=1).max())
    found = np.full(len(theta), np.inf)
    left, at = np.arange(len(theta)), np.array(theta)
    for update in range(limit + 1):
        there = problem.losses(at)[:, 0] <= level
        found[left[there]] = update
        left, at = left[~there], at[~there]
        if not len(left):
            break
        at = problem.project(at - size * (rows.T @ problem.sft_slope(problem.logits(at))).T)
    return found


# ---------------------------------------------------------------------- conjugate prompts

Policy = Callable[[Float[np.ndarray, "M dx"]], Float[np.ndarray, "M K"]]
"""Log-probabilities of K responses to each of M prompts."""


def conjugated(
    policy: Policy,
    there: Callable[[Float[np.ndarray, "M dx"]], Float[np.ndarray, "M dx"]],
    back: Int[np.ndarray, " K"] | None = None,
) -> Policy:
    """A policy that is asked in another way: prompts are moved, and responses are moved back.

    Parameters
    ----------
    policy
        Log-probabilities by prompt.
    there
        Moves prompts, such as into another language.
    back
        (K,) which response to the moved prompt stands for each response; the same by default.
    """

    def asked(prompts: Array) -> Array:
        found = policy(there(prompts))
        return found if back is None else found[:, back]

    return asked


def recovered(
    policy: Policy,
    specialist: Policy,
    prompts: Float[np.ndarray, "M dx"],
    answers: Int[np.ndarray, " M"],
    there: Callable[[Float[np.ndarray, "M dx"]], Float[np.ndarray, "M dx"]],
    back: Int[np.ndarray, " K"] | None = None,
) -> float:
    """Share of what was forgotten that the policy still has, if it is asked in another way.

    Parameters
    ----------
    policy, specialist
        The policy, and one that was trained on demonstrations alone, as log-probabilities by
        prompt.
    prompts, answers
        Prompts and responses of M demonstrations.
    there, back
        As for :func:`conjugated`.

    Returns
    -------
    float
        The loss of demonstrations less that of the conjugated policy, over the loss less that of
        the specialist. 1: all is still there, so that it was suppressed. 0: asking in another way
        helps nothing. Not a number where nothing was forgotten.

    Notes
    -----
    Conjugate prompting, arXiv 2309.10105; the ratio is ours.
    """
    own, moved, best = (
        -float(each(prompts)[np.arange(len(answers)), answers].mean())
        for each in (policy, conjugated(policy, there, back), specialist)
    )
    return (own - moved) / (own - best) if own > best else float("nan")
