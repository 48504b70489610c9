"""What does MAXRIGHT do with wrong minima? Its matched weight, and the cost in F_lambda.

MAXRIGHT compares gaps of losses, so it needs f_SFT* and f_DPO* in advance. With the values f_i* +
o_i it minimises max w_i (f_i - f_i* - o_i), at another point of the same front. ALRIGHT needs no
minima.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, reject_unknown
from analysis.fernando2024.convex.cases import cases
from analysis.fernando2024.convex.convergence import excess, instance
from analysis.fernando2024.methods import label
from tradeoff.convex import Front, LogLinear, minimise, minimise_max_gap, pareto_front, trajectories
from tradeoff.schedules import OBJECTIVES, PREFERENCE, SFT, Alright, Maxright
from tradeoff.scores import interval, max_gap
from tradeoff.theory.checked import Checked
from tradeoff.theory.maxright import optimum_sensitivity

CAPTION = (
    "What if MAXRIGHT has wrong minima? Its f* has an error, as a share of that loss's range on "
    "the front. λ = 1/2, one instance (d = 6), averaged iterates after {updates} updates. Lines: "
    "exact minimiser of the F with that error. Left: matched weight. Right: cost in the true F_λ, "
    "{low} to {high} of T7's bound (grey). n = {replicas} replicas; the data drawn varies; "
    "intervals are smaller than the markers. Command: python -m analysis value_error."
)
LAM = 0.5
NAMES = {SFT: r"$f^*_{\mathrm{SFT}}$ is wrong", PREFERENCE: r"$f^*_{\mathrm{DPO}}$ is wrong"}
LINES: dict[int, Any] = {SFT: "-", PREFERENCE: (0, (3, 2))}
MARKERS = {SFT: "P", PREFERENCE: "X"}
BOUNDS: dict[int, Any] = {SFT: (0, (1, 1)), PREFERENCE: (0, (5, 1, 1, 1))}


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    problem = instance()
    front = pareto_front(problem, accuracy=1e-3 if fast else 1e-5)
    errors = np.linspace(-0.5, 0.5, 5 if fast else 9)
    replicas, steps = (32, 1000) if fast else (256, 6000)
    measured = {i: landings(problem, front, i, errors, replicas, steps) for i in NAMES}
    alright = run_alright(problem, front, replicas, steps)
    fine = np.linspace(-0.5, 0.5, 201)
    exact = {i: exact_landings(problem, front, i, fine) for i in NAMES}
    best = minimise_max_gap(problem, LAM)
    with style.figure(1, 2, height=3.3) as (fig, (left, right)):
        for i in NAMES:
            look = {"color": style.look("maxright").color, "linestyle": LINES[i]}
            left.plot(fine, exact[i]["weight"], **look)
            left.plot(errors, measured[i]["weight"], color=look["color"], marker=MARKERS[i], ls="")
            loss = (exact[i]["value"] - best.value) / front.ranges.mean()
            right.plot(fine, loss, **look)
            right.plot(
                errors, measured[i]["excess"] / front.ranges.mean(), color=look["color"],
                marker=MARKERS[i], linestyle="", label=NAMES[i],
            )  # fmt: skip
            limit = bound(front, i, fine) / front.ranges.mean()
            right.plot(fine, limit, **{**style.BOUND, "linestyle": BOUNDS[i]}, label="its bound")
        draw_alright(left, right, alright, front)
        finish(left, right, measured, errors)
        style.save(fig, out, "value_error")
    return {
        "lam": LAM,
        "replicas": replicas,
        "updates": steps,
        "errors_over_range": errors,
        "ranges": front.ranges,
        "nominal_weight": float(front.score(best.losses).matched_weight[0]),
        "wrong_sft": measured[SFT],
        "wrong_preference": measured[PREFERENCE],
        "share_of_bound": {
            OBJECTIVES[i]: {
                "measured": share(measured[i]["excess"], bound(front, i, errors)),
                "exact": share(exact[i]["value"] - best.value, bound(front, i, fine)),
            }
            for i in NAMES
        },
        "weight_per_error": {OBJECTIVES[i]: slope_at_zero(fine, exact[i]["weight"]) for i in NAMES},
        "alright": alright,
        "break_even_error": {
            OBJECTIVES[i]: break_even(fine, exact[i]["value"], alright["value"]) for i in NAMES
        },
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    shares = [share["measured"] for share in numbers["share_of_bound"].values()]
    return {
        "updates": f"{numbers['updates']:,}",
        "replicas": str(numbers["replicas"]),
        "low": f"{min(low for low, _ in shares):.2f}",
        "high": f"{max(high for _, high in shares):.2f}",
    }


# ---------------------------------------------------------------------- measured and exact


def landings(
    problem: LogLinear, front: Front, objective: int, errors: np.ndarray, replicas: int, steps: int
) -> dict[str, np.ndarray]:
    """Mean end points of MAXRIGHT with each error in one of its two minima."""
    offsets = np.eye(2)[objective] * errors[:, None] * front.ranges
    schedules = [Maxright(lam=LAM, optimum_error=(float(s), float(p))) for s, p in offsets]
    runs = trajectories(
        problem, schedules, steps=steps, step_size=0.1, replicas=replicas, checkpoints=[steps]
    )
    losses = runs.losses(problem, "average")[:, :, -1]
    off = np.array([excess(problem, s, x) for s, x in zip(schedules, losses, strict=True)])
    return {
        "losses": losses.mean(axis=1),
        "weight": front.score(losses.mean(axis=1)).matched_weight.to_numpy(),
        "excess": off.mean(axis=1),
        "excess_half_width": off.mean(axis=1) - interval(off, axis=1).low,
    }


def run_alright(problem: LogLinear, front: Front, replicas: int, steps: int) -> dict[str, float]:
    """The same values for ALRIGHT, which needs no minima, and for the point it converges to."""
    runs = trajectories(
        problem,
        Alright(lam=LAM),
        steps=steps,
        step_size=0.05,
        replicas=replicas,
        checkpoints=[steps],
    )
    losses = runs.losses(problem, "average")[0, :, -1]
    limit = minimise(problem, LAM)
    return {
        "weight": float(front.score(losses.mean(axis=0)).matched_weight[0]),
        "excess": float(excess(problem, Maxright(lam=LAM), losses).mean()),
        "value": float(max_gap(limit.losses, np.array(front.end_bounds), LAM)),
        "regret": float(front.score(losses, LAM).regret.mean()),
        "maxright_regret": float(front.score(minimise_max_gap(problem, LAM).losses, LAM).regret[0]),
    }


def exact_landings(
    problem: LogLinear, front: Front, objective: int, errors: np.ndarray
) -> dict[str, np.ndarray]:
    """Matched weight and true F_lambda of the exact minimiser of F_lambda with wrong minima.

    At this minimiser the weighted gaps with errors are equal. Along the front one gap rises and the
    other falls, so the crossing is found by interpolation between 97 certified minimisers.
    """
    weights, losses = minimisers(problem)
    pair = np.array([1 - LAM, LAM])
    gaps = (losses - np.array(front.end_bounds)) * pair
    offsets = np.eye(2)[objective] * errors[:, None] * front.ranges * pair
    where, values = [], []
    for offset in offsets:
        tilt = (gaps[:, SFT] - offset[SFT]) - (gaps[:, PREFERENCE] - offset[PREFERENCE])
        where.append(np.interp(0.0, tilt, weights))
        values.append(max(np.interp(0.0, tilt, gaps[:, i]) for i in (SFT, PREFERENCE)))
    return {"weight": np.array(where), "value": np.array(values)}


@lru_cache(maxsize=4)
def minimisers(problem: LogLinear) -> tuple[np.ndarray, np.ndarray]:
    """(97,) weights and (97, 2) losses of the minimisers of f at these weights."""
    weights = np.linspace(0.02, 0.98, 97)
    found = [minimise(problem, weight, tolerance=1e-7).losses for weight in weights.tolist()]
    return weights, np.array(found)


def bound(front: Front, objective: int, errors: np.ndarray) -> np.ndarray:
    """T7's bound on the cost in the true F_lambda of an error of one minimum."""
    return np.asarray((1 - LAM, LAM)[objective] * np.abs(errors) * front.ranges[objective])


def share(excess: np.ndarray, bounds: np.ndarray) -> list[float]:
    """Least and largest ratio of excess to bound, where bounds are not near zero."""
    large = bounds > 0.05 * bounds.max()
    shares = excess[large] / bounds[large]
    return [float(shares.min()), float(shares.max())]


def slope_at_zero(errors: np.ndarray, weights: np.ndarray) -> float:
    """Change of the matched weight per error of one range, at error zero."""
    middle = len(errors) // 2
    return float(np.gradient(weights, errors)[middle])


def break_even(errors: np.ndarray, values: np.ndarray, alright: float) -> list[float]:
    """Interval of errors in which exact MAXRIGHT has a smaller F than exact ALRIGHT."""
    inside = errors[values <= alright]
    return [float(inside.min()), float(inside.max())]


# ---------------------------------------------------------------------- drawing


def draw_alright(left: Axes, right: Axes, alright: dict[str, float], front: Front) -> None:
    look = {"color": style.look("alright").color, "linestyle": style.look("alright").line}
    for ax, level in (
        (left, alright["weight"]),
        (right, alright["excess"] / front.ranges.mean()),
    ):
        ax.axhline(level, **look)
        ax.annotate(
            label("alright"),
            (0.5, level),
            (-2, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )


def finish(left: Axes, right: Axes, measured: dict[int, Any], errors: np.ndarray) -> None:
    for i, name in NAMES.items():
        where = (errors[1], measured[i]["weight"][1])
        offset = (10, 8 if i == PREFERENCE else -9)
        left.annotate(name, where, offset, textcoords="offset points", fontsize=8, va="center")
    left.set(
        title="A wrong minimum moves MAXRIGHT",
        xlabel="error of f* / range",
        ylabel="matched weight λ*",
    )
    right.set(
        title="Cost, and what theory allows",
        xlabel="error of f* / range",
        ylabel="(F − min F) / mean range",
    )
    right.legend(loc="upper center", fontsize=8)


# ---------------------------------------------------------------------- claims


def claim_sensitivity(fast: bool = False, mutation: str | None = None) -> Checked:
    """Cost of wrong minima is within T7's bound, for both objectives and signs, on all cases."""
    reject_unknown(mutation, ("twice-the-error", SWAPPED))
    factor = 2.0 if mutation == "twice-the-error" else 1.0
    measured, bounds = [], []
    for case in cases(8 if fast else 24):
        ranges = pareto_front(case.problem, solves=2).ranges
        for i, size in product(NAMES, (-0.3, 0.3)):
            offset = np.eye(2)[i] * size * ranges
            told = (float(factor * offset[0]), float(factor * offset[1]))
            allowed = np.array([1 - case.lam, case.lam]) * offset
            allowed = (
                np.array([case.lam, 1 - case.lam]) * offset if mutation == SWAPPED else allowed
            )
            found = optimum_sensitivity(case.problem, case.lam, told)
            measured.append(found.measured)
            bounds.append(float(np.abs(allowed).sum()))
    return Checked(np.array(measured), np.array(bounds), "upper", {}, 1e-6)


def claim_common_error_is_free(fast: bool = False, mutation: str | None = None) -> Checked:
    """Equal weighted errors of both minima change nothing in any run or draw, on all cases."""
    reject_unknown(mutation, ("one-error",))
    right, wrong = [], []
    for case in cases(4 if fast else 24):
        lam = case.lam
        errors = (0.1 / (1 - lam), 0.0 if mutation else 0.1 / lam)
        schedules = [Maxright(lam=lam), Maxright(lam=lam, optimum_error=errors)]
        runs = trajectories(
            case.problem, schedules, steps=200 if fast else 1000, step_size=0.1, replicas=4
        )
        pair = runs.losses(case.problem, "last")
        right.append(pair[0])
        wrong.append(pair[1])
    return Checked(np.array(wrong), np.array(right), "exact", {}, 1e-9)


if __name__ == "__main__":
    main(Path("out"))
