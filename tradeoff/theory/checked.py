"""What a theorem returns: the measured quantity, its bound, and the constants behind both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["exact", "upper", "lower"]


@dataclass(frozen=True)
class Checked:
    """A statement evaluated on one problem; unpacks as ``measured, bound``.

    Attributes
    ----------
    measured, bound
        Scalars or arrays of equal shape.
    kind
        "upper": measured <= bound; "lower": measured >= bound; "exact": equal.
    constants
        Every constant the bound was computed from, by its name in the theory.
    tolerance
        Absolute slack allowed for rounding, certificates, or (measured by Monte Carlo) noise.
    """

    measured: float | ArrayLike
    bound: float | ArrayLike
    kind: Kind
    constants: Mapping[str, float] = field(default_factory=dict)
    tolerance: float | ArrayLike = 1e-9

    def __iter__(self) -> Iterator[float | ArrayLike]:
        return iter((self.measured, self.bound))

    @property
    def slack(self) -> float:
        """By how much the statement holds (negative: violated), before the tolerance."""
        measured, bound = np.asarray(self.measured), np.asarray(self.bound)
        margins = {
            "upper": bound - measured,
            "lower": measured - bound,
            "exact": -np.abs(measured - bound),
        }
        return float(np.min(margins[self.kind]))

    @property
    def holds(self) -> bool:
        """Whether the statement is true everywhere within the tolerance; NaN is false."""
        measured, bound = np.asarray(self.measured), np.asarray(self.bound)
        tolerance = np.asarray(self.tolerance)
        verdicts = {
            "upper": measured <= bound + tolerance,
            "lower": measured >= bound - tolerance,
            "exact": np.abs(measured - bound) <= tolerance,
        }
        return bool(np.all(verdicts[self.kind]))
