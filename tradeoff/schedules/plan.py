"""The plan of a run: which objective each update follows, with its gradient weights and clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray

from tradeoff.errors import InputError
from tradeoff.settings import Within, fit

SFT, PREFERENCE = 0, 1
OBJECTIVES = ("sft", "preference")
FORWARD = 1 / 3
"""Cost of a loss in gradients: a forward pass alone, as a backward pass costs twice as much."""
Decay = Annotated[float, Within(0, 100)] | Literal["constant", "linear", "cosine"]
"""Decay of the step size over a stage, see :func:`step_shares`."""


class Rule(IntEnum):
    """How an update selects the objective that it follows."""

    DRAW = 0
    BOTH = 1
    LARGER_GAP = 2
    WITHIN_LIMIT = 3
    SMOOTH_GAP = 4


@dataclass(frozen=True)
class GapValues:
    """How the rules LARGER_GAP, SMOOTH_GAP and WITHIN_LIMIT compute loss values.

    Attributes
    ----------
    weights
        (SFT, preference) weights of the gaps that LARGER_GAP and SMOOTH_GAP compare.
    refresh
        Updates between refreshes, at which the values are evaluated anew; ``None``: only the first
        update evaluates them. Between refreshes the value of the chosen objective is kept current,
        because the update computes its loss. The value of the other one becomes stale.
        WITHIN_LIMIT evaluates the SFT loss alone.
    samples
        Data points per estimate of a loss value; 0 means the exact mean over all data.
    optimum_error
        Errors added to the true minima of (SFT, preference) before the gaps are computed.
    limit
        Largest known gap of SFT, in nats, at which WITHIN_LIMIT follows the preference objective.
    relative
        ``limit`` is a share of the SFT gap at the start of the run, not a number of nats.
    temperature
        In nats: SMOOTH_GAP draws nearly by the weights alone if weighted gaps differ by much less,
        and follows the larger one if they differ by much more.
    """

    weights: tuple[float, float] = (0.5, 0.5)
    refresh: int | None = 1
    samples: int = 0
    optimum_error: tuple[float, float] = (0.0, 0.0)
    limit: float = float("inf")
    relative: bool = False
    temperature: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The T updates of a run, as a schedule describes them.

    Attributes
    ----------
    rule
        One :class:`Rule` for the whole run.
    probability
        (T,) probability of following the preference objective where the rule is DRAW.
    weights
        (T, 2) factor of each objective's gradient in an update that follows it.
    clock
        (T,) number of the update within its stage, from 1. Step sizes and averages restart
        where the clock does.
    gaps
        Settings of the rules that evaluate losses; not used by the others.
    both
        (T,) whether an update follows both objectives although the rule is DRAW; ``None``: no
        update does.
    """

    rule: Rule
    probability: Float[np.ndarray, " T"]
    weights: Float[np.ndarray, "T 2"]
    clock: Int[np.ndarray, " T"]
    gaps: GapValues = GapValues()
    both: Bool[np.ndarray, " T"] | None = None

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        if not isinstance(self.rule, Rule):
            remedy = "Use a member of tradeoff.schedules.Rule, such as Rule.DRAW."
            raise InputError("not a rule", field="rule", value=self.rule, remedy=remedy)
        updates = np.size(self.probability)
        shapes = {"probability": (updates,), "weights": (updates, 2), "clock": (updates,)}
        for name, shape in {**shapes, "both": (updates,)}.items():
            found = getattr(self, name)
            if found is not None and np.shape(found) != shape:
                raise InputError(
                    f"a plan of {updates} updates needs the shape {shape}",
                    field=name,
                    value=np.shape(found),
                    remedy="Give an entry for each update.",
                )

    def _check_values(self) -> None:
        clock = np.asarray(self.clock)
        follows = clock == np.concatenate([[0], clock[:-1]]) + 1
        wrong = {
            "probability": ~((self.probability >= 0) & (self.probability <= 1)),
            "weights": ~np.isfinite(self.weights).all(axis=1),
            "clock": ~follows & ((clock != 1) | (np.arange(len(clock)) == 0)),
        }
        remedies = {
            "probability": "Give a probability in [0, 1].",
            "weights": "Give finite factors of both gradients.",
            "clock": "Count the updates of a stage from 1.",
        }
        for name, bad in wrong.items():
            if bad.any():
                row = int(np.argmax(bad))
                raise InputError(
                    "a plan cannot be run with this value",
                    row=row + 1,
                    field=name,
                    value=np.asarray(getattr(self, name))[row].tolist(),
                    remedy=remedies[name],
                )

    def __len__(self) -> int:
        return len(self.probability)

    @cached_property
    def together(self) -> Bool[np.ndarray, " T"]:
        """(T,) whether each update follows both objectives."""
        if self.both is not None:
            return self.both
        return np.full(len(self), self.rule is Rule.BOTH)

    @cached_property
    def stages(self) -> int:
        """Number of stages; one begins where the clock is 1."""
        return int(np.count_nonzero(self.clock == 1))

    @cached_property
    def stage(self) -> Int[np.ndarray, " T"]:
        """(T,) number of the stage of each update, from 0."""
        return np.cumsum(self.clock == 1) - 1

    @cached_property
    def lengths(self) -> Int[np.ndarray, " T"]:
        """(T,) number of updates in the stage of each update."""
        return stage_lengths(self.clock)

    @property
    def watched(self) -> tuple[int, ...]:
        """Objectives whose loss values the rule evaluates."""
        if self.rule in (Rule.LARGER_GAP, Rule.SMOOTH_GAP):
            return (SFT, PREFERENCE)
        return (SFT,) if self.rule is Rule.WITHIN_LIMIT else ()

    def allowed(self, base: ArrayLike | None = None) -> NDArray[np.float64]:
        """Largest gap of SFT at which WITHIN_LIMIT follows the preference objective, in nats.

        Parameters
        ----------
        base
            (...) gaps of SFT at the start of the runs; a relative limit is a share of them.
        """
        if not self.gaps.relative:
            return np.asarray(self.gaps.limit, dtype=float)
        return np.asarray(self.gaps.limit * np.maximum(np.asarray(base, dtype=float), 0.0))

    def follow(
        self,
        step: int,
        uniform: ArrayLike,
        gaps: ArrayLike | None = None,
        base: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Gradient weights of one update.

        Parameters
        ----------
        step
            Index of the update, from 0.
        uniform
            Draws in [0, 1), any shape ``(...)``: one per run. Used by DRAW and SMOOTH_GAP.
        gaps
            (..., 2) known optimality gaps of the runs. Used by the rules that evaluate losses.
        base
            (...) gaps of SFT at the start of the runs. Used by a relative limit.

        Returns
        -------
        ndarray, shape (..., 2)
            The update direction is ``w[0] * grad f_SFT + w[1] * grad f_preference``; an
            objective whose weight is zero is not evaluated, unless a gradient rule joins both.
        """
        uniform = np.asarray(uniform)
        if self.together[step]:
            return np.broadcast_to(self.weights[step], (*uniform.shape, 2)).copy()
        preference = self.choose(step, uniform, gaps, base)
        chosen = np.stack([~preference, preference], axis=-1)
        return np.asarray(np.where(chosen, self.weights[step], 0.0))

    def choose(
        self,
        step: int,
        uniform: ArrayLike,
        gaps: ArrayLike | None = None,
        base: ArrayLike | None = None,
    ) -> NDArray[np.bool_]:
        """Whether each run follows the preference objective, for an update that follows one."""
        if self.rule is Rule.DRAW:
            return np.asarray(np.asarray(uniform) < self.probability[step])
        if self.rule is Rule.WITHIN_LIMIT:
            # A gap that is not a number is not within the limit.
            return np.asarray(np.asarray(gaps)[..., SFT] <= self.allowed(base))
        if self.rule is Rule.SMOOTH_GAP:
            pulls = self.pulls(np.asarray(gaps))
            # The division is left out, as a kernel compares the same product.
            return np.asarray(np.asarray(uniform) * pulls.sum(-1) < pulls[..., PREFERENCE])
        weighted = np.asarray(gaps) * self.gaps.weights
        return np.asarray(weighted[..., PREFERENCE] > weighted[..., SFT])

    def pulls(self, gaps: ArrayLike) -> NDArray[np.float64]:
        """Factors of both gradients in that of the smooth maximum of the weighted gaps.

        Parameters
        ----------
        gaps
            (..., 2) known optimality gaps.

        Returns
        -------
        ndarray, shape (..., 2)
            ``weight_i * exp(weight_i gap_i / t) / sum_j exp(weight_j gap_j / t)``, with the
            temperature t. SMOOTH_GAP draws objectives in proportion to them.
        """
        pair = np.asarray(self.gaps.weights)
        sizes = np.asarray(gaps) * pair / self.gaps.temperature
        with np.errstate(invalid="ignore"):  # A run that diverged has losses without end.
            powers = np.exp(sizes - sizes.max(axis=-1, keepdims=True))
        return np.asarray(pair * powers / powers.sum(axis=-1, keepdims=True))

    def kinds(self, step: int = 0) -> list[tuple[float, NDArray[np.float64]]]:
        """Probability and (2,) gradient weights of each kind of one update.

        Raises
        ------
        InputError
            If the rule evaluates losses, so that no probability is known.
        """
        if self.watched:
            raise InputError(
                "what an update follows depends on the losses",
                field="rule",
                value=self.rule.name,
                remedy="Use a schedule that draws an objective or follows both.",
            )
        if self.together[step]:
            return [(1.0, np.array(self.weights[step]))]
        p, weights = float(self.probability[step]), self.weights[step]
        return [(1 - p, weights * [1.0, 0.0]), (p, weights * [0.0, 1.0])]

    def cost(self, sft: float = 1.0, preference: float = 1.0) -> NDArray[np.float64]:
        """(T,) expected gradient cost of each update.

        For rules that evaluate losses it is the cost of the costlier objective, without the cost of
        these evaluations.
        """
        one = self.probability * preference + (1 - self.probability) * sft
        if self.watched:
            one = np.full(len(self), float(max(sft, preference)))
        return np.where(self.together, float(sft + preference), one)


def stage_lengths(clock: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """Length of the stage of each update; a stage begins where the clock is 1."""
    starts = np.flatnonzero(clock == 1)
    sizes = np.diff(np.append(starts, len(clock)))
    return np.repeat(sizes, sizes)


def step_shares(clock: Int[np.ndarray, " T"], decay: Decay) -> Float[np.ndarray, " T"]:
    """Step size of each update, as a share of the first step size of its stage.

    Parameters
    ----------
    clock
        Number of each update within its stage, from 1, see :class:`Plan`.
    decay
        A number a: ``clock**-a``, so 0 is constant and 0.5 the classical 1/sqrt(t). "linear":
        ``(N + 1 - clock) / N`` in a stage of N updates, the linear decay to zero of trainers.
        "cosine": half a wave over the stage. "constant": 0.
    """
    if decay == "constant":
        return np.ones(len(clock))
    if isinstance(decay, str):
        lengths = stage_lengths(clock)
        if decay == "linear":
            return np.asarray((lengths + 1 - clock) / lengths)
        return np.asarray((1 + np.cos(np.pi * (clock - 1) / lengths)) / 2)
    return np.asarray(clock.astype(float) ** -decay)


def check_decay(decay: Any) -> None:
    """Raise an `InputError` unless a decay is the name of a shape or a number, not negative."""
    fit(Decay, decay, "decay")
