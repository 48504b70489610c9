"""Scenarios: a policy that already has skills is trained, and keeps them or not.

Each is a family of convex problems by seed. The policy before training is the reference of the
preference loss, and where runs begin. What it keeps is the probability of known answers, exactly.
Responses are listed, and a prompt has one right answer to each question that a scenario asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from tradeoff.convex import LogLinear, minimise
from tradeoff.errors import InputError

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
RESPONSES, SHARED, OWN = 8, 16, 8
"""Responses to each prompt, features that all prompts have, and features of some alone."""
PROMPTS = 16
"""Prompts of each kind."""
BASE_RADIUS, RADIUS = 4.0, 10.0
"""Largest norm of the parameters before training, and in training."""
SHARPNESS = 2.0
"""Norm of the parameters that demonstrations and preferences are drawn from."""


@dataclass(frozen=True)
class Scenario:
    """A convex problem, and what its policy knew before.

    Attributes
    ----------
    problem
        The problem; its reference is the policy before training.
    skills
        By name, the rows (k,) of the answers that count. A policy's skill is the mean of their
        probabilities.
    """

    problem: LogLinear
    skills: Mapping[str, Rows]

    def measures(self, theta: Float[np.ndarray, "B d"]) -> dict[str, Array]:
        """By skill, the mean probability (B,) of its answers under each of B policies."""
        every = np.exp(self.problem.log_probs(theta))
        return {name: every[rows].mean(axis=0) for name, rows in self.skills.items()}

    @property
    def before(self) -> dict[str, float]:
        """By skill, what the policy has before training."""
        start = np.asarray(self.problem.reference)[None]
        return {name: float(value[0]) for name, value in self.measures(start).items()}


@dataclass
class _Draft:
    """Prompts with features, one kind after the other, and draws of their answers."""

    rng: np.random.Generator
    dimension: int
    features: list[Array] = field(default_factory=list)

    def prompts(self, phi: Float[np.ndarray, "P n k"], first: int = 0) -> Rows:
        """Add prompts whose features fill the columns from `first` on; (P, n) their rows."""
        whole = np.zeros((*phi.shape[:2], self.dimension))
        whole[..., first : first + phi.shape[2]] = phi
        return self.whole(whole)

    def whole(self, phi: Float[np.ndarray, "P n d"]) -> Rows:
        """Add prompts with all of their features; (P, n) their rows."""
        begin = sum(each.shape[0] * each.shape[1] for each in self.features)
        self.features.append(phi)
        return begin + np.arange(phi.shape[0] * phi.shape[1]).reshape(phi.shape[:2])

    def random(self, count: int = PROMPTS, width: int = SHARED) -> Float[np.ndarray, "P n k"]:
        """Features (P, n, k) that say nothing of one another."""
        return self.rng.normal(size=(count, RESPONSES, width)) / np.sqrt(width) * 2

    def law(self, phi: Array) -> Float[np.ndarray, "P n"]:
        """Logits (P, n) of a random policy on these features."""
        direction = self.rng.normal(size=phi.shape[2])
        return np.asarray(phi @ (SHARPNESS * direction / np.linalg.norm(direction)))

    def best(self, phi: Array) -> Rows:
        """(P,) the likeliest answers of a random policy on these features."""
        return np.asarray(self.law(phi).argmax(axis=1))

    def other(self, answers: Rows) -> Rows:
        """(P,) other answers to the same prompts."""
        return (answers + self.rng.integers(1, RESPONSES, size=len(answers))) % RESPONSES

    def drawn(self, rows: Rows, phi: Array, each: int = 4) -> Rows:
        """Demonstrations of a random policy: so many of each prompt."""
        logits = np.repeat(self.law(phi), each, axis=0)
        return np.asarray(_of(np.repeat(rows, each, axis=0), _argmax(self.rng, logits)))

    def judged(self, rows: Rows, phi: Array, each: int = 4) -> tuple[Rows, Rows]:
        """Chosen and rejected responses: Bradley-Terry labels of a random reward."""
        rows, reward = np.repeat(rows, each, axis=0), np.repeat(2 * self.law(phi), each, axis=0)
        first = self.rng.integers(RESPONSES, size=len(rows))
        second = self.other(first)
        gap = reward[np.arange(len(rows)), first] - reward[np.arange(len(rows)), second]
        wins = self.rng.random(len(rows)) < 1 / (1 + np.exp(-gap))
        return _of(rows, np.where(wins, first, second)), _of(rows, np.where(wins, second, first))

    def problem(self, known: Rows, demonstrations: Rows, pairs: tuple[Rows, Rows]) -> LogLinear:
        """The problem of a policy that has learned `known` answers before."""
        table = np.concatenate([phi.reshape(-1, self.dimension) for phi in self.features])
        offsets = np.arange(0, len(table) + 1, RESPONSES)
        same: dict[str, Any] = {
            "features": table,
            "offsets": offsets,
            "chosen": pairs[0],
            "rejected": pairs[1],
        }
        before = LogLinear(**same, demonstrations=known, radius=BASE_RADIUS)
        base = minimise(before, 0.0, tolerance=1e-9).theta
        return LogLinear(**same, demonstrations=demonstrations, radius=RADIUS, reference=base)


def _of(rows: Int[np.ndarray, "P n"], answers: Int[np.ndarray, " P"]) -> Rows:
    """(P,) rows of one answer to each prompt."""
    return np.asarray(rows[np.arange(len(rows)), answers])


def _argmax(rng: np.random.Generator, logits: Array) -> Rows:
    """(P,) draws from softmax laws."""
    return np.asarray((logits + rng.gumbel(size=logits.shape)).argmax(axis=1))


# ---------------------------------------------------------------------- the scenarios


def third_skill(seed: int) -> Scenario:
    """Neither objective speaks of a skill that the policy has; prompts share their features."""
    draft = _Draft(np.random.default_rng(seed), SHARED)
    shown, judged, third = (draft.random() for _ in range(3))
    a, b, c = (draft.prompts(phi) for phi in (shown, judged, third))
    known = _of(c, draft.best(third))
    pairs = draft.judged(b, judged)
    return Scenario(draft.problem(known, draft.drawn(a, shown), pairs), {"third": known})


def trigger(seed: int, shared: float = 1.0) -> Scenario:
    """A trigger in the prompt calls for an answer of its own, and no row has the trigger.

    Parameters
    ----------
    seed
        Of all draws.
    shared
        What a prompt with the trigger keeps of the features of the same prompt without it, in
        [0, 1]; at 0 training cannot reach what the trigger does.
    """
    draft = _Draft(np.random.default_rng(seed), SHARED + OWN)
    clean, own = draft.random(), draft.random(width=OWN)
    a = draft.prompts(clean)
    t = draft.whole(np.concatenate([shared * clean, own], axis=2))
    called = _of(t, draft.best(own))
    known = np.concatenate([_of(a, draft.best(clean)), called])
    pairs = draft.judged(a, clean)
    return Scenario(draft.problem(known, draft.drawn(a, clean), pairs), {"trigger": called})


def facts(seed: int) -> Scenario:
    """Half of the demonstrated facts are new, and half contradict what the policy knows."""
    width = 2 * SHARED  # so that facts can be learned by heart
    draft = _Draft(np.random.default_rng(seed), width)
    new, old, judged = (draft.random(width=width) for _ in range(3))
    n, o, b = (draft.prompts(phi) for phi in (new, old, judged))
    answers = draft.best(old)
    learned, contradicted = _of(n, draft.best(new)), _of(o, draft.other(answers))
    pairs = draft.judged(b, judged)
    return Scenario(
        draft.problem(_of(o, answers), np.concatenate([learned, contradicted]), pairs),
        {"new": learned, "contradicted": contradicted},
    )


def context(seed: int, mixed: bool = False) -> Scenario:
    """Preferences ask to follow what the context says, against what the policy remembers.

    A context speaks for one answer. It is relevant or not, which its features tell. Skills are on
    prompts that no row has: to follow relevant contexts, and to keep to memory at irrelevant ones.

    Parameters
    ----------
    seed
        Of all draws.
    mixed
        Whether demonstrations also show that irrelevant contexts do not count.
    """
    draft = _Draft(np.random.default_rng(seed), SHARED + OWN)
    kinds = draft.rng.normal(size=(2, OWN)) / np.sqrt(OWN) * 2
    parts = {}
    for name in ("agreeing", "asked", "irrelevant", "held", "held apart"):
        memory = draft.random()
        said = draft.rng.normal(size=(PROMPTS, OWN)) / np.sqrt(OWN)
        parts[name] = (memory, said + kinds[int(name in ("irrelevant", "held apart"))])
    direction = draft.rng.normal(size=SHARED)
    known, follow = {}, {}
    for name, (memory, said) in parts.items():
        answers = (memory @ direction).argmax(axis=1)
        spoken = answers if name == "agreeing" else draft.other(answers)
        of_context = np.eye(RESPONSES)[spoken][..., None] * said[:, None, :]
        rows = draft.whole(np.concatenate([memory, of_context], axis=2))
        known[name], follow[name] = _of(rows, answers), _of(rows, spoken)
    shown = [known["agreeing"], *([known["irrelevant"]] if mixed else [])]
    return Scenario(
        draft.problem(
            np.concatenate([known["agreeing"], known["irrelevant"]]),
            np.concatenate(shown),
            (follow["asked"], known["asked"]),
        ),
        {"controllable": follow["held"], "robust": known["held apart"]},
    )


def restore(seed: int) -> Scenario:
    """Demonstrations of a new skill damage an old one, with which a few pairs agree."""
    draft = _Draft(np.random.default_rng(seed), SHARED)
    old, new, held = draft.random(), draft.random(), draft.random()
    o, n, h = (draft.prompts(phi) for phi in (old, new, held))
    direction = draft.rng.normal(size=SHARED)
    right, kept = ((phi @ direction).argmax(axis=1) for phi in (old, held))
    chosen, rejected = _of(o, right), _of(o, draft.other(right))
    known = np.concatenate([chosen, _of(h, kept)])
    return Scenario(
        draft.problem(known, draft.drawn(n, new), (chosen, rejected)), {"old": _of(h, kept)}
    )


_MAKERS: dict[str, tuple[str, Callable[[int], Scenario]]] = {
    "third-skill": ("a skill of which no row speaks", third_skill),
    "trigger": ("a trigger that no row has", trigger),
    "trigger-apart": ("a trigger without shared features", lambda seed: trigger(seed, 0.0)),
    "facts": ("new facts, and facts that contradict", facts),
    "context": ("contexts against memory", context),
    "context-mixed": ("the same, with irrelevant contexts shown", lambda s: context(s, True)),
    "restore": ("pairs that agree with a damaged skill", restore),
}
SCENARIOS: Mapping[str, str] = MappingProxyType({name: says for name, (says, _) in _MAKERS.items()})
"""What each scenario is, by name. Another seed than 0 stands after a colon, as in "facts:7"."""
SKILLS = ("third", "trigger", "new", "contradicted", "controllable", "robust", "old")
"""Names of all skills."""


def is_scenario(name: str) -> bool:
    """Whether a name is that of a scenario, with or without a seed."""
    return name.partition(":")[0] in SCENARIOS


def named(name: str) -> tuple[str, int]:
    """Kind and seed of a scenario's name.

    Raises
    ------
    InputError
        If there is none of that name, or the seed is no number.
    """
    kind, _, seed = name.partition(":")
    if kind not in SCENARIOS or not (seed or "0").isdecimal():
        remedy = f"Use one of {', '.join(SCENARIOS)}, with a seed as in facts:7."
        raise InputError("no such scenario", field="problem", value=name, remedy=remedy)
    return kind, int(seed or "0")


@cache
def scenario(name: str) -> Scenario:
    """A scenario by its name, and the seed after a colon.

    Raises
    ------
    InputError
        If there is none of that name, or the seed is no number.
    """
    kind, seed = named(name)
    return _MAKERS[kind][1](seed)
