"""Rules that decide which objective each update follows.

A schedule is a small frozen dataclass whose :meth:`Schedule.plan` lays out, for a run of given
length, what happens at every update. A plan knows three rules only: draw an objective at random,
follow both, or follow the one with the larger weighted gap. That is enough for every method of
arXiv 2410.15483 and lets one schedule object drive compiled kernels, small networks and language
models alike.

Throughout, index 0 is SFT and index 1 is the preference objective, and ``lam`` is the weight of
the PREFERENCE objective.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from tradeoff.errors import InputError

SFT, PREFERENCE = 0, 1
OBJECTIVES = ("sft", "preference")


class Rule(IntEnum):
    """How an update picks the objective it follows."""

    DRAW = 0
    BOTH = 1
    LARGER_GAP = 2


@dataclass(frozen=True)
class GapValues:
    """Where a LARGER_GAP rule takes its loss values from.

    Attributes
    ----------
    weights
        (SFT, preference) weights of the gaps that are compared.
    refresh
        Both values are evaluated anew every ``refresh`` updates; ``None``: only at the first.
        Between refreshes the chosen objective's value is kept current (its loss has just been
        computed), the other one goes stale.
    samples
        Data points per estimate of a loss value; 0 means the exact mean over all data.
    optimum_error
        Added to the true minimum of (SFT, preference) before the gap is formed.
    """

    weights: tuple[float, float] = (0.5, 0.5)
    refresh: int | None = 1
    samples: int = 0
    optimum_error: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Plan:
    """What a schedule does at each of T updates.

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
        Settings of the LARGER_GAP rule; ignored by the others.
    """

    rule: Rule
    probability: Float[np.ndarray, " T"]
    weights: Float[np.ndarray, "T 2"]
    clock: Int[np.ndarray, " T"]
    gaps: GapValues = GapValues()

    def __len__(self) -> int:
        return len(self.probability)

    def follow(
        self, step: int, uniform: ArrayLike, gaps: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Gradient weights of one update.

        Parameters
        ----------
        step
            Index of the update, from 0.
        uniform
            Draws in [0, 1), any shape ``(...)``: one per run. Used by DRAW.
        gaps
            (..., 2) known optimality gaps of the runs. Used by LARGER_GAP.

        Returns
        -------
        ndarray, shape (..., 2)
            The update direction is ``w[0] * grad f_SFT + w[1] * grad f_preference``; an
            objective whose weight is zero is not evaluated.
        """
        uniform = np.asarray(uniform)
        if self.rule is Rule.BOTH:
            return np.broadcast_to(self.weights[step], (*uniform.shape, 2)).copy()
        preference = self.choose(step, uniform, gaps)
        chosen = np.stack([~preference, preference], axis=-1)
        return np.asarray(np.where(chosen, self.weights[step], 0.0))

    def choose(
        self, step: int, uniform: ArrayLike, gaps: ArrayLike | None = None
    ) -> NDArray[np.bool_]:
        """Whether each run follows the preference objective; not for the rule BOTH."""
        if self.rule is Rule.DRAW:
            return np.asarray(np.asarray(uniform) < self.probability[step])
        weighted = np.asarray(gaps) * self.gaps.weights
        return np.asarray(weighted[..., PREFERENCE] > weighted[..., SFT])

    def cost(self, sft: float = 1.0, preference: float = 1.0) -> NDArray[np.float64]:
        """(T,) expected gradient cost of each update; LARGER_GAP counts the dearer objective."""
        if self.rule is Rule.BOTH:
            return np.full(len(self), float(sft + preference))
        if self.rule is Rule.LARGER_GAP:
            return np.full(len(self), float(max(sft, preference)))
        return np.asarray(self.probability * preference + (1 - self.probability) * sft)


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Base of all schedules.

    Attributes
    ----------
    lam
        Weight of the preference objective, in [0, 1].
    """

    name: ClassVar[str]
    lam: float = 0.5

    def __post_init__(self) -> None:
        _check_unit_interval("lam", self.lam)

    @abstractmethod
    def plan(self, steps: int) -> Plan:
        """Lay out a run of ``steps`` updates."""

    @property
    def label(self) -> str:
        """Name for legends, without ``lam``."""
        return self.name

    @property
    def family(self) -> str:
        """Name for runs taken together: the label, without numbers that vary within a method."""
        return self.label

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description; :func:`from_dict` restores the schedule."""
        return {"name": self.name, **asdict(self)}

    def _plan(
        self,
        steps: int,
        rule: Rule,
        *,
        probability: ArrayLike = 0.0,
        weights: tuple[float, float] = (1.0, 1.0),
        clock: NDArray[np.int64] | None = None,
        gaps: GapValues | None = None,
    ) -> Plan:
        _check_whole("steps", steps, 1, "A run needs at least one update.")
        return Plan(
            rule=rule,
            probability=np.broadcast_to(np.asarray(probability, dtype=float), (steps,)),
            weights=np.broadcast_to(np.asarray(weights, dtype=float), (steps, 2)),
            clock=np.arange(1, steps + 1) if clock is None else clock,
            gaps=gaps or GapValues(),
        )


@dataclass(frozen=True, kw_only=True)
class Sequential(Schedule):
    """One objective, then the other: the common practice whose forgetting is at issue.

    Attributes
    ----------
    first
        Objective of the first stage, "sft" or "preference".
    share
        Fraction of the updates given to the first stage, in [0, 1].
    replay
        Probability that an update of the second stage follows the first stage's objective
        instead, in [0, 1]: the usual remedy for forgetting.
    """

    name: ClassVar[str] = "sequential"
    first: Literal["sft", "preference"] = "sft"
    share: float = 0.5
    replay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_unit_interval("share", self.share)
        _check_unit_interval("replay", self.replay)
        if self.first not in OBJECTIVES:
            raise InputError(
                "unknown first stage", field="first", value=self.first, remedy=f"Use {OBJECTIVES}."
            )

    @property
    def label(self) -> str:
        order = "SFT→DPO" if self.first == "sft" else "DPO→SFT"
        return f"{order} (replay)" if self.replay else order

    def plan(self, steps: int) -> Plan:
        boundary = round(self.share * steps)
        first_stage = np.arange(steps) < boundary
        followed = np.where(first_stage, 1.0, self.replay)
        preference = followed if self.first == "preference" else 1 - followed
        clock = np.concatenate([np.arange(boundary), np.arange(steps - boundary)]) + 1
        return self._plan(steps, Rule.DRAW, probability=preference, clock=clock)


@dataclass(frozen=True, kw_only=True)
class Mix(Schedule):
    """Follow the weighted sum of both gradients at every update."""

    name: ClassVar[str] = "mix"

    @property
    def label(self) -> str:
        return "Mix"

    def plan(self, steps: int) -> Plan:
        return self._plan(steps, Rule.BOTH, weights=(1 - self.lam, self.lam))


@dataclass(frozen=True, kw_only=True)
class Alright(Schedule):
    """Alternate at random: the preference objective with probability ``lam``, else SFT.

    Attributes
    ----------
    probability
        Draw the preference objective with this probability instead and scale the gradients by
        ``lam / probability`` and ``(1 - lam) / (1 - probability)``, which keeps the update
        unbiased for f_lambda. :func:`tradeoff.theory.joint.optimal_probability` gives the value
        that is best for a compute budget. ``None`` means ``lam``: Algorithm 1 of the paper.
    """

    name: ClassVar[str] = "alright"
    probability: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probability is None:
            return
        _check_unit_interval("probability", self.probability)
        if (self.probability == 0 < self.lam) or (self.probability == 1 > self.lam):
            raise InputError(
                f"an objective with positive weight is never drawn at lam={self.lam}",
                field="probability",
                value=self.probability,
                remedy="Use a probability strictly between 0 and 1.",
            )

    @property
    def label(self) -> str:
        return "ALRIGHT" if self.probability is None else "ALRIGHT (budget)"

    def plan(self, steps: int) -> Plan:
        p = self.lam if self.probability is None else self.probability
        weights = (_ratio(1 - self.lam, 1 - p), _ratio(self.lam, p))
        return self._plan(steps, Rule.DRAW, probability=p, weights=weights)


@dataclass(frozen=True, kw_only=True)
class Maxright(Schedule):
    """Follow the objective whose weighted gap is larger (ties go to SFT).

    Attributes
    ----------
    refresh, samples, optimum_error
        Where the compared values come from, see :class:`GapValues`.
    weighted
        Step along the weighted gradient, as the subgradient method on F_lambda does. ``False``
        is the official code: the chosen gradient is not weighted.
    """

    name: ClassVar[str] = "maxright"
    refresh: int | None = 1
    samples: int = 0
    weighted: bool = True
    optimum_error: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refresh is not None:
            _check_whole("refresh", self.refresh, 1, "It counts updates; None stands for never.")
        _check_whole("samples", self.samples, 0, "It counts data points; 0 stands for all.")
        if not isinstance(self.weighted, bool | np.bool_):
            raise InputError(
                "neither true nor false",
                field="weighted",
                value=self.weighted,
                remedy="Use True for weighted gradients, False for the official code's.",
            )
        errors = self.optimum_error
        if not (isinstance(errors, tuple) and len(errors) == 2 and all(map(_finite, errors))):
            raise InputError(
                "not a pair of finite numbers",
                field="optimum_error",
                value=errors,
                remedy="Give one number for SFT and one for preference, such as (0.1, 0.0).",
            )

    @property
    def label(self) -> str:
        every = "never" if self.refresh is None else str(self.refresh)
        return self.family if self.refresh == 1 else f"{self.family} (k={every})"

    @property
    def family(self) -> str:
        return "MAXRIGHT"

    def plan(self, steps: int) -> Plan:
        pair = (1 - self.lam, self.lam)
        values = GapValues(pair, self.refresh, self.samples, self.optimum_error)
        weights = pair if self.weighted else (1.0, 1.0)
        return self._plan(steps, Rule.LARGER_GAP, weights=weights, gaps=values)


SCHEDULES: dict[str, type[Schedule]] = {
    cls.name: cls for cls in (Sequential, Mix, Alright, Maxright)
}
"""Every schedule by its name; a new one is a class above and a place in this row."""


def from_dict(description: Mapping[str, Any]) -> Schedule:
    """Restore a schedule from :meth:`Schedule.to_dict`.

    Raises
    ------
    InputError
        If the name or a setting is unknown, or a value cannot be used.
    """
    if not isinstance(description, Mapping):
        raise InputError(
            "a schedule is described by its name and settings",
            value=description,
            remedy='Use a mapping such as {"name": "mix", "lam": 0.5}.',
        )
    settings = dict(description)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in SCHEDULES:
        raise InputError(
            "unknown schedule", field="name", value=name, remedy=f"Use one of {sorted(SCHEDULES)}."
        )
    known = {f.name for f in fields(SCHEDULES[name])}
    if unknown := sorted(set(settings) - known):
        raise InputError(
            f"schedule {name!r} has no setting of this name",
            field=unknown[0],
            value=settings[unknown[0]],
            remedy=f"Use some of {sorted(known)}.",
        )
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return SCHEDULES[name](**settings)


def _ratio(weight: float, probability: float) -> float:
    """``weight / probability``, 0 where the objective is neither wanted nor drawn."""
    return weight / probability if probability > 0 else 0.0


def _finite(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and bool(-math.inf < value < math.inf)


def _check_unit_interval(name: str, value: Any) -> None:
    if not (_finite(value) and 0 <= value <= 1):
        raise InputError(
            "not a number in [0, 1]",
            field=name,
            value=value,
            remedy=f"{name} must lie in [0, 1].",
        )


def _check_whole(name: str, value: Any, least: int, meaning: str) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise InputError(
            f"not a whole number of at least {least}", field=name, value=value, remedy=meaning
        )
