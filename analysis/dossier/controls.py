"""Interactive plots of a report: plotly curves, form controls, and a table of numbers.

Every curve of a plot, and every row of the table beside it, has the values of the controls to which
it belongs (its ``chosen``). The page shows the curves and rows whose values are all selected. This
rule is the only script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go


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
    """A plot, its controls, and a table of its numbers."""

    name: str
    title: str
    about: str
    controls: tuple[Control, ...]
    html: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def shown(made: Mapping[str, str], chosen: Mapping[str, str]) -> bool:
    """Whether a curve with these values is drawn; the page's script has the same rule."""
    return all(chosen[key] in (value, "all") for key, value in made.items())


def explorer(
    name: str,
    title: str,
    about: str,
    controls: tuple[Control, ...],
    drawn: list[go.Scatter],
    columns: tuple[str, ...],
    rows: list[dict[str, Any]],
    axes: tuple[str, str] = ("SFT loss (nats)", "preference loss (nats)"),
) -> Explorer:
    """Make a plot and its table; curves have their values in ``meta``, rows in ``chosen``."""
    import plotly.graph_objects as go

    from analysis.dossier import curves

    chosen = {control.name: control.start for control in controls}
    figure = go.Figure(drawn)
    for curve in figure.data:
        curve.visible = shown(curve.meta, chosen)
    figure.update_layout(
        template="none",
        height=520,
        font={"family": "system-ui, sans-serif", "size": 14, "color": curves.INK},
        margin={"l": 62, "r": 12, "t": 12, "b": 60},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top",
            "entrywidth": 128, "itemclick": False,
                "itemdoubleclick": False},
        hoverlabel={"bgcolor": "white", "font": {"color": curves.INK, "size": 14}},
        dragmode=False,  # touching the plot scrolls the page
        xaxis=curves.axis(axes[0], [c.x for c in drawn]),
        yaxis=curves.axis(axes[1], [c.y for c in drawn]),
    )  # fmt: skip
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={
            "responsive": True,
            "displaylogo": False,
            "modeBarButtons": [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
        },
    )
    for row in rows:
        row["shown"] = shown(row["chosen"], chosen)
    return Explorer(name, title, about, controls, html, columns, tuple(rows))
