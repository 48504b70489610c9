"""Code that the figures on SmolLM2 share: the source of their numbers, and texts of captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from analysis.dossier import lookup, stamps, style
from analysis.dossier.stored_results import numbers as stored_numbers
from analysis.fernando2024 import stored
from analysis.fernando2024.costs import gpu_run
from analysis.fernando2024.real import smol_methods, smol_plan, smol_runs, smol_study
from analysis.gpu import results
from tradeoff.records import plain

ABOUT = (
    "SmolLM2-135M-Instruct, dequantised from 4 bits (scores are not comparable with published "
    "ones), with adapters on short rows at equal cost, λ = 0.5. What varies is the seed, "
    "n = {seeds}; losses are held out. {intervals}"
)


COLUMNS = 4
"""Panels in a line of a figure."""


def numbers(name: str, fast: bool, *extras: str) -> dict[str, Any]:
    """Numbers of a figure: of a GPU run, else of the runs on this machine, else the stored ones.

    Sources without the kinds of runs that the figure shows come after those with them.

    Parameters
    ----------
    name
        The figure.
    fast
        On the small model.
    *extras
        Kinds of runs beyond the comparison that the figure shows. Then seeds and cost are theirs.
    """
    if fast:
        found = smol_study.go("fast", extras=extras)
        return _as_stored(found["found"], "cpu", found["setting"], extras)
    first = None
    for one in _sources(name, extras):
        if all(beyond(one, kind) for kind in extras):
            return one
        first = first or one
    return first or _as_stored({}, "none", asdict(smol_plan.formed("full", extras=extras)), extras)


def _sources(name: str, extras: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The numbers of each source that has some, the preferred one first."""
    for one in gpu_run.every().values():
        if one["step"] == results.STUDY and one["machine"]["device"] != "cpu":
            round_ = one["rounds"][-1]
            if round_["found"]:
                yield _as_stored(round_["found"], one["machine"]["device"], one["setting"], extras)
    form = smol_plan.formed("full", extras=extras)
    stamps.note(smol_runs.FOLDER / "runs")
    if found := smol_study.summary(form):
        yield _as_stored(found, "cpu", asdict(form), extras)
    path = lookup.place(stored.PAPER, name)
    if path.exists() and stored_numbers(path)["pairs"]:
        yield stored_numbers(path) | {"source": "stored run"}


def _as_stored(
    found: Mapping[str, Any], device: str, setting: Mapping[str, Any], extras: Sequence[str]
) -> dict[str, Any]:
    """Numbers in the form of the stored file, so that both are drawn alike."""
    parts = list(found.values())
    if extras:
        parts = [one["extras"][kind] for one in parts for kind in extras if kind in one["extras"]]
    made: dict[str, Any] = plain(
        {
            "device": device,
            "setting": setting,
            "seeds": min((part["seeds"] for part in parts), default=0),
            "most_seeds": max((part["seeds"] for part in parts), default=0),
            "pairs": {
                pair: _without_cost(one)
                | {"extras": {kind: _without_cost(more) for kind, more in one["extras"].items()}}
                for pair, one in found.items()
            },
            "training": {
                "runs": sum(part["training"]["runs"] for part in parts),
                "cpu_seconds": sum(part["training"]["cpu_seconds"] for part in parts),
            },
        }
    )
    return made


def _without_cost(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "training"}


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields: number of seeds, and whether there are intervals."""
    few, many = numbers["seeds"], numbers.get("most_seeds", numbers["seeds"])
    said = {1: "One seed gives no interval.", 2: "Bars join the values of two seeds."}
    intervals = [said.get(n, "95 % t-intervals.") for n in sorted({few, many})]
    return {
        "seeds": f"{few} seed{'s' * (few != 1)}" if few == many else f"{few} to {many} seeds",
        "intervals": " ".join(dict.fromkeys(intervals)) if many else "There is no run yet.",
    }


def label(one: Mapping[str, Any], name: str) -> str:
    """Name of a method in the numbers of a pair, with a mark if a CPU did some of its runs."""
    on_cpu = one.get("twins", {}).get("runs", {})
    return f"{smol_methods.label(name)} (CPU)" if name in on_cpu else smol_methods.label(name)


def empty(axes: Any) -> None:
    """Write on every panel that there is no run."""
    for ax in axes:
        ax.text(0.5, 0.5, smol_methods.NONE, ha="center", va="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])


def panels(
    out: Path,
    name: str,
    pairs: Mapping[str, Any],
    draw: Callable[[Any, str, Mapping[str, Any]], object],
    *,
    x: str,
    y: str,
    legend: Mapping[str, Any],
    **settings: Any,
) -> None:
    """Draw a figure with a panel for each pair of data sets, up to :data:`COLUMNS` side by side.

    Parameters
    ----------
    out, name
        Folder of the dossier, and the figure.
    pairs
        Numbers to draw, by pair; without any the figure says so.
    draw
        Draws a panel from its axes, the pair, and the numbers of the pair.
    x, y
        Labels of the axes; the left panels alone have that of y.
    legend
        Settings of the legend, which stands in a free place or in the first panel.
    **settings
        Go to :func:`analysis.dossier.style.figure`; the height is that of one line of panels.
    """
    columns = min(COLUMNS, max(1, len(pairs)))
    lines = max(1, -(-len(pairs) // columns))
    height = lines * settings.pop("height", 3.0) * (1.0 if lines == 1 else 0.85)
    with style.figure(lines, columns, squeeze=False, height=height, **settings) as (fig, axes):
        if not pairs:
            empty(axes[0])
        places = axes.ravel()
        for ax, (pair, one) in zip(places, pairs.items(), strict=False):
            draw(ax, pair, one)
            ax.set(title=pair, xlabel=x)
        for ax in axes[:, 0]:
            ax.set_ylabel(y)
        spare = places[max(1, len(pairs)) :]
        for ax in spare:
            ax.set_axis_off()
        if pairs and len(spare):
            spare[0].legend(*places[0].get_legend_handles_labels(), loc="center", **legend)
        elif pairs:
            places[0].legend(**legend)
        style.save(fig, out, name)


def reach(cell: Mapping[str, Any], seeds: int) -> float:
    """Half length of the bar of a mean: a 95 % interval, or with two seeds both values.

    An interval of two values is 12.7 times as long as they are apart, and would hide all else.
    """
    half = float(cell["half_width"] or 0.0)
    return half / float(student.ppf(0.975, 1)) if seeds == 2 else half


def beyond(found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Numbers of a kind of runs beyond the comparison, by pair; empty where there is no run."""
    extras = {pair: one.get("extras", {}).get(kind) for pair, one in found["pairs"].items()}
    return {pair: one for pair, one in extras.items() if one}
