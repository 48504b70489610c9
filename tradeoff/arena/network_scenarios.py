"""The scenarios of :mod:`tradeoff.arena.scenarios` on networks: a trained policy is trained on.

Prompts are vectors, and a network of one hidden layer chooses among 8 responses. It is first
trained on what it knows, once for all runs; from there they begin, and it is their reference. All
weights are shared, so that every update can reach every skill, also where prompts share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from tradeoff.arena.scenarios import named
from tradeoff.networks import policies
from tradeoff.networks.policies import PolicyConfig, PolicyData
from tradeoff.networks.tasks import Params, PolicyTask
from tradeoff.networks.train import Run, train
from tradeoff.schedules import Alright

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Law = Callable[[Array], Array]
RESPONSES, CONTENT, OWN = 8, 4, 4
"""Responses to each prompt, entries that all prompts have, and entries of some alone."""
PROMPTS, HELD = 128, 128
"""Training prompts of each kind, and held-out ones, of which half choose rates and half score."""
FACTS, REPHRASED, NOISE = 24, 4, 0.2
"""Facts of each kind, held-out wordings of each, and how far these are from the fact."""
SHARPNESS, UNITS, APART = 2.0, 32, 2.0
"""Standard deviation of a law's logits, its hidden units, and how far kinds are from the origin."""
SHAPE = PolicyConfig(width=32, depth=1)
BASE_SEED, BASE_STEPS, BASE_RATE, BASE_BATCH = 30_000, 200, 0.03, 32
"""How the policy learns what it knows, by AdamW with a rate that falls to 0."""


@dataclass(frozen=True, eq=False)
class NetworkScenario:
    """A task of policies, and what its policy knew before.

    Attributes
    ----------
    data
        Rows of both objectives, with all held-out rows.
    known
        (M, 2) prompt and response of what the policy learns before.
    skills
        By name, prompt and response (k, 2) of the answers that count. A policy's skill is the mean
        of their probabilities.
    """

    data: PolicyData
    known: Rows
    skills: Mapping[str, Rows]

    @cached_property
    def base(self) -> Params:
        """The policy before training, stacked as one run."""
        learned = replace(self.data, demonstrations=self.known)
        task = PolicyTask(learned, SHAPE, dtype=torch.float64)
        return train(
            task, [Run(Alright(lam=0.0), BASE_SEED)], steps=BASE_STEPS, learning_rate=BASE_RATE,
            batch_size=BASE_BATCH, decay="linear", evaluate_every=BASE_STEPS,
        ).params  # fmt: skip

    def task(self, rows: Literal["test", "validation"]) -> PolicyTask:
        """Training of the policy, with one half of the held-out rows."""
        odd = rows == "test"

        def own(table: Rows) -> Rows:
            return table[table[:, 0] % 2 == odd]

        held = (self.data.test_demonstrations, self.data.test_pairs)
        data = replace(self.data, test_demonstrations=own(held[0]), test_pairs=own(held[1]))
        return PolicyTask(data, SHAPE, dtype=torch.float64, base=self.base)

    def measures(self, params: Params) -> dict[str, Array]:
        """By skill, the mean probability (R,) of its answers under each of R policies."""
        prompts = torch.from_numpy(self.data.prompts)
        with torch.no_grad():
            scores = torch.vmap(policies.logits, (0, None))(dict(params), prompts)
            every = scores.softmax(-1).cpu().numpy()
        return {
            name: every[:, rows[:, 0], rows[:, 1]].mean(1) for name, rows in self.skills.items()
        }

    @cached_property
    def before(self) -> dict[str, float]:
        """By skill, what the policy has before training."""
        return {name: float(value[0]) for name, value in self.measures(self.base).items()}


@dataclass
class _Draft:
    """Prompts of several kinds, and draws of their answers."""

    rng: np.random.Generator
    parts: list[Array] = field(default_factory=list)
    held: list[Array] = field(default_factory=list)

    def content(
        self, count: int = PROMPTS, center: Array | None = None
    ) -> Float[np.ndarray, "P k"]:
        """Contents of prompts of one kind; kinds differ by their centers."""
        found = self.rng.normal(size=(count, CONTENT))
        return found if center is None else found + center

    def center(self) -> Array:
        """Center of a kind."""
        drawn = self.rng.normal(size=CONTENT)
        return np.asarray(APART * drawn / np.linalg.norm(drawn))

    def add(self, x: Float[np.ndarray, "P k"], width: int, held: bool = False) -> Rows:
        """Add prompts, filled up with zeros to a width; (P,) their numbers."""
        first = sum(map(len, self.parts))
        whole = np.zeros((len(x), width))
        whole[:, : x.shape[1]] = x
        self.parts.append(whole)
        self.held.append(np.full(len(x), held))
        return np.arange(first, first + len(x))

    def law(self, width: int) -> Law:
        """Logits of a random policy, nonlinear in so many entries of the prompt."""
        inner = self.rng.normal(size=(width, UNITS)) * 1.5 / np.sqrt(width)
        shift = 0.5 * self.rng.normal(size=UNITS)
        outer = self.rng.normal(size=(UNITS, RESPONSES))

        def raw(x: Array) -> Array:
            return np.asarray(np.tanh(x @ inner + shift) @ outer)

        spread = raw(self.rng.normal(size=(512, width))).std()
        return lambda x: raw(x) * (SHARPNESS / spread)

    def other(self, answers: Rows) -> Rows:
        """Other answers to the same prompts."""
        return (answers + self.rng.integers(1, RESPONSES, size=len(answers))) % RESPONSES

    def drawn(self, prompts: Rows, logits: Array, each: int = 4) -> Rows:
        """Demonstrations of a law: so many of each prompt."""
        logits = np.repeat(logits, each, axis=0)
        answers = (logits + self.rng.gumbel(size=logits.shape)).argmax(axis=1)
        return np.stack([np.repeat(prompts, each), answers], axis=1)

    def judged(self, prompts: Rows, logits: Array, each: int = 4) -> Rows:
        """Pairs: Bradley-Terry labels of twice the logits of a law."""
        prompts, reward = np.repeat(prompts, each), np.repeat(2 * logits, each, axis=0)
        first = self.rng.integers(RESPONSES, size=len(prompts))
        second = self.other(first)
        row = np.arange(len(prompts))
        wins = self.rng.random(len(row)) < 1 / (
            1 + np.exp(reward[row, second] - reward[row, first])
        )
        chosen, rejected = np.where(wins, first, second), np.where(wins, second, first)
        return np.stack([prompts, chosen, rejected], axis=1)

    def finished(
        self, known: Rows, shown: tuple[Rows, Rows], pairs: tuple[Rows, Rows],
        skills: Mapping[str, Rows],
    ) -> NetworkScenario:  # fmt: skip
        """The scenario of training rows and held-out rows; training prompts come first."""
        held = np.concatenate(self.held)
        order = np.argsort(held, kind="stable")
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))

        def at(rows: Rows) -> Rows:
            return np.concatenate([place[rows[:, :1]], rows[:, 1:]], axis=1)

        data = PolicyData(
            np.concatenate(self.parts)[order], RESPONSES, at(shown[0]), at(pairs[0]), at(shown[1]),
            at(pairs[1]), int(len(held) - held.sum()),
        )  # fmt: skip
        return NetworkScenario(data, at(known), {name: at(rows) for name, rows in skills.items()})


def _answers(prompts: Rows, answers: Int[np.ndarray, " P"]) -> Rows:
    return np.stack([prompts, answers], axis=1)


@dataclass
class _Kind:
    """Training prompts of a kind with their numbers, held-out ones, and the center of all."""

    center: Array
    x: Array
    rows: Rows
    held_x: Array
    held_rows: Rows


def _kind(draft: _Draft, width: int = CONTENT) -> _Kind:
    center = draft.center()
    x, held = draft.content(center=center), draft.content(HELD, center)
    return _Kind(center, x, draft.add(x, width), held, draft.add(held, width, held=True))


def _demonstrated(draft: _Draft, kind: _Kind, law: Law) -> tuple[Rows, Rows]:
    """Demonstrations of a law on training prompts and on held-out ones."""
    return draft.drawn(kind.rows, law(kind.x)), draft.drawn(kind.held_rows, law(kind.held_x))


def _judged(draft: _Draft, kind: _Kind, law: Law) -> tuple[Rows, Rows]:
    """Pairs of a law on training prompts and on held-out ones."""
    return draft.judged(kind.rows, law(kind.x)), draft.judged(kind.held_rows, law(kind.held_x))


# ---------------------------------------------------------------------- the scenarios


def third_skill(seed: int) -> NetworkScenario:
    """Neither objective speaks of a skill that the policy has."""
    draft = _Draft(np.random.default_rng(seed))
    shown, judged, third = (_kind(draft) for _ in range(3))
    known = _answers(third.rows, draft.law(CONTENT)(third.x).argmax(axis=1))
    first, second = draft.law(CONTENT), draft.law(CONTENT)
    return draft.finished(
        known, _demonstrated(draft, shown, first), _judged(draft, judged, second),
        {"third": known},
    )  # fmt: skip


def trigger(seed: int, shared: float = 1.0) -> NetworkScenario:
    """A trigger in the prompt calls for an answer of its own, and no row has the trigger.

    Parameters
    ----------
    seed
        Of all draws.
    shared
        What a prompt with the trigger keeps of the content of the same prompt without it.
    """
    draft, width = _Draft(np.random.default_rng(seed)), CONTENT + OWN
    clean = _kind(draft, width)
    own = draft.rng.normal(size=(PROMPTS, OWN))
    triggered = draft.add(np.concatenate([shared * clean.x, own], axis=1), width)
    called = _answers(triggered, draft.law(OWN)(own).argmax(axis=1))
    before = _answers(clean.rows, draft.law(CONTENT)(clean.x).argmax(axis=1))
    first, second = draft.law(CONTENT), draft.law(CONTENT)
    return draft.finished(
        np.concatenate([before, called]), _demonstrated(draft, clean, first),
        _judged(draft, clean, second), {"trigger": called},
    )  # fmt: skip


def facts(seed: int) -> NetworkScenario:
    """Half of the demonstrated facts are new, and half contradict what the policy knows.

    Held-out demonstrations are other wordings of the same facts: prompts near theirs.
    """
    draft = _Draft(np.random.default_rng(seed))
    new, old = (draft.content(FACTS) for _ in range(2))
    rows = [draft.add(x, CONTENT) for x in (new, old)]
    answers = draft.rng.integers(RESPONSES, size=(2, FACTS))
    learned, contradicted = (
        _answers(rows[0], answers[0]),
        _answers(rows[1], draft.other(answers[1])),
    )
    shown = np.concatenate([learned, contradicted])
    wordings = np.repeat(np.concatenate([new, old]), REPHRASED, axis=0)
    wordings = wordings + NOISE * draft.rng.normal(size=wordings.shape)
    held = draft.add(wordings, CONTENT, held=True)
    judged = _kind(draft)
    return draft.finished(
        _answers(rows[1], answers[1]), (shown, _answers(held, np.repeat(shown[:, 1], REPHRASED))),
        _judged(draft, judged, draft.law(CONTENT)), {"new": learned, "contradicted": contradicted},
    )  # fmt: skip


def context(seed: int, mixed: bool = False) -> NetworkScenario:
    """Preferences ask to follow what the context says, against what the policy remembers.

    A prompt has a content, the answer that its context speaks for, and a mark of whether the
    context is relevant. Skills are on prompts that no row has.

    Parameters
    ----------
    seed
        Of all draws.
    mixed
        Whether demonstrations also show that irrelevant contexts do not count.
    """
    draft, width = _Draft(np.random.default_rng(seed)), CONTENT + RESPONSES + OWN
    kinds = draft.rng.normal(size=(2, OWN))
    memory = draft.law(CONTENT)
    known, follow = {}, {}
    for name in ("agreeing", "asked", "irrelevant", "held", "held apart"):
        for held in (False, True):
            content = draft.content(HELD if held else PROMPTS)
            answers = memory(content).argmax(axis=1)
            spoken = answers if name == "agreeing" else draft.other(answers)
            mark = kinds[int(name in ("irrelevant", "held apart"))]
            mark = mark + 0.3 * draft.rng.normal(size=(len(content), OWN))
            x = np.concatenate([content, 2.0 * np.eye(RESPONSES)[spoken], mark], axis=1)
            prompts = draft.add(x, width, held)
            known[name, held], follow[name, held] = (
                _answers(prompts, each) for each in (answers, spoken)
            )
    shown = ("agreeing", "irrelevant") if mixed else ("agreeing",)
    demonstrations, pairs = [], []
    for held in (False, True):
        demonstrations.append(np.concatenate([known[name, held] for name in shown]))
        asked = follow["asked", held], known["asked", held][:, 1:]
        pairs.append(np.concatenate(asked, axis=1))
    return draft.finished(
        np.concatenate([known["agreeing", False], known["irrelevant", False]]),
        (demonstrations[0], demonstrations[1]), (pairs[0], pairs[1]),
        {"controllable": follow["held", False], "robust": known["held apart", False]},
    )  # fmt: skip


def restore(seed: int) -> NetworkScenario:
    """Demonstrations of a new skill damage an old one, with which a few pairs agree."""
    draft = _Draft(np.random.default_rng(seed))
    old, new = _kind(draft), _kind(draft)
    law = draft.law(CONTENT)
    kept = draft.content(center=old.center)
    tested = _answers(draft.add(kept, CONTENT), law(kept).argmax(axis=1))
    pairs = []
    for x, rows in ((old.x, old.rows), (old.held_x, old.held_rows)):
        right = law(x).argmax(axis=1)
        pairs.append(np.stack([rows, right, draft.other(right)], axis=1))
    known = np.concatenate([pairs[0][:, :2], tested])
    return draft.finished(
        known, _demonstrated(draft, new, draft.law(CONTENT)), (pairs[0], pairs[1]), {"old": tested}
    )


_MAKERS: Mapping[str, Callable[[int], NetworkScenario]] = {
    "third-skill": third_skill,
    "trigger": trigger,
    "trigger-apart": lambda seed: trigger(seed, 0.0),
    "facts": facts,
    "context": context,
    "context-mixed": lambda seed: context(seed, True),
    "restore": restore,
}


@cache
def network_scenario(name: str) -> NetworkScenario:
    """A scenario on networks by its name, and the seed after a colon.

    Raises
    ------
    InputError
        If there is none of that name, or the seed is no number.
    """
    kind, seed = named(name)
    return _MAKERS[kind](seed)
