"""The report's interactive plots: stored paths as plotly curves, the choices as form controls.

Every curve and every row of the table beside a plot says for which choices it was made (its
``chosen``); the page shows those whose choices are all taken. That one rule is the only script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from analysis import curves
from analysis.curves import INK
from tradeoff.display import cell

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Control:
    """A choice of the reader.

    Attributes
    ----------
    name, label
        Key in ``chosen``, and what stands beside the control.
    values, texts
        What may be chosen and how that is written.
    start
        The value chosen at first.
    slider
        Whether the values stand in an order that a slider follows.
    """

    name: str
    label: str
    values: tuple[str, ...]
    texts: tuple[str, ...]
    start: str
    slider: bool = False


@dataclass(frozen=True)
class Explorer:
    """A plot, its controls and the numbers it shows as a table."""

    name: str
    title: str
    about: str
    controls: tuple[Control, ...]
    html: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def explorers(results: Results) -> list[Explorer]:
    """All interactive plots, from stored results alone."""
    found = results["explorer"]
    return [_schedules(found), _splits(found), _refresh(found), _language(results)]


def shown(made: Mapping[str, str], chosen: Mapping[str, str]) -> bool:
    """Whether a curve made for some choices is drawn; the page's script says the same."""
    return all(chosen[key] in (value, "all") for key, value in made.items())


# ---------------------------------------------------------------------- the plots


def _schedules(found: Results) -> Explorer:
    paths = found["paths"]
    names = _unique(paths, "schedule")
    lambdas, runs = _unique(paths, "lambda"), _unique(paths, "run")
    controls = (
        Control("schedule", "Schedule", ("all", *names), ("all five", *names), "all"),
        Control(
            "lambda", "λ, weight of the preference", ("all", *lambdas), ("all", *lambdas), "0.5"
        ),
        Control(
            "run",
            "Run",
            (*runs, "all"),
            (
                f"mean of {found['replicas']} seeds",
                *(f"seed {r}" for r in runs[1:]),
                "all of these",
            ),
            "mean",
        ),
    )
    drawn = [*curves.front(found["fronts"]["laboratory"]), *curves.legend(names)]
    for lam, losses in found["targets"].items():
        drawn.append(curves.target(losses, {"lambda": lam}, f"asked for: λ = {lam}"))
    drawn += [curves.path(path, path["chosen"]["schedule"]) for path in paths]
    rows = [
        {
            "chosen": path["chosen"],
            "cells": [*path["chosen"].values(), *_end(path), cell(path["regret"]),
                      cell(path["matched_weight"])],
        }
        for path in paths
    ]  # fmt: skip
    return _explorer(
        "explore-schedules",
        "Choose a schedule, a weight and a seed",
        f"Every path spends {found['gradients']:,} gradients on one problem. The large marker is "
        "where it ends, the hollow circle the best policy for the weight that was asked for, the "
        "grey curve the certified front.",
        controls,
        drawn,
        ("schedule", "λ", "run", "SFT loss", "preference loss", "regret", "matched weight"),
        rows,
    )


def _splits(found: Results) -> Explorer:
    paths, joint = found["splits"], found["paths"]
    shares = _unique(paths, "share")
    percent = tuple(f"{100 * float(share):.0f} %" for share in shares)
    controls = (
        Control("share", "Share of the preference stage", shares, percent, "0.5", slider=True),
    )
    drawn = [
        *curves.front(found["fronts"]["laboratory"]),
        *curves.legend(dict.fromkeys(path["schedule"] for path in paths)),
        curves.target(found["targets"]["0.5"], {}, "asked for: λ = 1/2"),
    ]
    ends = [p for p in joint if p["chosen"]["lambda"] == "0.5" and p["chosen"]["run"] == "mean"]
    for end in ends[2:]:
        drawn.append(curves.marker(end["chosen"]["schedule"], _last(end), {}))
    drawn += [curves.path(path, path["schedule"]) for path in paths]
    rows = [
        {"chosen": path["chosen"], "cells": [path["schedule"], text, *_end(path),
                                             cell(path["regret"])]}
        for path in paths
        for text in [percent[shares.index(path["chosen"]["share"])]]
    ]  # fmt: skip
    rows += [
        {"chosen": {}, "cells": [end["chosen"]["schedule"], "joint", *_end(end),
                                 cell(end["regret"])]}
        for end in ends[2:]
    ]  # fmt: skip
    return _explorer(
        "explore-splits",
        "Move the budget between the two stages",
        f"Training in turn on {found['gradients']:,} gradients, of which the preference stage gets "
        f"the share that you choose; means of {found['replicas']} seeds. The joint methods, at the "
        "same budget, are single markers.",
        controls,
        drawn,
        ("schedule", "preference stage", "SFT loss", "preference loss", "regret at λ = 1/2"),
        rows,
    )


def _refresh(found: Results) -> Explorer:
    paths = found["refresh"]
    intervals, instances = _unique(paths, "k"), _unique(paths, "instance")
    texts = ("every update", *(f"every {k} updates" for k in intervals[1:-1]), "never")
    controls = (
        Control("k", "Values refreshed", intervals, texts, "1", slider=True),
        Control("instance", "Problem", instances, instances, "1"),
    )
    drawn = [*curves.legend(["MAXRIGHT"], dash="solid")]
    for instance in instances:
        made = {"instance": instance}
        drawn += curves.front(found["fronts"][f"instance {instance}"], made)
        drawn.append(curves.target(found["aims"][int(instance) - 1], made, "asked for: λ = 1/4"))
    for path in paths:
        drawn.append(curves.path(path, "MAXRIGHT", dash="solid"))
        drawn.append(curves.marker("MAXRIGHT", path["average"], path["chosen"], "its average"))
    rows = [
        {
            "chosen": path["chosen"],
            "cells": [path["chosen"]["instance"], texts[intervals.index(path["chosen"]["k"])],
                      *map(cell, path["average"]), cell(path["matched_weight"])],
        }
        for path in paths
    ]  # fmt: skip
    return _explorer(
        "explore-refresh",
        "Let MAXRIGHT's values go stale",
        "One run of MAXRIGHT at λ = 1/4 and a constant step. Fresh values keep it near one place; "
        "stale ones let the path swing along the front and drag its average (triangle) away.",
        controls,
        drawn,
        ("problem", "refreshed", "SFT loss of the average", "preference loss of the average",
         "matched weight"),
        rows,
    )  # fmt: skip


def _language(results: Results) -> Explorer:
    found = results["lm_loss_space"]
    names, lambdas = tuple(found["methods"]), tuple(str(lam) for lam in found["lambdas"])
    controls = (
        Control("schedule", "Schedule", ("all", *names), ("all five", *names), "all"),
        Control(
            "lambda", "λ, weight of the preference", ("all", *lambdas), ("all", *lambdas), "0.5"
        ),
    )
    keys = {"exact match": "exact_match", "preferred style": "preference_match",
            "SFT loss": "sft_loss", "preference loss": "preference_loss"}  # fmt: skip
    drawn, rows = [*curves.legend(names)], []
    for name in names:
        for at, lam in enumerate(lambdas):
            scores = found["methods"][name]
            both = [scores["exact_match"], scores["preference_match"]]
            chosen = {"schedule": name, "lambda": lam}
            curve = curves.marker(name, [score["mean"][at] for score in both], chosen)
            for axis, score in zip(("error_x", "error_y"), both, strict=True):
                bar = {"array": [score["half_width"][at]], "thickness": 1.5, "width": 3}
                curve.update({axis: bar})
            curve.hovertemplate = (
                f"<b>{name}</b>, λ = {lam}<br>exact match %{{x:.2f}}"
                "<br>preferred style %{y:.2f}<extra></extra>"
            )
            drawn.append(curve)
            cells = [f"{scores[key]['mean'][at]:.3f} ± {scores[key]['half_width'][at]:.3f}"
                     for key in keys.values()]  # fmt: skip
            rows.append({"chosen": chosen, "cells": [name, lam, *cells]})
    return _explorer(
        "explore-language",
        "The same choice, with a trained language model",
        f"Where the tiny language model ends after {found['gradients']} gradients, means of "
        f"{found['seeds']} seeds with 95 % t-intervals, on held-out prompts. Up and to the right "
        "is better.",
        controls,
        drawn,
        ("schedule", "λ", *keys),
        rows,
        axes=("exact match with the demonstrations", "responses in the preferred style"),
    )


# ---------------------------------------------------------------------- assembly


def _explorer(
    name: str,
    title: str,
    about: str,
    controls: tuple[Control, ...],
    drawn: list[go.Scatter],
    columns: tuple[str, ...],
    rows: list[dict[str, Any]],
    axes: tuple[str, str] = ("SFT loss (nats)", "preference loss (nats)"),
) -> Explorer:
    chosen = {control.name: control.start for control in controls}
    figure = go.Figure(drawn)
    for curve in figure.data:
        curve.visible = shown(curve.meta, chosen)
    figure.update_layout(
        template="none",
        height=520,
        font={"family": "system-ui, sans-serif", "size": 14, "color": INK},
        margin={"l": 62, "r": 12, "t": 12, "b": 60},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top",
            "entrywidth": 128, "itemclick": False,
                "itemdoubleclick": False},
        hoverlabel={"bgcolor": "white", "font": {"color": INK, "size": 14}},
        dragmode=False,  # a finger on the plot scrolls the page
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


def _unique(paths: Sequence[Results], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path["chosen"][key] for path in paths))


def _last(path: Results) -> list[float]:
    return [path["sft_loss"][-1], path["preference_loss"][-1]]


def _end(path: Results) -> list[str]:
    return [f"{value:.3f}" for value in _last(path)]
