"""HTML pages to share: one file of a few kilobytes, with light and dark colours."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Array = NDArray[np.float64]
STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--page:#fff;--soft:#f2f2f2;--a:#0072b2;--b:#d55e00}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--page:#161616;--soft:#262626;--a:#56b4e9;
--b:#e69f00}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:46rem;
margin:2rem auto;padding:0 1rem}
pre,table{background:var(--soft);padding:.8rem;overflow-x:auto;font-size:.85rem}
pre{white-space:pre-wrap}table{display:block;border-spacing:.8rem .1rem}td,th{text-align:left}
svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:12px}
.axis{stroke:var(--ink);fill:none}
"""
WIDTH, HEIGHT, MARGIN = 640, 400, 50
"""Sizes of a picture in its own units; the page scales it."""
ROOM = 0.05
"""Room on each side of the losses, in parts of their range."""
TICKS = 4
"""Approximate number of tick labels along each axis."""


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Make a complete HTML page.

    Parameters
    ----------
    title
        Any text; it is escaped.
    body, style, script
        HTML, CSS and JavaScript, in which texts of users must already be escaped.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    )
    end = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{escape(title)}</h1>{body}'
        f"{end}</body></html>"
    )


@dataclass(frozen=True)
class Plane:
    """The plane of both losses as part of an SVG: SFT to the right, preference upwards.

    Attributes
    ----------
    low, high
        (2,) losses at the ends of the axes, in nats.
    """

    low: Float[np.ndarray, "2"]
    high: Float[np.ndarray, "2"]

    @classmethod
    def around(cls, losses: Float[np.ndarray, "n 2"]) -> Plane:
        """The smallest plane that contains these losses and some room on every side."""
        low, size = losses.min(axis=0), np.maximum(np.ptp(losses, axis=0), 1e-12)
        return cls(low - ROOM * size, low + (1 + ROOM) * size)

    def within(self, losses: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Losses of the plane that are nearest to these."""
        return np.clip(losses, self.low, self.high)

    def place(self, losses: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Coordinates of losses in the picture."""
        at = (losses - self.low) / (self.high - self.low)
        size = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
        return np.asarray(MARGIN + np.column_stack([at[:, 0], 1 - at[:, 1]]) * size)

    def axes(self) -> str:
        """SVG of the axes with their names and tick labels."""
        parts = [
            f'<path class="axis" d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN + 10}H{WIDTH - MARGIN}"/>',
            f'<text x="{WIDTH / 2:g}" y="{HEIGHT - 8}">SFT loss (nats)</text>',
            f'<text x="8" y="{MARGIN - 25}">preference loss (nats)</text>',
        ]
        for axis in (0, 1):
            for value in _round_numbers(self.low[axis], self.high[axis]):
                point = self.low.copy()
                point[axis] = value
                x, y = self.place(point[None])[0].tolist()
                if axis == 0:
                    parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 24}">{value:g}</text>')
                else:
                    parts.append(f'<text x="8" y="{y + 4:.1f}">{value:g}</text>')
        return "".join(parts)


def picture(inside: str, name: str) -> str:
    """Make an inline SVG; `name` is its label for screen readers."""
    label = escape(name, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{inside}</svg>'


def polyline(places: Float[np.ndarray, "n 2"], kind: str) -> str:
    """Make a line through points of the picture, with the CSS class `kind`."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.tolist())
    return f'<polyline class="{kind}" points="{points}"/>'


def _round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, about `TICKS` of them."""
    each = (high - low) / TICKS
    power = 10.0 ** np.floor(np.log10(each))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= each * (1 - 1e-9))
    first = np.ceil(low / step - 1e-9)
    count = int(np.floor(high / step + 1e-9) - first) + 1
    return [float(f"{(first + k) * step:.6g}") for k in range(max(0, count))]
