"""Curves of the report's interactive plots, in the look of the other figures.

A curve is a mapping that the page draws: places ``x`` and ``y``, ``color``, ``dash`` of the line,
``symbol`` and ``size`` of the last point, and the choices for which it is drawn (``meta``). Colours
named ``ink``, ``quiet`` and ``front`` are those of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tradeoff.methods import find
from tradeoff.plots import look

Results = Mapping[str, Any]
Curve = dict[str, Any]
# By the name in the catalogue.
DASHES = {"sft-dpo": "", "dpo-sft": "8 4", "mix": "2 3", "alright": "8 3 2 3",
          "maxright": "13 5"}  # fmt: skip
SYMBOLS = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle", "P": "cross"}
BLACK = "#000000"
"""Is drawn as ``ink``, which a dark page makes light."""


def label(key: str) -> str:
    """The label of a method of the catalogue."""
    return find(key).family


def path(run: Results, key: str, dash: str | None = None) -> Curve:
    """A run through the plane of both losses, with a large marker where it ends."""
    return {
        "x": list(run["sft_loss"]),
        "y": list(run["preference_loss"]),
        "steps": [int(step) for step in run["gradients"]],
        "name": label(key),
        "dash": DASHES[key] if dash is None else dash,
        "line": 1.8,
        "symbol": SYMBOLS[look(key).marker],
        "size": 6.5,
        "color": _color(key),
        "meta": dict(run["chosen"]),
    }


def marker(
    key: str, losses: Sequence[float], chosen: Mapping[str, str], name: str = "", **more: Any
) -> Curve:
    """Where a method ends; ``more`` replaces what is drawn."""
    return {
        "x": [losses[0]],
        "y": [losses[1]],
        "name": name or label(key),
        "legend": not chosen or bool(name),
        "symbol": SYMBOLS["^" if name else look(key).marker],
        "size": 7.5 if name else 6.5,
        "color": _color(key),
        "meta": dict(chosen),
        **more,
    }


def legend(keys: Iterable[str], dash: str | None = None) -> Iterator[Curve]:
    """Keys of the legend, which stay whatever is chosen."""
    for key in keys:
        yield {
            "x": [],
            "y": [],
            "name": label(key),
            "legend": True,
            "dash": DASHES[key] if dash is None else dash,
            "line": 1.8,
            "symbol": SYMBOLS[look(key).marker],
            "size": 5,
            "color": _color(key),
            "meta": {},
        }


def target(losses: Sequence[float], chosen: dict[str, str], name: str) -> Curve:
    """The best policy for the weight that was asked for, as a ring."""
    return {"x": [losses[0]], "y": [losses[1]], "name": name, "legend": True, "symbol": "circle",
            "size": 8.5, "hollow": True, "color": "ink", "meta": chosen}  # fmt: skip


def arrow(start: Sequence[float], end: Sequence[float], chosen: dict[str, str]) -> Curve:
    """From where a run ended to the point that was asked for."""
    return {"x": [start[0], end[0]], "y": [start[1], end[1]], "name": "", "dash": "", "line": 2.4,
            "arrow": True, "color": "ink", "meta": chosen}  # fmt: skip


def front(found: Results, chosen: dict[str, str] | None = None) -> list[Curve]:
    """The certified front and its ideal point."""
    x, y = zip(*found["curve"], strict=True)
    made = chosen or {}
    return [
        {"x": list(x), "y": list(y), "name": "certified front", "legend": True, "dash": "",
         "line": 7, "color": "front", "meta": made},
        {"x": [found["ideal"][0]], "y": [found["ideal"][1]], "name": "ideal point", "legend": True,
         "symbol": "star", "size": 7, "color": "ink", "meta": made},
    ]  # fmt: skip


def axis(title: str, values: list[Any]) -> dict[str, Any]:
    """An axis over all curves, so that it stays where it is when the choice changes."""
    flat = [value for curve in values for value in curve]
    pad = 0.05 * (max(flat) - min(flat))
    return {"title": title, "range": [min(flat) - pad, max(flat) + pad]}


def _color(key: str) -> str:
    color = look(key).color
    return "ink" if color == BLACK else color
