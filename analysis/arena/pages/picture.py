"""The family of a method beside the certified fronts, as a small SVG; drawn without matplotlib.

There is one for each method, and a site is built in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.arena.stored import LIMIT

Array = NDArray[np.float64]
SIDE, GAP, TOP, LEFT = 150, 18, 22, 26
"""Pixels of a panel, between panels, above them and left of them."""
LOW = -0.05
"""Least loss in a panel, in units of the front's ranges; the largest is :data:`LIMIT`."""
STYLE = (
    "text{font:11px sans-serif;fill:#333}polyline{fill:none}.box{fill:#fff;stroke:#ccc}"
    ".front{stroke:#999;stroke-width:3}.mix{stroke:#333;stroke-dasharray:2 3}"
    ".own{stroke:#c44e00;stroke-width:2}.own-dot{fill:#c44e00}"
)


def picture(methods: Sequence[str], families: Mapping[str, tuple[Array, Array]], name: str) -> str:
    """SVG of one method beside Mix and the front, a panel for each problem.

    Parameters
    ----------
    methods
        Those of the board.
    families
        Front and ends by problem, of :func:`analysis.arena.stored.family`.
    name
        A method of the board.
    """
    width = LEFT + len(families) * (SIDE + GAP)
    mix, own = methods.index("mix"), methods.index(name)
    panels = [
        _panel(problem, front, ends[mix], ends[own], LEFT + place * (SIDE + GAP))
        for place, (problem, (front, ends)) in enumerate(families.items())
    ]
    middle = TOP + SIDE / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + SIDE + 20}">'
        f"<style>{STYLE}</style>"
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
        f"preference loss</text>{''.join(panels)}</svg>"
    )


def _panel(problem: str, front: Array, mix: Array, own: Array, x: float) -> str:
    dots = "".join(
        f'<circle class="own-dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in _pixels(own)
    )
    lines = "".join(
        _line(kind, points) for kind, points in (("front", front), ("mix", mix), ("own", own))
    )
    return (
        f'<svg x="{x}" y="{TOP}" width="{SIDE}" height="{SIDE}">'
        f'<rect class="box" width="{SIDE}" height="{SIDE}"/>{lines}{dots}</svg>'
        f'<text x="{x + SIDE / 2}" y="14" text-anchor="middle">{problem}</text>'
        f'<text x="{x + SIDE / 2}" y="{TOP + SIDE + 14}" text-anchor="middle">SFT loss</text>'
    )


def _line(kind: str, points: Array) -> str:
    joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in _pixels(points))
    return f'<polyline class="{kind}" points="{joined}"/>'


def _pixels(points: Array) -> Array:
    """(n, 2) places in a panel of losses in units of the front's ranges."""
    share = (points - LOW) / (LIMIT - LOW)
    return np.stack([share[:, 0], 1 - share[:, 1]], axis=-1) * SIDE
