"""Symbolic proofs, whose steps sympy verifies before they are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tradeoff.extras import needing

with needing("proofs"):
    import sympy as sp


class ProofError(AssertionError):
    """A step of a derivation that does not hold."""


@dataclass(frozen=True)
class Proof:
    """A statement and its derivation.

    Attributes
    ----------
    name, statement
        Name of the proof, and the statement in LaTeX.
    steps
        (reason, LaTeX) of each verified step.
    """

    name: str
    statement: str
    steps: tuple[tuple[str, str], ...]


class Derivation:
    """A list of verified steps; a step that is not confirmed raises `ProofError`."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []

    def equal(self, reason: str, left: Any, right: Any) -> None:
        """Record that ``left = right`` identically, after sympy has confirmed it."""
        difference = sp.simplify(sp.expand(sp.sympify(left - right).rewrite(sp.exp)))
        if difference != 0 and difference.equals(0) is not True:
            raise ProofError(f"{reason}: {left} differs from {right} by {difference}")
        self.steps.append((reason, f"{sp.latex(left)} = {sp.latex(right)}"))

    def positive(self, reason: str, expression: Any) -> None:
        """Record that ``expression > 0`` for all values that its symbols may take."""
        if sp.simplify(expression).is_positive is not True:
            raise ProofError(f"{reason}: {expression} > 0 is not established")
        self.steps.append((reason, f"{sp.latex(expression)} > 0"))
