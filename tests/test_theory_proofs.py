"""Symbolic derivations verify themselves, and reject false statements."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sympy as sp

import tradeoff.theory
from tradeoff.theory import derivations, proofs

LONG = (proofs.optimal_probability, proofs.quadratic_recursion)
PROOFS = [pytest.param(p, marks=[pytest.mark.slow] if p in LONG else []) for p in proofs.PROOFS]


@pytest.mark.slow
@pytest.mark.parametrize("proof", PROOFS, ids=lambda p: p.__name__)
def test_derivation(proof):
    made = proof()
    assert made.steps
    assert all(reason and latex for reason, latex in made.steps)


def test_false_steps_are_refused():
    x = sp.Symbol("x", real=True)
    derivation = derivations.Derivation()
    with pytest.raises(proofs.ProofError, match="a lie"):
        derivation.equal("a lie", sp.sin(x), x)
    with pytest.raises(AssertionError, match="not established"):
        derivation.positive("a lie", x)


@pytest.mark.slow
def test_theory_loads_without_sympy():
    code = (
        "import sys, tradeoff.theory as t; "
        "[getattr(t, m) for m in t.MODULES if m != 'proofs']; "
        "assert 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_are_found_by_name():
    assert tradeoff.theory.joint.optimal_probability(0.5, 1.0, 1.0) == 0.5
    with pytest.raises(AttributeError, match="no attribute"):
        _ = tradeoff.theory.absent
