"""Evidence for findings: the share of instances on which one holds, or a test of equivalence.

The functions return a :class:`tradeoff.Checked`, so a claim function can end with one of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from tradeoff.errors import InputError
from tradeoff.scores import Interval, interval
from tradeoff.theory.checked import Checked

INSTANCES = 20
"""Smallest number of seeded instances for a finding."""
UNITS = 6
"""Smallest number of units: something that holds on all of fewer is not shown to hold on most."""
MOST = 0.5
"""A finding "on most instances" holds when the interval of its share lies above one half."""
NEARLY_ALL = 0.8
"""A finding "on nearly all instances" holds when the interval of its share lies above this."""


def share(held: ArrayLike, level: float = 0.95) -> Interval:
    """Share of instances on which something holds, with its Clopper-Pearson interval.

    Parameters
    ----------
    held
        (n,) truth values, one for each independent instance.
    level
        Confidence level; the coverage is at least this for every true share.

    Raises
    ------
    InputError
        If there is no instance.
    """
    values = np.asarray(held, dtype=bool).ravel()
    n, hits = values.size, int(values.sum())
    if n == 0:
        raise InputError(
            "no instances", field="held", value=[], remedy="Give at least one instance."
        )
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    found = [np.asarray(value, dtype=float) for value in (hits / n, low, high)]
    return Interval(found[0], found[1], found[2], n, f"Clopper-Pearson, {level:.0%}")


def holds_on(
    held: ArrayLike, at_least: float = NEARLY_ALL, constants: Mapping[str, float] | None = None
) -> Checked:
    """Check that something holds on more than a share of the instances: ``low end >= at_least``.

    Parameters
    ----------
    held
        (n,) truth values, one for each seeded instance, with n at least :data:`INSTANCES`.
    at_least
        The share, which is set before the run: :data:`MOST`, :data:`NEARLY_ALL`, or another number.
    constants
        More numbers to store beside ``share``, ``n`` and the ends of the interval.

    Raises
    ------
    InputError
        If there are fewer instances.
    """
    found = share(held)
    if found.n < INSTANCES:
        raise InputError(
            "too few instances for a finding",
            field="held",
            value=found.n,
            remedy=f"Draw at least {INSTANCES}, with conflict and weight varied.",
        )
    kept = {"share": float(found.mean), "low": float(found.low), "high": float(found.high)}
    kept |= {"n": float(found.n), **(constants or {})}
    return Checked(float(found.low), at_least, "lower", kept, 0.0)


def holds_on_units(held: ArrayLike, at_least: float = NEARLY_ALL) -> Checked:
    """Check that something holds on most units, such as problems, each of which has several cells.

    Cells of one unit are not independent, such as one problem at several weights, so that a unit
    counts once: if its share of cells is more than one half, and no less than `at_least`. Units
    that count are shown to be most if the Clopper-Pearson interval of their share is above one
    half: ``low end >= 1/2``.

    Parameters
    ----------
    held
        (units, cells) truth values, with at least :data:`UNITS` units and :data:`INSTANCES` cells
        in all.
    at_least
        Share of the cells of a unit: :data:`MOST`, :data:`NEARLY_ALL`, or another number.

    Raises
    ------
    InputError
        If there are fewer.
    """
    table = np.atleast_2d(np.asarray(held, dtype=bool))
    if len(table) < UNITS or table.size < INSTANCES:
        raise InputError(
            "too few units or cells for a finding",
            field="held",
            value=table.shape,
            remedy=f"Give at least {UNITS} units, and {INSTANCES} cells in all.",
        )
    shares = table.mean(axis=1)
    found = share((shares > MOST) & (shares >= at_least))
    kept = {"share": float(table.mean()), "n": float(table.size)}
    kept |= {"units": float(found.mean) * found.n, "of units": float(found.n)}
    kept |= {"low": float(found.low), "high": float(found.high)}
    return Checked(float(found.low), MOST, "lower", kept, 0.0)


def holds_on_fewer(
    held: ArrayLike, than: float = MOST, constants: Mapping[str, float] | None = None
) -> Checked:
    """Check that something holds on less than a share of the instances: ``high end <= than``.

    Parameters
    ----------
    held, than, constants
        As for :func:`holds_on`.
    """
    found = holds_on(np.logical_not(held), 1 - than, constants)
    kept = dict(found.constants)
    kept |= {"share": 1 - kept["share"], "low": 1 - kept["high"], "high": 1 - kept["low"]}
    return Checked(kept["high"], than, "upper", kept, 0.0)


def equivalent(differences: ArrayLike, margin: float, level: float = 0.95) -> Checked:
    """Check that a mean difference is within a margin of zero: two one-sided tests (TOST).

    Both tests reject at ``1 - level`` exactly when the interval of coverage ``2 level - 1`` lies
    within the margin.

    Parameters
    ----------
    differences
        (n,) independent differences, one for each seed or instance.
    margin
        Margin: a positive number in the units of the differences, set before the run.
    level
        One less the error probability of each one-sided test.
    """
    found = interval(np.ravel(differences), level=2 * level - 1)
    ends = np.array([-float(found.low), float(found.high)])
    kept = {"mean": float(found.mean), "n": float(found.n), "margin": margin}
    return Checked(ends, np.full(2, margin), "upper", kept, 0.0)
