"""Interactive plots of a report: curves as data, the choices as form controls, a table of numbers.

Every curve, every sentence and every row of the table beside a plot says for which choices it was
made (its ``chosen``); the page shows those whose choices are all taken, and its script draws them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.dossier import curves


@dataclass(frozen=True)
class Control:
    """A form control.

    Attributes
    ----------
    name, label
        Key in ``chosen``, and the label of the control.
    values, texts
        The values, and their texts on the page.
    start
        The value that is selected first.
    slider
        Whether the values are ordered, so that the control is a slider.
    """

    name: str
    label: str
    values: tuple[str, ...]
    texts: tuple[str, ...]
    start: str
    slider: bool = False


@dataclass(frozen=True)
class Explorer:
    """A plot, its controls and the numbers it shows as a table.

    Attributes
    ----------
    data
        Curves and axes as JSON, safe within a script element.
    notes
        Sentences below the plot: ``chosen``, ``text`` and ``shown``, whether it is there at first.
    """

    name: str
    title: str
    about: str
    controls: tuple[Control, ...]
    data: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[dict[str, Any], ...] = ()


def shown(made: Mapping[str, str], chosen: Mapping[str, str]) -> bool:
    """Whether a curve with these values is drawn; the page's script has the same rule."""
    return all(chosen[key] in (value, "all") for key, value in made.items())


def explorer(
    name: str,
    title: str,
    about: str,
    controls: tuple[Control, ...],
    drawn: Sequence[curves.Curve],
    columns: tuple[str, ...],
    rows: list[dict[str, Any]],
    notes: Sequence[dict[str, Any]] = (),
    axes: tuple[str, str] = ("SFT loss (nats)", "preference loss (nats)"),
) -> Explorer:
    """A plot of curves, which have their choices as ``meta``, and of rows, as ``chosen``."""
    chosen = {control.name: control.start for control in controls}
    for part in (*rows, *notes):
        part["shown"] = shown(part["chosen"], chosen)
    places = [[value for curve in drawn for value in curve[key]] for key in ("x", "y")]
    plot = {
        "x": curves.axis(axes[0], [places[0]]),
        "y": curves.axis(axes[1], [places[1]]),
        "curves": drawn,
    }
    # A text of a result that ends the script element stays a text.
    data = json.dumps(plot, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return Explorer(name, title, about, controls, data, columns, tuple(rows), tuple(notes))
