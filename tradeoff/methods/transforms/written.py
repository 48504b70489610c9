"""Demonstrations that are written anew, with what the policy before training says of each prompt.

Where all responses of a prompt are listed, a transform gives the law of what is written. Training
on rows weighted by that law is the mean over all draws. A language model has too many responses.
There some are written for each demonstration, once, by the policy before training, and some
transforms choose among these.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from tradeoff.methods.gradients.values import softmax
from tradeoff.methods.transforms.base import KeptShare, Transform, share_of
from tradeoff.schedules import FORWARD, SFT
from tradeoff.settings import BelowOne, Count, NotNegative, Positive, Share, Within


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of n demonstrations, and all K responses of each.

    Attributes
    ----------
    log_probs
        (n, K) log-probabilities under the policy before training; minus infinity where a prompt has
        no more responses.
    own
        (n,) place of the demonstrated response among those of its prompt.
    prompts
        (n,) number of the prompt of each demonstration.
    features, wanted
        (n, d) features of the demonstrations, and (m, d) of the chosen responses of the pairs.
    """

    log_probs: Float[np.ndarray, "n K"]
    own: Int[np.ndarray, " n"]
    prompts: Int[np.ndarray, " n"]
    features: Float[np.ndarray, "n d"]
    wanted: Float[np.ndarray, "m d"]

    @property
    def gold(self) -> Float[np.ndarray, "n K"]:
        """One at the demonstrated response, else zero."""
        return np.eye(self.log_probs.shape[1])[self.own]


@dataclass(frozen=True, kw_only=True)
class Written(Transform):
    """Replaces each demonstration by a law over the responses of its prompt.

    Attributes
    ----------
    pairs
        Whether the law is instead one of what is rejected in pairs with the demonstrations, which
        replace the pairs; a class attribute.
    attempts
        Responses that are written for a demonstration where not all can be listed, a class
        attribute. 0: it needs all.
    """

    asks: ClassVar[tuple[int, ...]] = (SFT,)
    pairs: ClassVar[bool] = False
    attempts: ClassVar[int] = 0

    @abstractmethod
    def law(self, given: Prompts) -> Float[np.ndarray, "n K"]:
        """Weights (n, K) of what stands in place of each demonstration, not negative.

        A row of zeros leaves the demonstration out.
        """

    def taken(
        self, right: Bool[np.ndarray, "n N"], coins: Float[np.ndarray, "n N"]
    ) -> Int[np.ndarray, " n"]:
        """Which written response stands in place of each demonstration; -1: none.

        The base takes the first.

        Parameters
        ----------
        right
            Whether each has the right answer, by an exact judge.
        coins
            Draws from [0, 1).
        """
        return np.zeros(len(right), dtype=np.int64)

    @property
    def drawn_at(self) -> tuple[float, float]:
        """Temperature of the draws, and the share of the probability of tokens that is kept."""
        return 1.0, 1.0

    def priced(self, *, drawn: bool) -> tuple[float, float]:
        # No more rows are written than gradients see.
        writing = FORWARD * self.attempts * drawn
        return (self.sft_cost, writing) if self.pairs else (self.sft_cost + writing, 0.0)

    def unsupported(self, scale: str) -> str | None:
        if scale == "networks" and not self.attempts:
            return (
                "none is written for small policies, which keep rows or leave them out, and of a "
                "language model not all responses are known"
            )
        if scale == "llm":
            return "the trainer writes no responses before it trains"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class SelfDistillation(Written):
    """The policy's own responses where a judge takes them for right, else the demonstration.

    Attributes
    ----------
    error
        Probability that the judge accepts a wrong response, in [0, 1]; right ones pass. 0 is SFT,
        and 1 trains on the policy's own responses. Where all responses are listed, the
        demonstration alone is right; in the generated language, its answer in any style.

    Notes
    -----
    Card S08, after a second-hand description. With error 1 on a share of the rows, this adds the
    divergence from the policy before training to SFT. Costs a response for each row, once.
    """

    name: ClassVar[str] = "self_distillation"
    title: ClassVar[str] = "self-distillation"
    source: ClassVar[str] = "arXiv 2410.09982"
    attempts: ClassVar[int] = 1
    error: Share = 0.2

    def law(self, given: Prompts) -> np.ndarray:
        return _accepted(given, self.error, self.attempts)

    def taken(
        self, right: Bool[np.ndarray, "n N"], coins: Float[np.ndarray, "n N"]
    ) -> Int[np.ndarray, " n"]:
        accepted = right | (coins < self.error)
        return np.where(accepted.any(axis=1), accepted.argmax(axis=1), -1)


@dataclass(frozen=True, kw_only=True)
class S3Ft(SelfDistillation):
    """As self-distillation, with a second attempt before the demonstration is taken.

    Attributes
    ----------
    error
        As for :class:`SelfDistillation`.

    Notes
    -----
    Card S01, after a second-hand description. The published second attempt sees the demonstration
    and says it in other words; here it is another draw. Costs up to two responses for each row.
    """

    name: ClassVar[str] = "s3ft"
    title: ClassVar[str] = "S3FT"
    source: ClassVar[str] = "arXiv 2502.08130"
    attempts: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class OwnSamples(Written):
    """The policy's own responses at a temperature, without the unlikely ones, in place of all rows.

    Attributes
    ----------
    temperature
        Of the draws; positive.
    top
        Share of the probability that is kept, from the likeliest response on, or from the likeliest
        token where responses are drawn; in (0, 1].

    Notes
    -----
    Card J51, after a second-hand description. No response is judged. At temperature 1 with all
    responses the first slope is zero on average. The published bound of 20 tokens is not here.
    Costs a response for each row, once.
    """

    name: ClassVar[str] = "own_samples"
    title: ClassVar[str] = "own samples"
    source: ClassVar[str] = "arXiv 2604.01193"
    attempts: ClassVar[int] = 1
    temperature: Positive = 0.6
    top: KeptShare = 0.95

    @property
    def drawn_at(self) -> tuple[float, float]:
        return self.temperature, self.top

    def law(self, given: Prompts) -> np.ndarray:
        found = softmax(given.log_probs / self.temperature)
        order = np.argsort(-found, axis=1, kind="stable")
        ordered = np.take_along_axis(found, order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered
        kept = np.zeros(found.shape, dtype=bool)
        np.put_along_axis(kept, order, before < self.top - 1e-12, axis=1)
        return np.where(kept, found, 0.0)


@dataclass(frozen=True, kw_only=True)
class ShownTeacher(Written):
    """Responses of the policy after it was shown the demonstration.

    To be shown a response multiplies its odds by ``exp(strength)``.

    Attributes
    ----------
    strength
        In nats, not negative. 0: the policy's own responses. Large: SFT.

    Notes
    -----
    Card S21, a transfer of an abstract. Card J50, after a second-hand description: its forward
    form, over all responses in place of the student's draws. One turn of card S21 has this law,
    too. Costs a response for each row, once.
    """

    name: ClassVar[str] = "sdft"
    title: ClassVar[str] = "SDFT"
    source: ClassVar[str] = "arXiv 2601.19897"
    strength: NotNegative = 2.0

    def law(self, given: Prompts) -> np.ndarray:
        return softmax(given.log_probs + self.strength * given.gold)


@dataclass(frozen=True, kw_only=True)
class PseudoLabels(Written):
    """The policy's likeliest response where it is sure enough, else the demonstration.

    Attributes
    ----------
    sure
        Least probability of that response, in [0, 1]; 1 is all but SFT.

    Notes
    -----
    Cards S50 and, in its second part, S44; transfers of abstracts. The labels come from the policy
    before training. Costs a response for each row, once.
    """

    name: ClassVar[str] = "pseudo_labels"
    title: ClassVar[str] = "pseudo-labels"
    source: ClassVar[str] = "arXiv 2011.09031"
    sure: Share = 0.5

    def law(self, given: Prompts) -> np.ndarray:
        return np.where(_sure(given, self.sure), _likeliest(given), given.gold)


@dataclass(frozen=True, kw_only=True)
class Clear(Written):
    """Leaves out demonstrations that the policy finds unlikely, or corrects them where it is sure.

    Attributes
    ----------
    share
        Share of the demonstrations that is left out, from the least likely one on; in [0, 1).
    sure
        Probability of another response from which on it replaces one that is left out, in [0, 1].

    Notes
    -----
    Card S34, after a second-hand description. Probabilities stand for the agreement of resampled
    answers and for the policy's own judgement. The published threshold is the median, a share of
    1/2. Costs a forward pass of each row, once.
    """

    name: ClassVar[str] = "clear"
    title: ClassVar[str] = "CLEAR"
    source: ClassVar[str] = "arXiv 2403.12776"
    share: BelowOne = 0.25
    sure: Share = 0.8

    def law(self, given: Prompts) -> np.ndarray:
        own = given.log_probs[np.arange(len(given.own)), given.own]
        order = np.argsort(own, kind="stable")
        doubtful = np.zeros((len(own), 1), dtype=bool)
        doubtful[order[: round(self.share * len(own))]] = True
        corrected = np.where(_sure(given, self.sure), _likeliest(given), 0.0)
        return np.where(doubtful, corrected, given.gold)


@dataclass(frozen=True, kw_only=True)
class Strata(Written):
    """Demonstrations weighted so that prompts with many of them do not count for all.

    Attributes
    ----------
    temperature
        T, at least 1: a prompt of n demonstrations counts as ``n ** (1 / T)``. 1 is SFT, and large
        values make all prompts alike.

    Notes
    -----
    Card S53, a transfer of an abstract, with prompts for its tasks. Costs nothing more.
    """

    name: ClassVar[str] = "strata"
    title: ClassVar[str] = "even prompts"
    source: ClassVar[str] = "arXiv 2407.07094"
    asks: ClassVar[tuple[int, ...]] = ()
    temperature: Annotated[float, Within(1, 1e6)] = 2.0

    def law(self, given: Prompts) -> np.ndarray:
        counts = np.bincount(given.prompts)[given.prompts]
        return given.gold * (counts ** (1 / self.temperature - 1))[:, None]


@dataclass(frozen=True, kw_only=True)
class GotD(Written):
    """The demonstrations that bring their law nearest to that of the chosen responses.

    Near in the sense of optimal transport between features of length one, with costs of squared
    distances; the slope of that cost in the weight of each demonstration decides.

    Attributes
    ----------
    share
        Share of the demonstrations that is kept, in (0, 1].
    entropy
        Strength of the regularisation of the transport; positive.
    rounds
        Iterations of its solution by Sinkhorn's algorithm.

    Notes
    -----
    Card S39. Costs a forward pass of each row, once.
    """

    name: ClassVar[str] = "got_d"
    title: ClassVar[str] = "GOT-D"
    source: ClassVar[str] = "arXiv 2405.02774"
    asks: ClassVar[tuple[int, ...]] = ()
    share: KeptShare = 0.5
    entropy: Positive = 0.1
    rounds: Count = 200

    def law(self, given: Prompts) -> np.ndarray:
        slopes = self.slopes(given.features, given.wanted)
        kept = np.zeros((len(slopes), 1), dtype=bool)
        kept[share_of(slopes, self.share)] = True
        return np.where(kept, given.gold, 0.0)

    def slopes(self, features: np.ndarray, wanted: np.ndarray) -> Float[np.ndarray, " n"]:
        """Slopes (n,) of the cost in the weight of each row, the other weights kept in ratio."""
        first, second = (
            x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
            for x in (features, wanted)
        )
        kernel = -((first[:, None] - second[None]) ** 2).sum(axis=2) / self.entropy
        left, right = np.zeros(len(first)), np.zeros(len(second))
        for _ in range(self.rounds):
            left = -_log_mean(kernel + right[None], axis=1)
            right = -_log_mean(kernel + left[:, None], axis=0)
        potential, n = self.entropy * left, len(left)
        return np.asarray(potential - (potential.sum() - potential) / max(1, n - 1))


@dataclass(frozen=True, kw_only=True)
class Spin(Written):
    """Pairs of each demonstration and the policy's own response, in place of the pairs.

    Notes
    -----
    Card J33, of one round: the policy before training is the reference and writes what is rejected.
    Draws of the demonstration itself are left out. Demonstrations stay as they are. The first slope
    is a multiple of that of SFT. Costs a response for each row, once.
    """

    name: ClassVar[str] = "spin"
    title: ClassVar[str] = "SPIN"
    source: ClassVar[str] = "arXiv 2401.01335"
    pairs: ClassVar[bool] = True
    attempts: ClassVar[int] = 1

    def law(self, given: Prompts) -> np.ndarray:
        """Weights of what is rejected."""
        return softmax(given.log_probs)


def _accepted(given: Prompts, error: float, attempts: int) -> np.ndarray:
    """Own responses that a judge accepts within some attempts, else the demonstration."""
    own, gold = softmax(given.log_probs), given.gold
    passed = own * np.where(gold > 0, 1.0, error)
    rest = 1 - passed.sum(axis=1, keepdims=True)
    found = sum(rest**k * passed for k in range(attempts))
    return np.asarray(found + np.maximum(rest, 0.0) ** attempts * gold)


def _likeliest(given: Prompts) -> np.ndarray:
    return np.eye(given.log_probs.shape[1])[given.log_probs.argmax(axis=1)]


def _sure(given: Prompts, least: float) -> np.ndarray:
    return np.asarray(softmax(given.log_probs).max(axis=1, keepdims=True) >= least)


def _log_mean(values: np.ndarray, axis: int) -> np.ndarray:
    peak = values.max(axis=axis, keepdims=True)
    return np.asarray(np.squeeze(peak, axis) + np.log(np.exp(values - peak).mean(axis=axis)))
