"""Can a training be forecast from a twentieth of its cost? Four candidates, a stack, and controls.

Each pair of data sets is forecast from the others. Truth is what runs of Mix at five weights, both
orders, and rounds ended with on held-out rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.evidence import share
from analysis.dossier.mutations import mutate
from analysis.fernando2024.forecast import accuracy, grid, measured
from analysis.fernando2024.forecast.accuracy import FORECASTS, STACK
from analysis.fernando2024.stored import shown
from tradeoff.forecast import CANDIDATES, Calibration
from tradeoff.forecast.calibration import COST, COVERAGE, ERROR, verdict
from tradeoff.forecast.candidates import STACKED
from tradeoff.forecast.quantities import LAMBDAS, front, ranges
from tradeoff.forecast.stack import Measured, fit, half_widths, left_out
from tradeoff.theory.checked import Checked

LABELS = {
    STACK: "the first two, stacked",
    **{name: candidate.label for name, candidate in CANDIDATES.items()},
    measured.WORDS: "convex problem on hashed words",
    measured.POOLED: "convex problem on averaged states",
    "constant": "control: a constant guess",
    measured.EARLY: "control: a tenth of each run",
}
CAPTION = (
    "Forecasts of a tiny language model's held-out losses after {updates} updates of Mix, lambda = "
    "{lambdas}. What varies: {pairs} pairs of data, each forecast from the others; n = "
    "{seeds} seeds. Left: median error in ranges of the front; line: goal. Right: stacked "
    "forecasts; 90 % intervals hold {coverage}. {fresh} pairs run later: {error}, a constant "
    "guess {constant}. Cost: {cost} of a run. {verdict} "
    "Command: python -m analysis forecast_accuracy"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    own, form = numbers["scores"][STACK], numbers["form"]
    return {
        "updates": str(form["updates"]),
        "lambdas": ", ".join(f"{lam:g}" for lam in LAMBDAS),
        "pairs": str(form["pairs"]),
        "seeds": str(form["seeds"]),
        "coverage": f"{100 * own['coverage']:.0f} %",
        "fresh": str(form["fresh"]["pairs"]),
        "error": f"{100 * form['fresh']['median_error']:.0f} %",
        "constant": f"{100 * form['fresh']['constant']:.0f} %",
        "cost": f"{100 * own['cost']['mean']:.1f} %",
        "verdict": verdict(numbers["goals"]),
    }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    """Run what is not stored, judge every forecast, and draw."""
    which = "fast" if fast else "full"
    runs, costs = grid.run(which, progress=not fast), measured.run(which)
    examples = measured.examples(costs, runs)
    scores = accuracy.judge(examples, costs)
    new = measured.run(which, fresh=True), grid.run(which, fresh=True, progress=not fast)
    fresh = accuracy.fresh(examples, measured.examples(*new))
    calibration = calibrated(which, examples, scores, fresh)
    numbers = {
        "form": calibration.about,
        "scores": scores,
        "fresh": fresh,
        "goals": calibration.goals,
        "calibration": calibration.record(),
        "points": points(examples),
        "cpu_minutes": float(runs.groupby("run")["cpu_seconds"].first().sum() / 60),
    }
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Errors of all forecasts, and stacked forecasts beside what was measured."""
    with style.figure(1, 2, height=3.2) as (fig, (left, right)):
        _errors(left, numbers["scores"])
        _scatter(right, numbers["points"])
        style.save(fig, out, "forecast_accuracy")


def calibrated(
    which: str,
    examples: Sequence[Measured],
    scores: Mapping[str, Any],
    fresh: Mapping[str, Any],
) -> Calibration:
    """The stack fitted on all pairs, with intervals from pairs left out."""
    form, names = grid.FORMS[which], STACKED
    about = {
        "model": f"a language model of {form.model.layers} layers of width {form.model.width}",
        "pairs": len({e.group for e in examples}),
        "seeds": form.seeds,
        "fresh": {
            "pairs": len(fresh[STACK]["by_pair"]),
            **{name: fresh[STACK][name] for name in ("median_error", "coverage", "rank")},
            "constant": fresh["constant"]["median_error"],
        },
        "updates": form.updates,
        "batch": form.batch,
        "rate": form.rate,
        "runs_with_orders": sum(
            e.truth is not None and bool(np.isfinite(e.truth).all()) for e in examples
        ),
    }
    return Calibration(fit(examples, names), half_widths(examples, names), scores, about)


def points(examples: Sequence[Measured]) -> list[dict[str, Any]]:
    """Measured and forecast fronts with intervals, in ranges above the least measured losses."""
    names, found = STACKED, []
    for fitted, own, others in left_out(examples, names):
        half = half_widths(others, names)
        for one in own:
            assert one.truth is not None
            unit, least = ranges(one.truth), front(one.truth).min(axis=0)
            values = {"measured": one.truth, "forecast": fitted.losses(one)}
            values |= {"low": fitted.losses(one, -half), "high": fitted.losses(one, half)}
            scaled = {name: (front(x) - least) / unit for name, x in values.items()}
            found.append({"pair": one.group, **scaled})
    return found


# ---------------------------------------------------------------------- drawing


def _errors(ax: Axes, scores: Mapping[str, Any]) -> None:
    names = list(FORECASTS)[::-1]
    values = [scores[name]["median_error"] for name in names]
    hatches = ["//" if name in measured.CONTROLS else "" for name in names]
    bars = ax.barh([LABELS[name] for name in names], values, color="0.8", edgecolor="k")
    for bar, hatch, value in zip(bars, hatches, values, strict=True):
        bar.set_hatch(hatch)
        ax.text(value, bar.get_y() + bar.get_height() / 2, f" {value:.2f}", va="center", fontsize=7)
    ax.axvline(ERROR, color="k", linestyle="--", linewidth=0.8)
    ax.set(xlabel="median error (ranges of the front)", xlim=(0, 1.2 * max(values)))
    ax.tick_params(axis="y", labelsize=7)


def _scatter(ax: Axes, found: Sequence[Mapping[str, Any]]) -> None:
    for k, (mark, shade, name) in enumerate(
        zip(("o", "^"), ("0.2", "0.6"), ("SFT", "preference"), strict=True)
    ):
        true, said, low, high = (
            np.array([one[part] for one in found])[:, :, k].ravel()
            for part in ("measured", "forecast", "low", "high")
        )
        around = np.abs(np.stack([said - low, high - said]))
        look: dict[str, Any] = {
            "color": shade,
            "markersize": 2.5,
            "elinewidth": 0.4,
            "label": f"{name} loss",
        }
        ax.errorbar(true, said, around, fmt=mark, **look)
    ax.plot([0, 1], [0, 1], color="k", linewidth=0.8)
    ax.set(xlabel="measured", ylabel="forecast", xlim=(-0.05, 1.05), ylim=(-0.5, 2.0))
    ax.legend(fontsize=7)


# ---------------------------------------------------------------------- claims


def claim_meets_its_goals(fast: bool = False, mutation: str | None = None) -> Checked:
    """Median error, largest cost, and coverage of stacked forecasts keep to the goals (upper)."""
    del fast
    scores = _stored()["scores"]
    own = mutate(mutation, scores[STACK], {"hashed-words": scores[measured.WORDS]})
    found = np.array([own["median_error"], own["cost"]["most"], own["coverage"], -own["coverage"]])
    return Checked(found, np.array([ERROR, COST, COVERAGE[1], -COVERAGE[0]]), "upper", {}, 0.0)


def claim_meets_its_goals_on_fresh_pairs(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """Median error and coverage on pairs that nothing was chosen on keep to the goals (upper)."""
    del fast
    found = _stored()["fresh"]
    own = mutate(mutation, found[STACK], {"early-stopping": found[measured.EARLY]})
    reached = np.array([own["median_error"], own["coverage"], -own["coverage"]])
    count = {"n": float(len(own["by_pair"]))}
    return Checked(reached, np.array([ERROR, COVERAGE[1], -COVERAGE[0]]), "upper", count, 1e-9)


def claim_no_better_than_constant_on_fresh_pairs(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """Median error of the stack on fresh pairs is at least that of a constant guess (lower)."""
    del fast
    found = _stored()["fresh"]
    other = mutate(mutation, found["constant"], {"early-stopping": found[measured.EARLY]})
    count = {"n": float(len(other["by_pair"]))}
    return Checked(found[STACK]["median_error"], other["median_error"], "lower", count, 0.0)


def claim_better_than_controls(fast: bool = False, mutation: str | None = None) -> Checked:
    """The share of pairs and seeds where the stack beats a control is above one half (lower)."""
    del fast
    scores = _stored()["scores"]
    own = np.array(scores[STACK]["by_unit"])
    own = mutate(mutation, own, {"constant-guess": np.array(scores["constant"]["by_unit"])})
    shares = [share(own < np.array(scores[name]["by_unit"])) for name in measured.CONTROLS]
    low = np.array([float(found.low) for found in shares])
    return Checked(low, np.full(len(low), 0.5), "lower", {"n": float(len(own))}, 0.0)


def _stored() -> dict[str, Any]:
    return shown("forecast_accuracy")
