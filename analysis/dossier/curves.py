"""Curves of the report's interactive plots, in the style of the other figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from tradeoff.methods import find
from tradeoff.plots import look

Results = Mapping[str, Any]
# Line styles, by name in the catalogue.
DASHES = {"sft-dpo": "solid", "dpo-sft": "dash", "mix": "dot", "alright": "dashdot",
          "maxright": "longdash"}  # fmt: skip
SYMBOLS = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "P": "cross"}
INK, GRID = "#1b1f24", "#e4e4e0"
HOVER = (
    "<b>%{fullData.name}</b>, after %{customdata:,} gradients<br>SFT loss %{x:.3f} nats"
    "<br>preference loss %{y:.3f} nats<extra></extra>"
)


def label(key: str) -> str:
    """The label of a method of the catalogue."""
    return find(key).family


def path(run: Results, key: str, dash: str = "") -> go.Scatter:
    """The path of a run through the plane of both losses, with a large marker at its end."""
    style, steps = look(key), len(run["gradients"])
    return go.Scatter(
        x=run["sft_loss"],
        y=run["preference_loss"],
        customdata=run["gradients"],
        mode="lines+markers",
        name=label(key),
        showlegend=False,
        line={"color": style.color, "dash": dash or DASHES[key], "width": 1.8},
        marker={"color": style.color, "symbol": SYMBOLS[style.marker], "opacity": 1,
                "size": [4] * (steps - 1) + [13], "line": {"width": 0}},
        hovertemplate=HOVER,
        meta=run["chosen"],
    )  # fmt: skip


def marker(
    key: str, losses: Sequence[float], chosen: Mapping[str, str], name: str = ""
) -> go.Scatter:
    """A marker at the final losses of a method."""
    style = look(key)
    edge = {"color": "white" if name else style.color, "width": 2 if name else 0}
    return go.Scatter(
        x=[losses[0]],
        y=[losses[1]],
        mode="markers",
        name=name or label(key),
        showlegend=not chosen or bool(name),
        marker={"color": style.color, "symbol": SYMBOLS["^" if name else style.marker],
                "size": 15 if name else 13, "line": edge},
        hovertemplate="<b>%{fullData.name}</b><br>SFT loss %{x:.3f} nats"
        "<br>preference loss %{y:.3f} nats<extra></extra>",
        meta=dict(chosen),
    )  # fmt: skip


def legend(keys: Iterable[str], dash: str = "") -> Iterator[go.Scatter]:
    """Entries of the legend, which do not depend on the controls."""
    for key in keys:
        style = look(key)
        yield go.Scatter(
            x=[None],
            y=[None],
            mode="lines+markers",
            name=label(key),
            line={"color": style.color, "dash": dash or DASHES[key]},
            marker={"color": style.color, "symbol": SYMBOLS[style.marker], "size": 10},
            meta={},
        )


def target(losses: Sequence[float], chosen: dict[str, str], name: str) -> go.Scatter:
    return go.Scatter(
        x=[losses[0]],
        y=[losses[1]],
        mode="markers",
        name=name,
        marker={"color": INK, "symbol": "circle-open", "size": 17, "line": {"width": 2}},
        hovertemplate="<b>%{fullData.name}</b><br>SFT loss %{x:.3f} nats"
        "<br>preference loss %{y:.3f} nats<extra></extra>",
        meta=chosen,
    )


def front(found: Results, chosen: dict[str, str] | None = None) -> list[go.Scatter]:
    """The certified front and its ideal point."""
    x, y = zip(*found["curve"], strict=True)
    made = chosen or {}
    return [
        go.Scatter(x=x, y=y, mode="lines", name="certified front", hoverinfo="skip", meta=made,
                   line={"color": "#b5b5ae", "width": 7}),
        go.Scatter(x=[found["ideal"][0]], y=[found["ideal"][1]], mode="markers", meta=made,
                   name="ideal point", hovertemplate="ideal point<extra></extra>",
                   marker={"color": INK, "symbol": "star", "size": 13}),
    ]  # fmt: skip


def axis(title: str, values: list[Any]) -> dict[str, Any]:
    """An axis with the range of all curves, so that it stays fixed when a control changes."""
    flat = [value for curve in values for value in curve if value is not None]
    pad = 0.05 * (max(flat) - min(flat))
    return {
        "title": {"text": title, "standoff": 8},
        "range": [min(flat) - pad, max(flat) + pad],
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "#8a8a84",
        "ticks": "outside",
    }
