"""How many rounds reach the gap of joint training? Gap against the number of rounds.

One round is SFT, then DPO. K rounds share one budget of gradients. Every method uses the best step
size of one grid, chosen on seeds that are not reported. Rounds may also use another step size for
DPO, as two trainers would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import evidence, mutations, style
from analysis.fernando2024.methods import label
from tradeoff.convex import LogLinear, StepSize, minimise, random_log_linear, trajectories
from tradeoff.methods import Method
from tradeoff.schedules import Alright, Mix, Plan, Rounds, Schedule
from tradeoff.theory.checked import Checked
from tradeoff.theory.rounds import rounds_bound

ROUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS = tuple(np.geomspace(0.0025, 1.28, 10).tolist())
RATIOS = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)
"""Step size of DPO updates over that of SFT updates."""
CONFLICTS, WEIGHTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (0.2, 0.35, 0.5, 0.65, 0.8)
ENOUGH, BOUGHT = 8, 0.9
"""The claim: this number of rounds obtains this share of the gain."""
FRESH = 1000
"""First seed of the claim's instances. Nothing was tried on them before the claim was fixed."""
TUNE, SCORE = 1, 2
"""Seeds of the replicas that choose step sizes, and of the replicas that are reported."""
FULL = {"budget": 1024, "tuning": 8, "replicas": 64}
FAST = {"budget": 256, "tuning": 8, "replicas": 16}
CAPTION = (
    f"Gap of f_λ at the last iterate after {FULL['budget']:,} gradients in K rounds of SFT, then "
    f"DPO; linear decay, the best of {len(STEPS) * len(RATIOS)} step sizes per objective, chosen "
    f"on other seeds. The data drawn varies. Left: one instance, n = {FULL['replicas']} replicas, "
    "±1.96 SE; dashes: T14's bound for averages. Right: share of the gain from K = 1 to the "
    f"better joint method; n = {len(CONFLICTS) * len(WEIGHTS)} instances of varied conflict and λ "
    "(thick: median). Command: python -m analysis interleaving."
)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class TurnStep(StepSize):
    """Linear decay. Updates of the preference objective have ``ratio`` times the step size."""

    ratio: float = 1.0

    def of(self, plan: Plan) -> Array:
        """(T,) step size of every update of a plan."""
        return np.asarray(super().of(plan) * np.where(plan.probability > 0.5, self.ratio, 1.0))


@dataclass(frozen=True)
class Curve:
    """Final gaps on one instance.

    Attributes
    ----------
    rounds
        (K, n) gaps of each number of rounds, by replica.
    joint
        (2, n) gaps of Mix and of ALRIGHT.
    at_edge
        Number of chosen step sizes, and of their ratios, at an end of the grid.
    """

    rounds: Array
    joint: Array
    at_edge: int

    @property
    def bought(self) -> Array:
        """(K,) share of the gain from the first number of rounds to the better joint method."""
        sequential, joint = self.rounds[0].mean(), self.joint.mean(axis=1).min()
        return np.asarray((sequential - self.rounds.mean(axis=1)) / (sequential - joint))


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    sizes = FAST if fast else FULL
    cases = [(seed, *setting) for seed, setting in enumerate(settings())][:: 6 if fast else 1]
    curves = [curve(*case, ROUNDS, **sizes) for case in cases]
    shown = len(curves) // 2
    bought = np.stack([c.bought for c in curves])
    needed = [first_to_buy(row) for row in bought]
    with style.figure(1, 2, height=3.3) as (fig, (left, right)):
        draw_gaps(left, cases[shown], curves[shown])
        draw_shares(right, bought, needed)
        style.save(fig, out, "interleaving")
    low, high = median_interval(needed)
    return {
        **sizes,
        "instances": len(curves),
        "rounds": ROUNDS,
        "cases": [dict(zip(("seed", "conflict", "lam"), case, strict=True)) for case in cases],
        "bought": bought,
        "median_bought": np.median(bought, axis=0),
        "rounds_for_90_percent": needed,
        "median_rounds": float(np.median(needed)),
        "median_rounds_interval": [low, high],
        "share_of_instances": [holding(bought[:, k] >= BOUGHT) for k in range(len(ROUNDS))],
        "steps_at_an_edge": sum(c.at_edge for c in curves),
        "choices": len(curves) * (len(ROUNDS) + 2),
        "sequential_over_joint": np.median(
            [c.rounds[0].mean() / c.joint.mean(axis=1).min() for c in curves]
        ),
        "shown": {"gap": curves[shown].rounds.mean(axis=1),
                  "joint": curves[shown].joint.mean(axis=1)},
    }  # fmt: skip


def settings() -> list[tuple[float, float]]:
    """(conflict, lam) of each instance. The position in the list is the seed."""
    return [(conflict, lam) for lam in WEIGHTS for conflict in CONFLICTS]


# ---------------------------------------------------------------------- measured


@lru_cache(maxsize=64)
def instance(seed: int, conflict: float) -> LogLinear:
    return random_log_linear(
        seed, prompts=6, responses=4, dimension=6, demonstrations=24, pairs=24, radius=3.0,
        conflict=conflict,
    )  # fmt: skip


@lru_cache(maxsize=128)
def curve(
    seed: int, conflict: float, lam: float, rounds: Sequence[int], *, budget: int, tuning: int,
    replicas: int,
) -> Curve:  # fmt: skip
    """Tuned gaps of every number of rounds, and of the joint methods, on one instance."""
    problem = instance(seed, conflict)
    turns = [Rounds(lam=lam, rounds=k) for k in rounds]
    joint: list[Schedule] = [Mix(lam=lam), Alright(lam=lam)]
    found, edges = [], 0
    for schedule in (*turns, *joint):
        ratios = RATIOS if isinstance(schedule, Rounds) else (1.0,)
        grid = [TurnStep(scale, "linear", ratio) for ratio in ratios for scale in STEPS]
        updates = Method(schedule).updates(budget)
        tuned = gaps(problem, schedule, updates, grid, tuning, TUNE).mean(axis=1)
        best = grid[int(tuned.argmin())]
        edges += best.scale in (STEPS[0], STEPS[-1])
        edges += len(ratios) > 1 and best.ratio in (ratios[0], ratios[-1])
        found.append(gaps(problem, schedule, updates, [best], replicas, SCORE)[0])
    return Curve(np.stack(found[: len(turns)]), np.stack(found[len(turns) :]), edges)


def gaps(
    problem: LogLinear, schedule: Schedule, updates: int, grid: Sequence[StepSize], replicas: int,
    seed: int,
) -> Array:  # fmt: skip
    """(C, replicas) gap of f_lambda at the last iterate, for each step size."""
    runs = trajectories(
        problem, schedule, steps=updates, step_size=list(grid), replicas=replicas, seed=seed,
        checkpoints=[updates],
    )  # fmt: skip
    values = runs.losses(problem)[:, :, 0] @ [1 - schedule.lam, schedule.lam]
    return np.asarray(values - minimise(problem, schedule.lam).value)


def first_to_buy(bought: Array) -> float:
    """Least number of rounds that obtains the claimed share; infinite if none does."""
    enough = np.flatnonzero(bought >= BOUGHT)
    return float(ROUNDS[enough[0]]) if len(enough) else float("inf")


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a median from order statistics (binomial), valid for any distribution."""
    from scipy.stats import binom

    ordered = np.sort(values)
    below = int(binom.ppf(0.025, len(ordered), 0.5))
    return float(ordered[max(below - 1, 0)]), float(ordered[min(len(ordered) - below,
                                                                len(ordered) - 1)])  # fmt: skip


def holding(held: NDArray[np.bool_]) -> dict[str, float]:
    """Share of instances on which something holds, with its interval."""
    found = evidence.share(held)
    return {"share": float(found.mean), "low": float(found.low), "high": float(found.high)}


# ---------------------------------------------------------------------- drawing


def draw_gaps(ax: Axes, case: tuple[int, float, float], found: Curve) -> None:
    seed, conflict, lam = case
    mean = found.rounds.mean(axis=1)
    error = 1.96 * found.rounds.std(axis=1, ddof=1) / np.sqrt(found.rounds.shape[1])
    ax.errorbar(ROUNDS, mean, error, **style.look("sft-dpo").line_style(label="rounds"))
    for key, values in zip(("mix", "alright"), found.joint, strict=True):
        look = style.look(key)
        ax.axhline(values.mean(), color=look.color, linestyle=look.line, label=label(key))
    problem = instance(seed, conflict)
    ax.plot(ROUNDS, [rounds_bound(problem, lam, k) for k in ROUNDS], **style.BOUND,
            label="bound (T14)")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set(title="Alternations close the gap", xlabel="rounds K", ylabel="gap (nats)")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(0.0, 0.62))


def draw_shares(ax: Axes, bought: Array, needed: Sequence[float]) -> None:
    ax.plot(ROUNDS, bought.T, color="0.7", linewidth=0.7)
    ax.plot(ROUNDS, np.median(bought, axis=0), color="0.1", linewidth=2.2, marker="o")
    ax.axhline(BOUGHT, **style.BOUND)
    low, high = median_interval(needed)
    text = f"{100 * BOUGHT:g} % at K = {np.median(needed):g} (median;\n"
    text += f"95 % interval {low:g} to {high:g})"
    ax.annotate(text, (0.97, 0.3), xycoords="axes fraction", fontsize=8, ha="right")
    ax.set_xscale("log", base=2)
    ax.set(title="Few rounds buy the joint gain", xlabel="rounds K", ylim=(-0.1, 1.25),
           ylabel="share of the gain")  # fmt: skip


# ---------------------------------------------------------------------- claims


def claim_few_alternations(fast: bool = False, mutation: str | None = None) -> Checked:
    """The claimed number of rounds obtains 90 % of the joint gain, on most instances."""
    rounds = mutations.mutate(mutation, ENOUGH, {"two-rounds": 2})
    sizes = {**FULL, "budget": 512, "replicas": 32} if fast else FULL
    found = [
        curve(seed, *setting, (1, rounds), **sizes).bought[1] >= BOUGHT
        for seed, setting in enumerate(settings(), start=FRESH)
    ]
    return evidence.holds_on(found, evidence.MOST)


if __name__ == "__main__":
    main(Path("out"))
