"""KL-regularised reward maximisation on finite response sets, with exact expectations.

The loss is minus the RLHF objective, mean over prompts of beta KL(pi || pi_ref) - E_pi r. It is
smooth but, unlike f_DPO, NOT convex in the logits of pi: it equals beta KL(pi || pi*) plus a
constant, with pi as the first argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex._validate import check_memory, check_vector, check_weights
from tradeoff.convex.instances import every_pair
from tradeoff.convex.log_linear import LogLinear

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rlhf:
    """The RLHF loss of the policies of a log-linear problem.

    Attributes
    ----------
    policy
        The problem with features, prompts and ``beta``; its preference pairs are not used.
    reward
        (N,) reward of every response.
    reference
        (N,) reference log-probabilities of every response.
    prompt_weights
        (P,) weights of the prompts; uniform by default.
    """

    policy: LogLinear
    reward: Float[np.ndarray, " N"]
    reference: Float[np.ndarray, " N"]
    prompt_weights: Float[np.ndarray, " P"] | None = None

    def __post_init__(self) -> None:
        rows = int(self.policy.features.shape[0])
        check_vector("reward", self.reward, rows)
        check_vector("reference", self.reference, rows)
        check_vector("prompt_weights", self.prompt_weights, len(self.policy.offsets) - 1)
        check_weights("prompt_weights", self.prompt_weights)

    @cached_property
    def _weight(self) -> Array:
        """(N,) weight of each row's prompt, normalised over prompts."""
        prompts = len(self.policy.offsets) - 1
        given = np.ones(prompts) if self.prompt_weights is None else self.prompt_weights
        return np.asarray((given / given.sum())[self.policy.prompt_of_row])

    def loss(self, theta: ArrayLike) -> float:
        """Mean over prompts of beta KL(pi_theta || pi_ref) - E r."""
        log_p = self.policy.log_probs(theta)
        return float((self._weight * np.exp(log_p)) @ self._regret(log_p))

    def gradient(self, theta: ArrayLike) -> Float[np.ndarray, " d"]:
        """(d,) gradient: the policy gradient with its exact expectation and baseline."""
        log_p = self.policy.log_probs(theta)
        p, regret = np.exp(log_p), self._regret(log_p)
        baseline = np.add.reduceat(p * regret, self.policy.offsets[:-1])
        slope = self._weight * p * (regret - baseline[self.policy.prompt_of_row])
        return np.asarray(self.policy.features.T @ slope)

    @cached_property
    def optimal_log_probs(self) -> Float[np.ndarray, " N"]:
        """(N,) log pi*(y|x) of the optimal policy: pi* is proportional to pi_ref exp(r / beta)."""
        tilted = self.reference + self.reward / self.policy.beta
        return np.asarray(tilted - self._log_sums(tilted)[self.policy.prompt_of_row])

    @cached_property
    def optimum(self) -> float:
        """Least loss over all policies: the mean of -beta log sum of pi_ref exp(r / beta)."""
        sums = self._log_sums(self.reference + self.reward / self.policy.beta)
        return float(-self.policy.beta * (self._weight[self.policy.offsets[:-1]] @ sums))

    def _regret(self, log_p: Array) -> Array:
        return np.asarray(self.policy.beta * (log_p - self.reference) - self.reward)

    def _log_sums(self, values: Array) -> Array:
        return np.asarray(np.logaddexp.reduceat(values, self.policy.offsets[:-1]))


def population_dpo(
    reward: Float[np.ndarray, "P n"],
    reference: Float[np.ndarray, "P n"],
    *,
    beta: float,
    radius: float,
    demonstrations: Any = None,
) -> LogLinear:
    """DPO on infinitely many Bradley-Terry labels, for a tabular policy.

    Every ordered pair (y, y') of a prompt has the weight sigma(r(y) - r(y')): the probability that
    y is chosen and y' rejected.

    Parameters
    ----------
    reward, reference
        Rewards and reference log-probabilities, one row per prompt.
    beta, radius
        As in :class:`LogLinear`. The parameters are the logits, so the radius bounds their norm.
    demonstrations
        (M,) rows (prompt * n + response) of SFT data; by default the best response of each prompt.

    Raises
    ------
    InputError
        If the arrays differ in shape, are not finite, or would not fit into memory.
    """
    prompts, n = reward.shape
    check_vector("reward", reward.ravel(), prompts * n)
    check_vector("reference", reference.ravel(), prompts * n)
    sizes = (prompts * n) ** 2, 5 * prompts * n**2
    check_memory("reward", (prompts, n), sum(sizes), "Use fewer prompts or responses.")
    chosen, rejected, wins = every_pair(reward)
    known = reference.ravel()
    best = n * np.arange(prompts) + reward.argmax(axis=1)
    shown = best if demonstrations is None else demonstrations
    return LogLinear(
        features=np.eye(prompts * n),
        offsets=np.arange(0, prompts * n + 1, n),
        demonstrations=np.asarray(shown, dtype=np.int64),
        chosen=chosen,
        rejected=rejected,
        radius=radius,
        beta=beta,
        reference_margins=known[chosen] - known[rejected],
        pair_weights=wins,
    )
