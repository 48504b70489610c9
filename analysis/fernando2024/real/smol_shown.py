"""Code that the figures on SmolLM2 share: the source of their numbers, and texts of captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from analysis.dossier import lookup, stamps
from analysis.dossier.stored_results import numbers as stored_numbers
from analysis.fernando2024 import stored
from analysis.fernando2024.costs import gpu_run
from analysis.fernando2024.real import smol_methods, smol_plan, smol_runs, smol_study
from tradeoff.records import plain

ABOUT = (
    "SmolLM2-135M-Instruct, dequantised from 4 bits (scores are not comparable with published "
    "ones), with adapters on short rows at equal cost, λ = 0.5. What varies is the seed, "
    "n = {seeds}; losses are held out. {intervals}"
)


def numbers(name: str, fast: bool, *extras: str) -> dict[str, Any]:
    """Numbers of a figure: of a GPU run, else of the runs on this machine, else the stored ones.

    Parameters
    ----------
    name
        The figure.
    fast
        On the small model.
    *extras
        Kinds of runs beyond the comparison that the figure shows. Then ``seeds`` is their number.
    """
    found = _numbers(name, fast, *extras)
    own = [one["seeds"] for kind in extras for one in beyond(found, kind).values()]
    if extras:
        found["seeds"] = min(own, default=0)
    if extras and not own and "training" in found:
        found["training"] = {"runs": 0, "cpu_seconds": 0.0}
    return found


def _numbers(name: str, fast: bool, *extras: str) -> dict[str, Any]:
    if fast:
        found = smol_study.go("fast", extras=extras)
        return _as_stored(found["found"], "cpu", found["setting"])
    for one in gpu_run.every().values():
        if one["step"] == gpu_run.STUDY and one["machine"]["device"] != "cpu":
            round_ = one["rounds"][-1]
            if round_["found"]:
                return _as_stored(round_["found"], one["machine"]["device"], one["setting"])
    form = smol_plan.formed("full", extras=extras)
    stamps.note(smol_runs.FOLDER / "runs")
    if found := smol_study.summary(form):
        return _as_stored(found, "cpu", asdict(form))
    path = lookup.place(stored.PAPER, name)
    if path.exists() and stored_numbers(path)["pairs"]:
        return stored_numbers(path) | {"source": "stored run"}
    return _as_stored({}, "none", asdict(form))


def _as_stored(found: Mapping[str, Any], device: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers in the form of the stored file, so that both are drawn alike."""
    runs = [one["training"] for one in found.values()]
    made: dict[str, Any] = plain(
        {
            "device": device,
            "setting": setting,
            "seeds": min((one["seeds"] for one in found.values()), default=0),
            "pairs": {pair: {k: v for k, v in one.items() if k != "training"}
                      for pair, one in found.items()},
            "training": {
                "runs": sum(one["runs"] for one in runs),
                "cpu_seconds": sum(one["cpu_seconds"] for one in runs),
            },
        }
    )  # fmt: skip
    return made


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields: number of seeds, and whether there are intervals."""
    seeds = numbers["seeds"]
    intervals = "95 % t-intervals." if seeds > 1 else "One seed gives no interval."
    return {
        "seeds": f"{seeds} seed{'s' * (seeds != 1)}",
        "intervals": intervals if seeds else "There is no run yet.",
    }


def empty(axes: Any) -> None:
    """Write on every panel that there is no run."""
    for ax in axes:
        ax.text(0.5, 0.5, smol_methods.NONE, ha="center", va="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])


def beyond(found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Numbers of a kind of runs beyond the comparison, by pair; empty where there is no run."""
    extras = {pair: one.get("extras", {}).get(kind) for pair, one in found["pairs"].items()}
    return {pair: one for pair, one in extras.items() if one}
