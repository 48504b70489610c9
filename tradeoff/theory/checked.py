"""The result of a theorem: the measured quantity, its bound, and the constants of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tradeoff.display import Shown, cell
from tradeoff.errors import InputError

Kind = Literal["exact", "upper", "lower"]


@dataclass(frozen=True, repr=False)
class Checked(Shown):
    """A statement evaluated on one problem; unpacks as ``measured, bound``.

    Attributes
    ----------
    measured, bound
        Scalars or arrays of equal shape; one of them may be a scalar beside an array.
    kind
        "upper": measured <= bound; "lower": measured >= bound; "exact": equal.
    constants
        Every constant the bound was computed from, by its name in the theory.
    tolerance
        Absolute slack allowed for rounding, certificates, or (measured by Monte Carlo) noise.

    Raises
    ------
    InputError
        If the kind is none of these, or the shapes do not fit together.
    """

    measured: float | ArrayLike
    bound: float | ArrayLike
    kind: Kind
    constants: Mapping[str, float] = field(default_factory=dict)
    tolerance: float | ArrayLike = 1e-9

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(
                "a statement is of no such kind",
                field="kind",
                value=self.kind,
                remedy=f"Use one of {', '.join(get_args(Kind))}.",
            )
        shapes = [np.shape(part) for part in (self.measured, self.bound, self.tolerance)]
        try:
            np.broadcast_shapes(*shapes)
        except ValueError as error:
            raise InputError(
                "measured values, bounds and tolerances have shapes that do not fit together",
                field="bound",
                value=", ".join(map(str, shapes)),
                remedy="Give as many bounds as measured values, or one.",
            ) from error

    def __iter__(self) -> Iterator[float | ArrayLike]:
        return iter((self.measured, self.bound))

    @property
    def slack(self) -> float:
        """Least distance of a measured value from its bound, before the tolerance.

        A negative slack is a violation; NaN: nothing was measured.
        """
        measured, bound = np.asarray(self.measured), np.asarray(self.bound)
        margins = {
            "upper": bound - measured,
            "lower": measured - bound,
            "exact": -np.abs(measured - bound),
        }
        return float(np.min(margins[self.kind])) if np.size(margins[self.kind]) else float("nan")

    @property
    def holds(self) -> bool:
        """Whether the statement is true everywhere within the tolerance.

        It is false for NaN, and where nothing was measured.
        """
        measured, bound = np.asarray(self.measured), np.asarray(self.bound)
        tolerance = np.asarray(self.tolerance)
        verdicts = {
            "upper": measured <= bound + tolerance,
            "lower": measured >= bound - tolerance,
            "exact": np.abs(measured - bound) <= tolerance,
        }
        return bool(np.size(verdicts[self.kind]) and np.all(verdicts[self.kind]))

    def table(self) -> pd.DataFrame:
        """One row for each measured value: measured, bound and tolerance."""
        measured, bound, tolerance = np.broadcast_arrays(
            np.asarray(self.measured, dtype=float), self.bound, self.tolerance
        )
        return pd.DataFrame(
            {
                "measured": measured.ravel(),
                "bound": np.asarray(bound, dtype=float).ravel(),
                "tolerance": np.asarray(tolerance, dtype=float).ravel(),
            }
        )

    def __repr__(self) -> str:
        sign = {"upper": "<=", "lower": ">=", "exact": "="}[self.kind]
        verdict = "holds" if self.holds else "FAILS"
        if np.size(self.measured) == np.size(self.bound) == 1:
            measured, bound = (cell(float(np.asarray(v).item())) for v in self)
            return f"Checked({measured} {sign} {bound}: {verdict})"
        n, slack = np.broadcast(self.measured, self.bound).size, cell(self.slack)
        return f"Checked({n} x measured {sign} bound: {verdict}, least slack {slack})"
