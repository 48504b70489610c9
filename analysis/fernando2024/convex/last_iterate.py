"""How small is the gap of the last iterate? T13's bound, which has no logarithm, T4's, and runs.

Left: an instance on which T13's bound lies below the gaps of the untrained policy and of SFT ->
DPO. Right: the instance of T17, on which averages attain their bound up to a factor of two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.fernando2024.convex.theorems_joint import LAM, contested, methods
from analysis.fernando2024.methods import label
from tradeoff.convex import minimise
from tradeoff.schedules import Sequential
from tradeoff.theory import measured
from tradeoff.theory.last_iterate import last_iterate_bound, last_iterate_gap
from tradeoff.theory.lower_bounds import attained

INSTANCE, REPLICAS = 0, 64
CAPTION = (
    "Left: gap of the last iterate under linear decay (markers), with T13's bound and T4's. λ = "
    f"{LAM}, one instance (d = 2); f_λ for ALRIGHT and Mix, F_λ for MAXRIGHT; n = {REPLICAS} "
    "replicas, ±1.96 SE; the data drawn varies. Solid: SFT→DPO with ALRIGHT's step sizes. Dotted: "
    "untrained policy. Right: gap of the average over its bound on T17's instance, without "
    "randomness; grey: proven by T17. Command: python -m analysis last_iterate."
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    replicas, top = (8, 3) if fast else (REPLICAS, 4)
    horizons = np.geomspace(100, 10**top, 2 * (top - 2) + 1).round().astype(int).tolist()
    curves = {m.key: last_curve(m, horizons, replicas) for m in methods()}
    wrong = last_curve(methods()[0], horizons, replicas, Sequential(lam=LAM, share=0.5))
    steps = np.geomspace(4, 10**top, 12).round().astype(int).tolist()
    ratios = {
        m.key: [attained(m, t).constants["measured over bound"] for t in steps] for m in methods()
    }
    with style.figure(1, 2, height=3.3) as (fig, (left, right)):
        draw_last(left, horizons, curves, wrong)
        draw_ratios(right, steps, ratios)
        style.save(fig, out, "last_iterate")
    return {
        "replicas": replicas,
        "updates": horizons,
        "last": curves,
        "sequential": wrong,
        "untrained": untrained(),
        "new_bound_over_old": {k: c["bound"][-1] / c["old"][-1] for k, c in curves.items()},
        "bound_over_measured": {k: c["bound"][-1] / c["mean"][-1] for k, c in curves.items()},
        "steps": steps,
        "measured_over_bound": ratios,
    }


def last_curve(schedule: Any, horizons: list[int], replicas: int, instead: Any = None) -> Any:
    """Mean gap of the last iterate, its standard error, T13's bound and T4's, at each horizon."""
    problem = contested(INSTANCE)
    runs = [last_iterate_gap(problem, schedule, n, replicas=replicas, instead=instead)
            for n in horizons]  # fmt: skip
    norm = measured.gradient_bound(problem, schedule)
    old = [4 * problem.radius * norm * (2 + np.log(n)) / np.sqrt(n) for n in horizons]
    return {
        "mean": [np.asarray(r.measured).item() for r in runs],
        "se": [r.constants["SE"] for r in runs],
        "bound": [last_iterate_bound(problem, schedule, n) for n in horizons],
        "old": old,
    }


def untrained() -> float:
    """Gap of f_lambda at the centre of the ball."""
    problem = contested(INSTANCE)
    least = minimise(problem, LAM).value
    return float(problem.losses(np.zeros(problem.dimension)) @ [1 - LAM, LAM] - least)


# ---------------------------------------------------------------------- drawing


def draw_last(ax: Axes, horizons: list[int], curves: dict[str, Any], wrong: Any) -> None:
    for method, c in curves.items():
        look = style.look(method)
        ax.errorbar(horizons, c["mean"], 1.96 * np.array(c["se"]),
                    **look.line_style(label=label(method)))  # fmt: skip
    sequential = style.look("sft-dpo")
    ax.plot(horizons, wrong["mean"], color=sequential.color, label=label("sft-dpo"))
    ax.axhline(untrained(), color="0.2", linestyle=":", linewidth=1, label="untrained")
    for key, text in (("bound", "T13"), ("old", "T4")):
        values = curves["alright"][key]
        ax.plot(horizons, values, **style.BOUND)
        ax.annotate(text, (horizons[0], values[0]), (2, 3), textcoords="offset points", fontsize=8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(title="Last iterates: the bound can fail now", xlabel="updates N", ylabel="gap (nats)")
    ax.legend(fontsize=7, loc="lower left")


def draw_ratios(ax: Axes, steps: list[int], ratios: dict[str, list[float]]) -> None:
    for method, values in ratios.items():
        ax.plot(steps, values, **style.look(method).line_style(label=label(method), markevery=3))
    worst = 1 / min(min(values) for values in ratios.values())
    share = attained(methods()[0], 4).constants["share"]
    ax.axhline(share, color="0.4", linewidth=3, alpha=0.4)
    ax.annotate("proved from below", (steps[0], share), (0, -11), textcoords="offset points",
                fontsize=8)  # fmt: skip
    ax.axhline(1.0, **style.BOUND)
    ax.annotate("bound", (steps[0], 1.0), (0, -11), textcoords="offset points", fontsize=8)
    ax.set_xscale("log")
    ax.set(title=f"Averages: attained within {worst:.2g}", xlabel="updates T", ylim=(0, 1.1),
           ylabel="measured / bound")  # fmt: skip


if __name__ == "__main__":
    main(Path("out"))
