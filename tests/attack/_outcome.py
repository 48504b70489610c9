"""Counts of tries and failures of an attack, by kind of try."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """Tries and failures of one attack, by kind of try."""

    kinds: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, problem: str | None = None, tries: int = 1) -> None:
        """Count a try of a kind; `problem` says how the promise was broken, or None."""
        self.kinds[kind] = self.kinds.get(kind, 0) + tries
        if problem is not None:
            self.failed.setdefault(kind, []).append(problem)

    @property
    def tries(self) -> int:
        return sum(self.kinds.values())

    @property
    def failures(self) -> list[str]:
        return [f"{kind}: {text}" for kind, texts in self.failed.items() for text in texts]

    def record(self) -> dict[str, Any]:
        """The counts for JSON, with some examples of failures."""
        return {
            "tries": self.tries,
            "failures": len(self.failures),
            "kinds": {
                kind: {"tries": tries, "failures": len(self.failed.get(kind, []))}
                for kind, tries in self.kinds.items()
            },
            "examples": self.failures[:20],
        }


def shared(tries: int, kinds: Sequence[str]) -> dict[str, int]:
    """Number of tries of each kind, as equal as possible."""
    return {kind: tries // len(kinds) + (i < tries % len(kinds)) for i, kind in enumerate(kinds)}


def sample(cases: Sequence[Any], count: int, rng: random.Random) -> list[Any]:
    """Draw `count` cases: each once in random order, and all again if there are too few."""
    found: list[Any] = []
    while cases and len(found) < count:
        found += rng.sample(cases, min(len(cases), count - len(found)))
    return found


def spread(
    tries: int, seed: int, kinds: Mapping[str, Callable[[int, random.Random, Outcome], None]]
) -> Outcome:
    """Divide tries among kinds, each with its own draws, so that a kind can be repeated alone."""
    outcome = Outcome()
    for kind, count in shared(tries, list(kinds)).items():
        if count:
            kinds[kind](count, random.Random(f"{seed} {kind}"), outcome)
    return outcome
