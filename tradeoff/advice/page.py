"""The advice as one HTML page of a few kilobytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tradeoff._pages import Plane, document, polyline
from tradeoff._pages import picture as svg_of
from tradeoff.advice.picture import MARKS

Array = NDArray[np.float64]
STYLE = """
.front{fill:none;stroke:var(--a);stroke-width:2}.train{stroke:var(--b);stroke-dasharray:5 4}
.dot{fill:var(--ink)}pre{white-space:pre}
"""


def page(
    title: str,
    sentences: Sequence[str],
    command: str,
    cautions: Sequence[str],
    picture: Mapping[str, Array],
    tables: Mapping[str, pd.DataFrame],
) -> str:
    """The whole page; texts of users are escaped."""
    lines = (escape(text).replace(" %", "&nbsp;%") for text in sentences)
    said = "".join(f"<li>{line}</li>" for line in lines)
    warned = "".join(f"<li>{escape(text)}</li>" for text in cautions)
    body = [f"<ol>{said}</ol>"]
    body.append(f"<h2>Train</h2><pre>{escape(command)}</pre>")
    if warned:
        body.append(f"<h2>Cautions</h2><ul>{warned}</ul>")
    body.append(f"<h2>Loss space</h2>{loss_space(picture)}")
    details = "".join(
        f"<h3>{escape(name)}</h3>{table.to_html(border=0)}" for name, table in tables.items()
    )
    body.append(f"<details><summary>All numbers</summary>{details}</details>")
    return document(title, "".join(body), style=STYLE)


def loss_space(picture: Mapping[str, Array]) -> str:
    """Policies, the held-out front and the training front, as an inline SVG with a legend."""
    points = np.stack([picture[name] for name in MARKS])
    plane = Plane.around(np.concatenate([points, picture["front"], picture["train front"]]))
    parts = [plane.axes()]
    for name, kind in (("front", "front"), ("train front", "front train")):
        parts.append(polyline(plane.place(picture[name]), kind))
    legend = []
    for (name, mark), (x, y), loss in zip(
        MARKS.items(), plane.place(points).tolist(), points.tolist(), strict=True
    ):
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{name}</title></circle>'
        )
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}">{mark}</text>')
        legend.append(f"<b>{mark}</b> {name} ({loss[0]:.2g}, {loss[1]:.2g})")
    svg = svg_of("".join(parts), "Loss space")
    lines = "Solid: optima of all weights on held-out rows; dashed: on the rows trained on."
    return f"{svg}<p>{'; '.join(legend)}. {lines}</p>"
