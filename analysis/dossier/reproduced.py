"""Comparison of what a run of the dossier computes with what is stored.

Other machines round differently, so a number counts as moved only if it differs by more than one
part in a million. Differences below that are counted, and not listed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from analysis.dossier import ledger, stored_results
from analysis.dossier.declaration import Dossier
from tradeoff.checkout import WORK
from tradeoff.display import cell
from tradeoff.errors import InputError

RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Differences up to either of these are due to rounding."""
SHOWN = 3
"""Moved numbers of one figure that :meth:`Comparison.lines` names."""
CLAIMS = "claims"
"""Name of the verdicts, beside the names of figures."""
ABSENT = "absent"


@dataclass(frozen=True)
class Moved:
    """One stored value that a run gives another value.

    Attributes
    ----------
    name
        The figure, or ``claims``.
    field
        Place of the value in the stored file.
    stored, now
        Stored value, and value of this run; ``"absent"`` where there is none.
    """

    name: str
    field: str
    stored: Any
    now: Any


@dataclass(frozen=True)
class Comparison:
    """What became of the stored values.

    Attributes
    ----------
    names
        What was compared: figures, and ``claims``.
    moved
        Values that differ by more than rounding.
    rounded
        Number of values that differ by rounding alone.
    """

    names: tuple[str, ...]
    moved: tuple[Moved, ...]
    rounded: int

    def lines(self) -> list[str]:
        """Summary in one line, then a line for each figure that moved."""
        groups: dict[str, list[Moved]] = {}
        for each in self.moved:
            groups.setdefault(each.name, []).append(each)
        same = len(self.names) - len(groups)
        text = f"{same} of {len(self.names)} results have the stored numbers"
        if self.rounded:
            text += f"; {self.rounded} differ by rounding"
        return [text, *(_line(name, group) for name, group in groups.items())]


def folder(dossier: Dossier) -> Path:
    """Folder for a run that only compares; it is never committed."""
    return WORK / "reproduced" / dossier.folder.name


def stored(dossier: Dossier, place: Path, *, full: bool) -> dict[str, Any]:
    """Numbers of figures, and verdicts, in a folder; what is absent or damaged is left out.

    Parameters
    ----------
    dossier
        The dossier.
    place
        Folder with ``results/``.
    full
        Include studies.
    """
    found: dict[str, Any] = {}
    for name in (*dossier.figures, *(dossier.studies if full else ())):
        with suppress(InputError):
            found[name] = stored_results.numbers(place / "results" / f"{name}.json")
    with suppress(InputError):
        rows = ledger.verdicts(place / "results" / "claims.json")
        found[CLAIMS] = {row["id"]: {key: row[key] for key in _judged(row)} for row in rows}
    return found


def _judged(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Compared fields of a verdict; a regression may measure memory, which varies."""
    return ("holds",) if row["kind"] == "regression" else ("holds", "measured", "bound", "cases")


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> Comparison:
    """Compare the values of two folders, see :func:`stored`."""
    moved, rounded = [], 0
    for name, found in now.items():
        for field, old, new in _different(before.get(name, ABSENT), found):
            if _close(old, new):
                rounded += 1
            else:
                moved.append(Moved(name, field, old, new))
    return Comparison(tuple(now), tuple(moved), rounded)


def _different(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Place, old and new value of each leaf that is not the same."""
    pairs: Sequence[tuple[Any, Any, Any]]
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = dict.fromkeys((*old, *new))
        pairs = [(n, old.get(n, ABSENT), new.get(n, ABSENT)) for n in names]
    elif isinstance(old, list) and isinstance(new, list):
        both = zip_longest(old, new, fillvalue=ABSENT)
        pairs = [(i, *pair) for i, pair in enumerate(both)]
    else:
        if not _same(old, new):
            yield place, old, new
        return
    for name, before, after in pairs:
        yield from _different(before, after, f"{place}.{name}" if place else str(name))


def _same(old: Any, new: Any) -> bool:
    both_nan = all(isinstance(v, float) and math.isnan(v) for v in (old, new))
    return both_nan or bool(old == new)


def _close(old: Any, new: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
    return numbers and math.isclose(old, new, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _line(name: str, group: Sequence[Moved]) -> str:
    shown = [f"{m.field} {_said(m.stored)} → {_said(m.now)}".strip() for m in group[:SHOWN]]
    rest = [f"and {len(group) - SHOWN} more"] if len(group) > SHOWN else []
    return f"{name}: {', '.join(shown + rest)}"


def _said(value: Any) -> str:
    """A value in few characters, with as many digits as a difference needs."""
    if isinstance(value, Mapping | list):
        return f"{len(value)} values"
    return f"{value:.8g}" if isinstance(value, float) else cell(value)
