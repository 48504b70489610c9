"""A comparison as one HTML page: a picture, a table to sort, and how it came about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tradeoff import plots
from tradeoff._pages import Plane, document, picture, polyline
from tradeoff.display import cell

Array = NDArray[np.float64]
STYLE = """
body{max-width:62rem}th{cursor:pointer}th[aria-sort=ascending]:after{content:" \\2191"}
th[aria-sort=descending]:after{content:" \\2193"}td.n,th.n{text-align:right}
.bar{stroke:var(--c);stroke-width:1}.path{stroke:var(--c);fill:none;stroke-width:1.5;opacity:.6}
circle.dot{fill:var(--c)}
.best{font-weight:bold}@media print{details{display:block}}
"""
SORT = """
for(const table of document.querySelectorAll("table.sort"))
for(const head of table.querySelectorAll("th")){
const turn=()=>{const up=head.getAttribute("aria-sort")!=="ascending",at=head.cellIndex,
body=table.tBodies[0],value=row=>row.cells[at].dataset.v??row.cells[at].textContent,
order=(a,b)=>{const x=value(a),y=value(b),n=x-y;if(x===""||y==="")return(x==="")-(y==="");
return(up?1:-1)*(Number.isNaN(n)?x.localeCompare(y):n)};
for(const other of table.querySelectorAll("th"))other.removeAttribute("aria-sort");
head.setAttribute("aria-sort",up?"ascending":"descending");
body.append(...[...body.rows].sort(order))};
head.tabIndex=0;head.onclick=turn;head.onkeydown=e=>{if(e.key==="Enter")turn()}}
"""
MORE_COLOURS = ("#7f3c8d", "#11a579", "#e73f74", "#80ba5a", "#f2b701", "#4b4b8f", "#a5aa99")
"""For methods without a colour of their own."""
HEADS = {
    "method": "method",
    "settings": "settings",
    "lam": "λ",
    "n": "seeds",
    "diverged": "diverged",
    "sft_loss": "SFT loss",
    "preference_loss": "preference loss",
    "weighted_loss": "weighted loss",
    "behind_best": "behind best",
    "preference_accuracy": "accuracy",
    "gradients": "gradients",
    "tokens": "tokens",
    "seconds": "seconds",
}
"""Columns of the table, with their titles."""
HOW = (
    "Losses are of held-out rows, in nats: SFT per token, preferences per pair. Behind the sign ± "
    "is the half-width of a 95 % t-interval over seeds; with one seed there is none. The weighted "
    "loss is (1 - λ) SFT + λ preference, so compare it within one λ. Behind best is how much "
    "larger it is than that of the best method at this λ, seed by seed; as the best was chosen by "
    "the same runs, small differences say little. Cost is that of training: gradients of a batch "
    "(a look at a loss is a third of one), tokens read, seconds. Bold: no other row has less of "
    "both losses."
)


def page(
    title: str,
    methods: pd.DataFrame,
    runs: pd.DataFrame,
    start: Array,
    remarks: Sequence[str],
    about: dict[str, Any],
) -> str:
    """The whole page; texts of users are escaped."""
    seeds = sorted(set(runs.seed.tolist()))
    listed = ", ".join(map(str, seeds))
    said = f"{len(runs)} runs, seeds {listed}." if len(seeds) > 1 else f"One seed, {listed}."
    body = [f"<p>{said}</p>", loss_space(methods, start)]
    body.append(f"<h2>Methods</h2>{table(methods)}<p>{escape(HOW)}</p>")
    if remarks:
        body.append(f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in remarks)}</ul>")
    every = runs.to_html(index=False, border=0, float_format=cell)
    body.append(f"<details><summary>Every run</summary>{every}</details>")
    settings = json.dumps(about, indent=1, ensure_ascii=False)
    body.append(
        "<details><summary>Settings that all runs share</summary>"
        f"<pre>{escape(settings)}</pre></details>"
    )
    return document(title, "".join(body), style=STYLE, script=SORT)


def table(methods: pd.DataFrame) -> str:
    """The table of all methods; a click on a title sorts by it."""
    shown = [name for name in HEADS if _says_something(methods, name)]
    numeric = {name for name in shown if methods[name].dtype.kind in "fi"}
    heads = "".join(f"<th{_kind(name in numeric)}>{escape(HEADS[name])}</th>" for name in shown)
    rows = []
    for row in methods.to_dict("records"):
        cells = "".join(_cell(row, name, name in numeric) for name in shown)
        rows.append(f"<tr{' class=best' if row['undominated'] else ''}>{cells}</tr>")
    return (
        f'<table class="sort"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _says_something(methods: pd.DataFrame, name: str) -> bool:
    """Whether a column is worth its place: not where no row has settings, or diverged."""
    if name in ("settings", "diverged"):
        return bool(methods[name].astype(bool).any())
    return bool(methods[name].notna().any())


def _kind(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _cell(row: dict[Any, Any], name: str, numeric: bool) -> str:
    value, half = row[name], row.get(f"± {name}", np.nan)
    if not numeric:
        return f"<td>{escape(str(value))}</td>"
    text = with_interval(value, half)
    return f'<td class="n" data-v="{"" if value != value else value}">{escape(text)}</td>'


def with_interval(value: float, half: float) -> str:
    """A mean with the half-width of its interval, to the digits that this allows."""
    if value != value:
        return ""
    if half != half:
        return f"{value:,}" if isinstance(value, int) else cell(value)
    digits = 4 if half <= 0 else int(np.clip(1 - np.floor(np.log10(half)), 0, 4))
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def loss_space(methods: pd.DataFrame, start: Array) -> str:
    """Both held-out losses of each method and weight, with intervals, as an inline SVG."""
    names = ["sft_loss", "preference_loss"]
    good = methods[methods[names].notna().all(axis=1)]
    if good.empty:
        return "<p>No run has ended with finite losses.</p>"
    known = np.isfinite(start).all()
    losses = good[names].to_numpy()
    plane = Plane.around(np.concatenate([losses, start[None]]) if known else losses)
    parts, legend = [plane.axes()], []
    for (key, group), colour in zip(
        good.groupby(["method", "settings"], sort=False), _colours(good), strict=True
    ):
        name = " ".join(str(part) for part in key if part)
        parts.append(_one_method(group.sort_values("lam"), plane, name, colour))
        legend.append(f'<span style="color:{colour}">&#9679;</span> {escape(name)}')
    if known:
        x, y = plane.place(start[None])[0].tolist()
        parts.append(f'<circle class="axis" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        legend.append("&#9675; before training")
    text = (
        "Each dot is one λ, named beside it; lines are 95 % intervals over seeds, cut at the edge."
    )
    svg = picture("".join(parts), "Held-out SFT and preference loss of each method")
    return f"{svg}<p>{'; '.join(legend)}. {text}</p>"


def _colours(good: pd.DataFrame) -> list[str]:
    """A colour for each method; that of all figures where it has one."""
    more = iter(MORE_COLOURS * len(good))
    found, used = [], set()
    for label in good.groupby(["method", "settings"], sort=False).first().index:
        own = plots.look(label[0]).color
        own = "currentColor" if own == "#000000" else own
        if own == plots.OTHER.color or own in used:
            own = next(more)
        used.add(own)
        found.append(own)
    return found


def _one_method(group: pd.DataFrame, plane: Plane, name: str, colour: str) -> str:
    """Dots of a method over its weights, joined, with bars for both intervals."""
    losses = group[["sft_loss", "preference_loss"]].to_numpy()
    halves = np.nan_to_num(group[["± sft_loss", "± preference_loss"]].to_numpy())
    places = plane.place(losses)
    parts = [polyline(places, "path")] if len(places) > 1 else []
    for axis in (0, 1):
        step = halves * np.eye(2)[axis]
        low, high = (plane.place(plane.within(losses + sign * step)) for sign in (-1, 1))
        for a, b in zip(low, high, strict=True):
            ends = "M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*a.tolist(), *b.tolist())
            parts.append(f'<path class="bar" d="{ends}"/>')
    for (x, y), lam, loss in zip(places.tolist(), group.lam, losses, strict=True):
        about = escape(f"{name}, λ = {lam:g}: SFT {loss[0]:.4g}, preference {loss[1]:.4g}")
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{about}</title>'
            f'</circle><text x="{x + 6:.1f}" y="{y - 5:.1f}">{lam:g}</text>'
        )
    return f'<g style="--c:{colour}">{"".join(parts)}</g>'
