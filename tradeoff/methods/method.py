"""A method: a schedule and named slots, each of which changes nothing by default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.methods.after import AFTER, After, LastIterate
from tradeoff.methods.anchors import ANCHORS, Anchor, NoAnchor
from tradeoff.methods.gradients import GRADIENT_RULES, GradientRule, WeightedSum
from tradeoff.methods.hooks import Hook, moment_of
from tradeoff.methods.losses import (
    PREFERENCE_LOSSES,
    SFT_LOSSES,
    Nll,
    Nominal,
    PreferenceLoss,
    SftLoss,
)
from tradeoff.methods.merges import MERGES, Merge, NoMerge
from tradeoff.methods.parameters import PARAMETERS, EveryParameter, Parameters
from tradeoff.methods.transforms import TRANSFORMS, EveryRow, Transform
from tradeoff.parts import SCALES, Part, restore
from tradeoff.schedules import FORWARD, SCHEDULES, Plan, Schedule

KNOWN: dict[str, Mapping[str, type[Part]]] = {
    "schedule": SCHEDULES,
    "data": TRANSFORMS,
    "sft": SFT_LOSSES,
    "preference": PREFERENCE_LOSSES,
    "gradient": GRADIENT_RULES,
    "anchor": ANCHORS,
    "parameters": PARAMETERS,
    "after": AFTER,
    "merge": MERGES,
}
"""Parts of this package by slot, then by name."""
IDENTITY: dict[str, Part] = {
    "data": EveryRow(),
    "sft": Nll(),
    "preference": Nominal(),
    "gradient": WeightedSum(),
    "anchor": NoAnchor(),
    "parameters": EveryParameter(),
    "after": LastIterate(),
    "merge": NoMerge(),
}
"""The part of each slot that changes nothing."""
MANY = 1024
"""Updates of a plan that is laid out to see whether a schedule has stages."""
TRIES = 8
"""Plans laid out to find how many updates a budget pays for."""


@dataclass(frozen=True)
class Method:
    """What is compared: which objective is followed, with which losses, and how gradients join.

    Attributes
    ----------
    schedule
        Which objective each update follows.
    name
        For tables; made of the parts by default.
    data
        Which training rows are used; all by default.
    sft
        Loss of demonstrations that is trained; negative log-likelihood by default.
    preference
        Loss of pairs that is trained; that of the problem by default.
    gradient
        How both gradients join in updates that follow both; their weighted sum by default.
    anchor
        Penalty that holds the weights near earlier ones; none by default.
    parameters
        Which weights move; all by default.
    after
        What is kept beside the weights while training; nothing by default.
    merge
        How the ends of two branches become one policy; no branches by default.

    Examples
    --------
    >>> from tradeoff.methods.gradients import PcGrad
    >>> from tradeoff.schedules import Mix
    >>> Method(Mix(lam=0.3), gradient=PcGrad()).label
    'Mix, PCGrad'
    """

    schedule: Schedule
    name: str = field(default="", kw_only=True)
    data: Transform = field(default=EveryRow(), kw_only=True)
    sft: SftLoss = field(default=Nll(), kw_only=True)
    preference: PreferenceLoss = field(default=Nominal(), kw_only=True)
    gradient: GradientRule = field(default=WeightedSum(), kw_only=True)
    anchor: Anchor = field(default=NoAnchor(), kw_only=True)
    parameters: Parameters = field(default=EveryParameter(), kw_only=True)
    after: After = field(default=LastIterate(), kw_only=True)
    merge: Merge | NoMerge = field(default=NoMerge(), kw_only=True)

    @classmethod
    def of(cls, given: Method | Schedule) -> Method:
        """The method itself, or that of a schedule alone."""
        return given if isinstance(given, Method) else cls(given)

    @property
    def lam(self) -> float:
        """Weight of the preference objective."""
        return self.schedule.lam

    @property
    def key(self) -> str:
        """The given name, else the keys of the schedule and of the changed parts, joined by +."""
        parts = [part.key for part in self.changed().values()]
        return self.name or "+".join([self.schedule.key, *parts])

    @property
    def label(self) -> str:
        """Name for legends, without ``lam``."""
        return self.name or ", ".join([self.schedule.label, *self._changes])

    @property
    def family(self) -> str:
        """Name for runs taken together: the label, without numbers that vary within a method."""
        return self.name or ", ".join([self.schedule.family, *self._changes])

    @property
    def _changes(self) -> list[str]:
        return [part.label for part in self.changed().values()]

    def settings(self) -> dict[str, Any]:
        """Settings by dotted name, such as ``gradient.mu``, without ``lam``."""
        found: dict[str, Any] = {}
        for slot, part in self.at(0.5).to_dict().items():
            given = part if isinstance(part, dict) else {"": part}
            found |= {f"{slot}.{name}".rstrip("."): value for name, value in given.items()}
        return found

    def changed(self) -> dict[str, Part]:
        """Parts that change something, by slot; not the schedule."""
        parts = {slot: getattr(self, slot) for slot in IDENTITY}
        return {slot: part for slot, part in parts.items() if part != IDENTITY[slot]}

    @property
    def plain(self) -> bool:
        """Whether every slot is its identity, so that the schedule is all there is."""
        return not self.changed()

    @property
    def hooks(self) -> dict[str, Hook]:
        """Parts that act on weights or gradients around each update, by slot."""
        return {slot: part for slot, part in self.changed().items() if isinstance(part, Hook)}

    @property
    def plain_losses(self) -> bool:
        """Whether the losses that are trained are those that are scored, of all rows."""
        return not self.changed().keys() & {"data", "sft", "preference"}

    @property
    def by_token(self) -> bool:
        """Whether it looks at single tokens, so that responses of one token are not its place."""
        parts = self.data, self.sft, self.preference, self.parameters
        return any(part.by_token for part in parts)

    def at(self, lam: float) -> Method:
        """The same method at another weight of the preference objective, in [0, 1]."""
        return replace(self, **{slot: getattr(self, slot).at(lam) for slot in KNOWN})

    def plan(self, steps: int) -> Plan:
        """What the schedule does in a run of ``steps`` updates.

        Raises
        ------
        InputError
            If the schedule lays out another number of updates; if a gradient rule is given and the
            schedule never follows both objectives in one update; or if the schedule looks at losses
            that are not those that are trained.
        """
        plan: Any = self.schedule.plan(steps)
        if not isinstance(plan, Plan) or len(plan) != steps:
            length = f"{len(plan)} updates" if isinstance(plan, Plan) else type(plan).__name__
            raise InputError(
                f"the plan of {self.schedule.label} is not a Plan of {steps} updates",
                field="schedule",
                value=length,
                remedy="Return self._plan(steps, ...) from the schedule's plan(steps).",
            )
        if "gradient" in self.changed() and not plan.together.any():
            raise InputError(
                f"{self.schedule.label} never follows both objectives in one update",
                field="gradient",
                value=self.gradient.name,
                remedy="Use a schedule that does, such as Mix, or no gradient rule.",
            )
        self._check_stages(plan)
        if plan.watched and not self.plain_losses:
            raise InputError(
                f"{self.schedule.label} compares the losses that are scored, not those trained",
                field="schedule",
                value=self.schedule.name,
                remedy="Use the losses of the problem, or a schedule that looks at none.",
            )
        return plan

    def _check_stages(self, plan: Plan) -> None:
        """An `InputError` if a hook needs stages, or a merge branches, and there are none."""
        for slot, hook in self.hooks.items():
            if hook.staged and self.schedule.at(0.5).plan(MANY).stages < 2:
                raise InputError(
                    f"{self.schedule.label} has no stages",
                    field=slot,
                    value=hook.name,
                    remedy="Use a schedule in stages, such as Sequential.",
                )
        both = plan.together | ((plan.probability > 0) & (plan.probability < 1))
        if "merge" in self.hooks and both.any():
            raise InputError(
                "a merge has one branch for each objective, and a stage follows both",
                field="merge",
                value=self.merge.name,
                remedy="Use a schedule whose stages follow one objective each, without replay.",
            )

    def updates(
        self,
        gradient_units: float,
        *,
        pair: float = 1.0,
        looks: float = 0.0,
        batch: float = 1.0,
        response: float | None = None,
    ) -> int:
        """How many updates a budget pays for, by the cost of the schedule's plan.

        Parameters
        ----------
        gradient_units
            The budget; one unit is a gradient of a batch of demonstrations.
        pair
            Cost of a gradient of a batch of given pairs; a loss may ``cost`` more.
        looks
            Cost of each update's share of the evaluations that the schedule asks for.
        batch
            Rows of a batch; hooks ask for gradients of single rows.
        response
            Cost of a gradient of a written response to each prompt of a batch, where losses draw
            such responses; None where all of them are listed.

        Returns
        -------
        int
            At least 1; the cost comes as close to the budget as whole updates allow.
        """
        count = max(1, round(gradient_units))
        written, beside = self.data.priced(drawn=response is not None)
        sft = written + FORWARD * self.sft.forwards
        preference = beside + self.preference.priced(pair, response)
        for _ in range(TRIES):
            plan = self.schedule.plan(count)
            each = float(plan.cost(sft, preference).mean()) + looks
            each += self._beside(plan, pair) / count
            passes = self._passes(plan, pair) / batch
            better = max(1, round((gradient_units - passes) / each))
            if better == count:
                break
            count = better
        return count

    def _passes(self, plan: Plan, pair: float) -> float:
        """Cost of all gradients of single rows that hooks ask for, in such gradients."""
        found = 0.0
        for step in np.flatnonzero(plan.clock == 1) if self.hooks else ():
            for hook in self.hooks.values():
                objective, rows = hook.rows(moment_of(plan, int(step)))
                found += rows * (pair if objective else 1.0)
        return found

    def _beside(self, plan: Plan, pair: float) -> float:
        """Cost of what hooks evaluate in each update, over the run."""
        found = 0.0
        for step in np.flatnonzero(plan.clock == 1) if self.hooks else ():
            moment = moment_of(plan, int(step))
            for hook in self.hooks.values():
                sft, preference = hook.costs(moment)
                found += moment.length * (sft + preference * pair)
        return found

    def unsupported(self, scale: str) -> str | None:
        """Why it cannot run at a scale, as a clause; None if it can.

        Parameters
        ----------
        scale
            "convex", "networks" or "llm".
        """
        if scale not in SCALES:
            remedy = f"Use one of {SCALES}."
            raise InputError("there is no such scale", field="scale", value=scale, remedy=remedy)
        for slot in KNOWN:
            part = getattr(self, slot)
            if (reason := part.unsupported(scale)) is not None:
                return f"{part.label}: {reason}"
        return None

    def check(self, scale: str) -> None:
        """An `InputError` if the method cannot run at a scale."""
        if (reason := self.unsupported(scale)) is not None:
            remedy = "Use another method here, or this one at another scale."
            raise InputError(reason, field="method", value=self.label, remedy=remedy)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description: the schedule, and the slots that change something."""
        named = {"name": self.name} if self.name else {}
        changed = {slot: part.to_dict() for slot, part in self.changed().items()}
        return {**named, "schedule": self.schedule.to_dict(), **changed}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Method:
        """Restore a method from :meth:`to_dict`.

        Raises
        ------
        InputError
            If a slot or a part is unknown, or a value cannot be used.
        """
        if not isinstance(description, Mapping) or "schedule" not in description:
            raise InputError(
                "a method is described by its schedule and other parts",
                value=description,
                remedy='Use a mapping such as {"schedule": {"name": "mix", "lam": 0.5}}.',
            )
        given = dict(description)
        name = given.pop("name", "")
        if unknown := sorted(set(given) - set(KNOWN)):
            raise InputError(
                "a method has no slot of this name",
                field=unknown[0],
                value=given[unknown[0]],
                remedy=f"Use some of {sorted(KNOWN)}.",
            )
        parts: dict[str, Any] = {}
        for slot, part in given.items():
            try:
                parts[slot] = restore(part, KNOWN[slot], slot)
            except InputError as error:
                place = ".".join(filter(None, (slot, error.field)))
                raise error.at(field=place) from error
        return cls(name=str(name), **parts)


def told_apart(methods: Sequence[Method]) -> list[str]:
    """The label of each method, with settings where they alone distinguish it from another one.

    Examples
    --------
    >>> from tradeoff.methods.gradients import SmoothTchebycheff
    >>> from tradeoff.schedules import Mix
    >>> told_apart([Method(Mix(), gradient=SmoothTchebycheff(mu=mu)) for mu in (0.1, 0.5)])
    ['Mix, STCH (mu = 0.1)', 'Mix, STCH (mu = 0.5)']
    """
    found = []
    for method, settings in zip(methods, distinguishing(methods), strict=True):
        words = [
            f"{name.rpartition('.')[2]} = {json.dumps(value, default=str)}"
            for name, value in settings.items()
        ]
        found.append(f"{method.label} ({', '.join(words)})" if words else method.label)
    return found


def distinguishing(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Settings of each method, by dotted name, in which others of its label differ from it."""
    alike: dict[str, list[int]] = {}
    for place, method in enumerate(methods):
        alike.setdefault(method.label, []).append(place)
    found: list[dict[str, Any]] = [{} for _ in methods]
    for places in alike.values():
        if len(places) == 1:
            continue
        settings = [methods[place].settings() for place in places]
        texts = [{k: json.dumps(v, default=str) for k, v in each.items()} for each in settings]
        names = set(chain.from_iterable(texts))
        varied = {name for name in names if len({each.get(name, "null") for each in texts}) > 1}
        for place, each in zip(places, settings, strict=True):
            found[place] = {name: value for name, value in each.items() if name in varied}
    return found
