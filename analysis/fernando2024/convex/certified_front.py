"""How fast do the two bounds of a certified front meet? Certified error against solves.

Left: the inner and outer hull of one front. Right: certified error over random instances, with the
1/n^2 guide. What varies is the instance, and every instance is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.dossier import style
from tradeoff.convex import pareto_front, random_log_linear

CAPTION = (
    "How fast do the two bounds of a certified front meet? Left: inner hull (attained) and outer "
    "hull (no policy lies below) of one problem after 5 solves. Right: certified error, in units "
    "of the ranges, against the number of solves; one Newton step is added between neighbouring "
    "solves. The median falls with exponent {slope}. n = {instances} instances (thin; thick: "
    "median); the instance varies. Nothing else is random, so there is no interval. Command: "
    "python -m analysis certified_front"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {"slope": f"{numbers['slope']:.2f}", "instances": str(numbers["instances"])}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    solves = np.array([3, 5, 9, 17, 33] if fast else [3, 5, 9, 17, 33, 65, 129])
    errors = certified_errors(4 if fast else 16, solves)
    with style.figure(1, 2, height=3.1) as (fig, (left, right)):
        front = pareto_front(random_log_linear(0), solves=5, interpolate=False)
        front.plot(left).set_title(f"Five solves enclose the front to {100 * front.error:.1f} %")
        right.loglog(solves, errors.T, color="0.75", linewidth=0.6)
        right.loglog(solves, np.median(errors, axis=0), color="k", marker="o")
        guide = np.median(errors[:, 2]) * (solves[2] / solves) ** 2.0
        right.loglog(solves, guide, **style.BOUND)
        style.label_line(
            right, float(solves[-1]), float(guide[-1]), r"$\propto n^{-2}$", color="0.35"
        )
        right.set(
            title="Certified error over instances",
            xlabel="certified solves",
            ylabel="certified error / range",
        )
        style.save(fig, out, "certified_front")
    return {
        "solves": solves,
        "median_error": np.median(errors, axis=0),
        "worst_error": errors.max(axis=0),
        "instances": len(errors),
        "error_17_solves": float(np.median(errors[:, list(solves).index(17)])),
        "slope": float(np.polyfit(np.log(solves[2:]), np.log(np.median(errors, axis=0)[2:]), 1)[0]),
    }


def certified_errors(instances: int, solves: np.ndarray) -> np.ndarray:
    """(instances, len(solves)) certified error of fronts of random problems."""
    problems = [random_log_linear(seed) for seed in range(instances)]
    return np.array(
        [[pareto_front(p, solves=int(n), accuracy=1e-12).error for n in solves] for p in problems]
    )
