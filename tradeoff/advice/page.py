"""The advice as one HTML page: self-contained, a few kilobytes, readable in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tradeoff.advice.picture import MARKS

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
.front{fill:none;stroke:var(--a);stroke-width:2}.train{stroke:var(--b);stroke-dasharray:5 4}
.dot{fill:var(--ink)}.axis{stroke:var(--ink);fill:none}
"""
WIDTH, HEIGHT, MARGIN = 640, 400, 50


def page(
    title: str,
    sentences: Sequence[str],
    command: str,
    cautions: Sequence[str],
    picture: Mapping[str, Array],
    tables: Mapping[str, pd.DataFrame],
) -> str:
    """The whole page; texts of users are escaped."""
    said = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    warned = "".join(f"<li>{escape(text)}</li>" for text in cautions)
    body: list[Any] = [f"<h1>{escape(title)}</h1><ol>{said}</ol>"]
    body.append(f"<h2>Train</h2><pre>{escape(command)}</pre>")
    if warned:
        body.append(f"<h2>Cautions</h2><ul>{warned}</ul>")
    body.append(f"<h2>Loss space</h2>{loss_space(picture)}")
    details = "".join(
        f"<h3>{escape(name)}</h3>{table.to_html(border=0)}" for name, table in tables.items()
    )
    body.append(f"<details><summary>All numbers</summary>{details}</details>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>'


def loss_space(picture: Mapping[str, Array]) -> str:
    """Policies, the held-out front and the training front, as an inline SVG with a legend."""
    points = np.stack([picture[name] for name in MARKS])
    whole = np.concatenate([points, picture["front"], picture["train front"]])
    low, span = whole.min(0), np.maximum(np.ptp(whole, axis=0), 1e-12)
    size = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])

    def place(values: Array) -> Array:
        at = (values - low) / span
        return MARGIN + np.column_stack([at[:, 0], 1 - at[:, 1]]) * size

    parts = [
        f'<path class="axis" d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN + 10}H{WIDTH - MARGIN}"/>',
        f'<text x="{WIDTH / 2:g}" y="{HEIGHT - 12}">SFT loss (nats)</text>',
        f'<text x="8" y="{MARGIN - 25}">preference loss (nats)</text>',
    ]
    for name, kind in (("front", "front"), ("train front", "front train")):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place(picture[name]).tolist())
        parts.append(f'<polyline class="{kind}" points="{line}"/>')
    legend = []
    for (name, mark), (x, y), loss in zip(
        MARKS.items(), place(points).tolist(), points.tolist(), strict=True
    ):
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{name}</title></circle>'
        )
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}">{mark}</text>')
        legend.append(f"<b>{mark}</b> {name} ({loss[0]:.2g}, {loss[1]:.2g})")
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    lines = "Solid: optima of all weights on held-out rows; dashed: on the rows trained on."
    return f"{svg}<p>{'; '.join(legend)}. {lines}</p>"
