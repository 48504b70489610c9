"""Do the convex results hold for a trained network? From the last layer alone to all layers.

A whole-response policy with one hidden layer. Training its last layer alone is the problem of the
convex laboratory, to the last digits. Then all layers are trained on the same data. The front of
the last layer over the same initial body shows how far below or above it the network ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate, reject_unknown
from analysis.fernando2024.convex.tuning import has_two_stages
from analysis.fernando2024.methods import JOINT, METHODS, ORDERS, cell, label, looks, lower, upper
from analysis.fernando2024.stored import shown
from tradeoff import scores
from tradeoff.convex import Front, LogLinear, StepSize, minimise, pareto_front, trajectories
from tradeoff.methods import Method
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask, one_run
from tradeoff.networks.train import grid, train
from tradeoff.plots import label_lines
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential
from tradeoff.scores import Interval, interval, paired_difference
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]
RADIUS = 30.0
"""Radius of the ball of last layers. No trained last layer leaves the ball, which is checked."""
DATA = policy_data(0)
WIDTHS = (4, 16, 128)
SHOWN = 16
"""Width of the policy whose losses are drawn."""
SCHEDULES: tuple[Schedule, ...] = (
    Sequential(),
    Sequential(first="preference"),
    Mix(),
    Alright(),
    Maxright(refresh=10),
)
IN_LABORATORY = (*SCHEDULES[:4], Maxright())
ENDS = {"train": "_train", "held_out": ""}
RATES = 0.1 * 2.5 ** np.arange(-4.0, 4.0)
"""Grid of step sizes; each stage of sequential training has its own."""
TUNING = 100
"""First seed of the bodies on which step sizes are chosen; reported bodies have other seeds."""
WEIGHTS = np.linspace(0, 1, 201)
CAPTION = (
    "Do the convex results hold for a trained network? Policy over 8 responses, conflict .75, λ = "
    "1/2, {gradients} gradients, tuned step sizes. (a) Width {width}: last-layer fronts of {seeds} "
    "bodies; filled: that layer alone; hollow: all layers. (b), (c) Signed distance from the front "
    "of the same body, in its ranges; negative: below it. (d) Held-out f_λ less Mix's; open: last "
    "layer alone. What varies is the seed, n = {seeds}; 95 % t-intervals. Command: python -m "
    "analysis bridge"
)


@dataclass(frozen=True)
class Size:
    """Sizes of the study; the default is the figure's full form."""

    widths: tuple[int, ...] = WIDTHS
    seeds: int = 10
    gradients: int = 800
    updates: int = 1000
    tuning: int = 2
    rates: tuple[float, ...] = tuple(RATES)

    @classmethod
    def fast(cls) -> Size:
        return cls((4, SHOWN), 3, 120, 60, 1, tuple(RATES[3:6]))


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "gradients": str(numbers["gradients"]),
        "width": str(numbers["last_layer_alone"]["width"]),
        "seeds": str(numbers["n"]),
    }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    size = Size.fast() if fast else Size()
    seeds = range(size.seeds)
    alone = last_layer_alone(a_task(SHOWN, torch.float64), size.updates, seeds)
    bodies = {width: Bodies(width, tuple(seeds)) for width in size.widths}
    chosen = {width: tuned(width, size) for width in size.widths}
    trained = {w: both_ways(bodies[w], size.gradients, chosen[w]) for w in size.widths}
    distance = {
        part: {width: signed(bodies[width], trained[width]["full"], part) for width in size.widths}
        for part in ENDS
    }
    with style.figure(2, 2, height=5.2) as (fig, axes):
        draw_losses(axes[0, 0], alone, bodies[SHOWN], trained[SHOWN]["full"])
        draw_distance(axes[0, 1], distance["train"], "(b) Training rows")
        draw_distance(axes[1, 0], distance["held_out"], "(c) Held-out rows")
        axes[1, 0].set_ylim(axes[0, 1].get_ylim())
        draw_orders(axes[1, 1], trained)
        style.save(fig, out, "bridge")
    return {
        "n": size.seeds,
        "gradients": size.gradients,
        "radius": RADIUS,
        "last_layer_alone": alone.numbers(),
        "widths": list(size.widths),
        "front": {
            "certified_error": max(f.error for b in bodies.values() for f in b.fronts),
            "value_at_half": [
                cell(interval([f.value_bounds(0.5)[1] for f in b.fronts])) for b in bodies.values()
            ],
        },
        "signed_distance": {
            part: {
                key: [cell(interval(found[width][key])) for width in size.widths] for key in METHODS
            }
            for part, found in distance.items()
        },
        "rates": {
            name: {key: [chosen[w][name][key] for w in size.widths] for key in METHODS}
            for name in WAYS
        },
        "grid": RATES,
        **{name: comparisons(trained, name) for name in WAYS},
        "full_minus_last_layer": {
            part: {
                key: [
                    cell(minus((t["full"], key), (t["last"], key), part)) for t in trained.values()
                ]
                for key in METHODS
            }
            for part in ENDS
        },
        "largest_norm_of_a_last_layer": max(
            float(table["norm"].max()) for t in trained.values() for table in t.values()
        ),
    }


# ---------------------------------------------------------------------- the last layer alone


@dataclass(frozen=True)
class Alone:
    """Runs of the last layer over one body, in torch and in the convex laboratory.

    Attributes
    ----------
    problem
        The last layer as a problem of the convex laboratory.
    losses, expected
        (method, seed, 2) final training losses, in torch and in the convex laboratory.
    largest_norm
        Largest norm of the last layers at the end.
    """

    problem: LogLinear
    losses: Array
    expected: Array
    largest_norm: float

    @cached_property
    def front(self) -> Front:
        return pareto_front(self.problem, accuracy=2e-3)

    @cached_property
    def behind(self) -> Array:
        """(method, seed) distance above the OUTER hull, below which no last layer lies."""
        return scores.front_gap(
            self.losses, WEIGHTS, self.front.value_bounds(WEIGHTS)[0], self.front.ranges
        )[0]

    def numbers(self) -> dict[str, Any]:
        return {
            "width": SHOWN,
            "largest_difference_from_the_laboratory": np.abs(self.losses - self.expected).max(),
            "certified_error": self.front.error,
            "least_distance_behind_the_outer_hull": self.behind.min(),
            "distance_behind": {
                s.key: cell(interval(g)) for s, g in zip(IN_LABORATORY, self.behind, strict=True)
            },
            "largest_norm": self.largest_norm,
        }


def last_layer_alone(task: PolicyTask, updates: int, seeds: Sequence[int]) -> Alone:
    """Train the last layer by single-row SGD with every schedule, in torch and in the lab."""
    base = task.initial([0])
    problem = task.last_layer(one_run(base, 0), RADIUS)
    optima = [minimise(problem, lam).value for lam in (0.0, 1.0)]
    done = train(
        task,
        grid(IN_LABORATORY, seeds),
        steps=updates,
        learning_rate=1.0,
        decay=0.5,
        optimizer="sgd",
        batch_size=1,
        start=base,
        reference=base,
        optima=optima,
        last_layer_only=True,
        evaluate_every=updates,
    )
    last = done.table[done.table["step"] == updates]
    losses = last[["sft_loss_train", "preference_loss_train"]].to_numpy()
    lab = trajectories(
        problem,
        IN_LABORATORY,
        steps=updates,
        step_size=StepSize(1.0, 0.5),
        replicas=len(seeds),
        checkpoints=[updates],
    )
    norms = done.params[task.last_layer_name].flatten(1).norm(dim=1)
    return Alone(
        problem,
        losses.reshape(len(IN_LABORATORY), len(seeds), 2),
        lab.losses(problem)[:, :, -1],
        float(norms.max()),
    )


# ---------------------------------------------------------------------- all layers


@dataclass(frozen=True)
class Bodies:
    """Initial bodies of one width, one per seed, with their last-layer fronts."""

    width: int
    seeds: tuple[int, ...]

    @cached_property
    def task(self) -> PolicyTask:
        return a_task(self.width)

    @cached_property
    def fronts(self) -> tuple[Front, ...]:
        return tuple(pareto_front(p, accuracy=1e-2) for p in self._problems(held_out=False))

    @cached_property
    def held_out(self) -> tuple[Array, ...]:
        """Held-out losses (K, 2) of the optimal last layers of each body's front."""
        pairs = zip(self._problems(held_out=True), self.fronts, strict=True)
        return tuple(problem.losses(front.thetas) for problem, front in pairs)

    @cached_property
    def optima(self) -> Array:
        """(seed, 2) least training losses of a last layer, which MAXRIGHT needs to compute gaps."""
        return np.stack([front.ideal for front in self.fronts])

    def values(self, seed: int, part: str) -> Array:
        """Least f_lambda of the optimal last layers of one body, at every weight in ``WEIGHTS``."""
        front = self.fronts[seed]
        points = front.points if part == "train" else self.held_out[seed]
        return scores.weighted_loss(points, WEIGHTS[:, None]).min(axis=1)

    def _problems(self, held_out: bool) -> list[LogLinear]:
        base = self.task.initial(self.seeds)
        return [
            self.task.last_layer(one_run(base, k), RADIUS, held_out=held_out)
            for k in range(len(self.seeds))
        ]


def a_task(width: int, dtype: torch.dtype = torch.float32) -> PolicyTask:
    """The task of a policy of this width with one hidden layer, and its data."""
    return PolicyTask(DATA, PolicyConfig(width=width, depth=1), dtype=dtype)


WAYS = {"full": False, "last": True}
"""Whether only the last layer is trained."""
Rates = dict[str, tuple[float, float]]


def both_ways(bodies: Bodies, gradients: int, chosen: dict[str, Rates]) -> dict[str, pd.DataFrame]:
    """Results of training all layers and the last layer alone, each with its own step sizes."""
    return {
        name: ends(
            bodies.task,
            bodies.seeds,
            gradients,
            chosen[name],
            last_layer_only=last,
            optima=bodies.optima,
        )
        for name, last in WAYS.items()
    }


def tuned(width: int, size: Size) -> dict[str, Rates]:
    """Step sizes of both stages by method, with the least validation f_lambda over the whole grid.

    Bodies and draws have seeds that are not reported.
    """
    bodies = Bodies(width, tuple(range(TUNING, TUNING + size.tuning)))
    found: dict[str, Rates] = {name: {} for name in WAYS}
    for name, last in WAYS.items():
        for schedule in SCHEDULES:
            two = has_two_stages(schedule, size.gradients)
            pairs = [(r, s) for r in size.rates for s in (size.rates if two else (r,))]
            losses = [
                halves(table, schedule.key, "held_out").mean()
                for table in on_grid(bodies, size.gradients, schedule, pairs, last)
            ]
            found[name][schedule.key] = pairs[int(np.argmin(losses))]
    return found


def on_grid(
    bodies: Bodies,
    gradients: int,
    schedule: Schedule,
    pairs: Sequence[tuple[float, float]],
    last_layer_only: bool,
) -> list[pd.DataFrame]:
    """Results of one schedule at every pair of step sizes, all trained as one ensemble."""
    seeds, n = bodies.seeds, len(bodies.seeds)
    steps = Method(schedule).updates(gradients)
    done = train(
        bodies.task,
        grid([schedule], seeds) * len(pairs),
        steps=steps,
        learning_rate=np.repeat(np.array(pairs), n, axis=0).tolist(),
        decay=0.5,
        evaluate_every=steps,
        last_layer_only=last_layer_only,
        optima=np.tile(bodies.optima, (len(pairs), 1)) if looks(schedule) else None,
    )
    last = done.table[done.table["step"] == steps].reset_index(drop=True)
    last = last.assign(method=schedule.key)
    return [last.iloc[k * n : (k + 1) * n] for k in range(len(pairs))]


def ends(
    task: PolicyTask,
    seeds: Sequence[int],
    gradients: int,
    rates: Rates,
    *,
    last_layer_only: bool = False,
    schedules: Sequence[Schedule] = SCHEDULES,
    optima: Array | None = None,
) -> pd.DataFrame:
    """Results of every schedule and seed after a number of gradients; an update of Mix takes two.

    A pair costs as much as a demonstration: one pass gives the log-probabilities of all responses.

    Parameters
    ----------
    rates
        Step sizes of both stages by method. A method without stages uses the first.
    optima
        (seed, 2) minimal training losses, for schedules that compare gaps.
    """
    parts = []
    counts = [Method(schedule).updates(gradients) for schedule in schedules]
    for steps in sorted(set(counts), reverse=True):
        chosen = [s for s, count in zip(schedules, counts, strict=True) if count == steps]
        done = train(
            task,
            grid(chosen, seeds),
            steps=steps,
            learning_rate=[rates[s.key] for s in chosen for _ in seeds],
            decay=0.5,
            evaluate_every=steps,
            last_layer_only=last_layer_only,
            optima=None if optima is None else np.tile(optima, (len(chosen), 1)),
        )
        norm = done.params[task.last_layer_name].flatten(1).norm(dim=1).numpy()
        last = done.table[done.table["step"] == steps]
        keys = last["run"].map({r: run.schedule.key for r, run in enumerate(done.runs)})
        parts.append(last.assign(norm=norm, method=keys))
    return pd.concat(parts, ignore_index=True)


def losses_of(table: pd.DataFrame, key: str, part: str) -> Array:
    """(seed, 2) losses of one method."""
    rows = table[table["method"] == key].sort_values("seed")
    names = [f"{name}{ENDS[part]}" for name in ("sft_loss", "preference_loss")]
    return rows[names].to_numpy()


def halves(table: pd.DataFrame, key: str, part: str) -> Array:
    """(seed,) f_lambda at the requested weight 1/2."""
    return scores.weighted_loss(losses_of(table, key, part), 0.5)


def minus(first: tuple[pd.DataFrame, str], second: tuple[pd.DataFrame, str], part: str) -> Interval:
    """Paired difference of f_lambda over the seeds, between two pairs (table, method)."""
    return paired_difference(halves(*first, part), halves(*second, part))


def signed(bodies: Bodies, table: pd.DataFrame, part: str) -> dict[str, Array]:
    """(seed,) signed distance by method from the front of the same body; negative: below it."""
    return {
        key: np.array(
            [
                scores.front_gap(loss, WEIGHTS, bodies.values(k, part), bodies.fronts[k].ranges)[0]
                for k, loss in enumerate(losses_of(table, key, part))
            ]
        )
        for key in sorted(set(table["method"]))
    }


def comparisons(trained: dict[int, dict[str, pd.DataFrame]], name: str) -> dict[str, Any]:
    """Intervals of f_lambda of each method, and of orders less joint methods, by width."""
    found: dict[str, Any] = {}
    for part in ENDS:
        found[f"{part}_f_half"] = {
            key: [float(halves(t[name], key, part).mean()) for t in trained.values()]
            for key in METHODS
        }
        found[f"{part}_sequential_minus_joint"] = {
            f"{order} - {joint}": [
                cell(minus((t[name], order), (t[name], joint), part)) for t in trained.values()
            ]
            for order in ORDERS
            for joint in JOINT
        }
    return found


# ---------------------------------------------------------------------- drawing


def draw_losses(ax: Axes, alone: Alone, bodies: Bodies, table: pd.DataFrame) -> None:
    """Draw training losses at one width: of last layers and of all layers, with the fronts."""
    for front in bodies.fronts[1:]:
        ax.plot(*front.inner.T, color="0.75", linewidth=0.5, zorder=0)
    ax.plot(*alone.front.inner.T, **{**style.FRONT, "linewidth": 4, "alpha": 0.35})
    for k, schedule in enumerate(IN_LABORATORY):
        look = style.look(schedule)
        ax.plot(*alone.losses[k].T, **look.dots(markersize=3.2, alpha=0.8, zorder=3))
        hollow = look.dots(markersize=5, markerfacecolor="none", markeredgewidth=0.9)
        ax.plot(*losses_of(table, schedule.key, "train").T, **hollow, label=label(schedule.key))
    ax.set(
        title=f"(a) Width {SHOWN}, training losses",
        xlabel="SFT loss (nats)",
        ylabel="preference loss (nats)",
        xlim=(1.2, 4.4),
        ylim=(0.15, 1.6),
    )
    ax.legend(loc="upper right", handlelength=1, fontsize=7.5)
    ax.annotate("hollow: all layers\nfilled: last layer alone", (0.97, 0.36), **_FRACTION)


def draw_distance(ax: Axes, distance: dict[int, dict[str, Array]], title: str) -> None:
    """Draw signed distance against width: every seed, means joined, t-intervals."""
    ax.axhline(0, color="0.3", linewidth=1.1)
    for k, key in enumerate(METHODS):
        look = style.look(key)
        found = [interval(distance[width][key]) for width in distance]
        x = np.array(list(distance)) * 1.06 ** (k - 2)
        for at, width in zip(x, distance, strict=True):
            values = distance[width][key]
            ax.plot(np.full(len(values), at), values, **look.dots(markersize=1.6, alpha=0.35))
        mean = np.array([f.mean for f in found])
        half = np.array([f.high - f.mean for f in found])
        ax.errorbar(x, mean, half, **look.line_style(markersize=3.8, linewidth=1), label=label(key))
    ax.set_ylim(top=0.1)
    ax.annotate("behind", (0.985, 0.97), xycoords="axes fraction", **_CORNER, va="top")
    ax.annotate("beyond the last layer's front", (0.985, 0.02), xycoords="axes fraction", **_CORNER)
    ax.set(title=title, xlabel="width", ylabel="distance from the front / range")
    _widths(ax, list(distance))


def draw_orders(ax: Axes, trained: dict[int, dict[str, pd.DataFrame]]) -> None:
    """Draw held-out f_lambda of either order less that of Mix: all layers, and the last alone."""
    widths, labels = np.array(list(trained)), {}
    for order, shift in zip(ORDERS, (0.97, 1.03), strict=True):
        look = style.look(order)
        for name in ("last", "full"):
            found = [
                minus((t[name], order), (t[name], "mix"), "held_out") for t in trained.values()
            ]
            mean = np.array([f.mean for f in found])
            half = np.array([f.high - f.mean for f in found])
            hollow = {"markerfacecolor": "white", "linewidth": 0.8} if name == "last" else {}
            ax.errorbar(widths * shift, mean, half, **look.line_style(**hollow))
            text = f"{label(order)}, {'all' if name == 'full' else 'last'}"
            labels[text] = (float(mean[-1]), look.color)
    label_lines(ax, widths[-1] * 1.08, labels, least=0.075)
    ax.axhline(0, color="0.3", linewidth=1.1)
    ax.set(
        title="(d) Held out, less Mix",
        xlabel="width",
        ylabel=r"difference of $f_{1/2}$ (nats)",
    )
    _widths(ax, list(trained))
    ax.set_xlim(right=widths[-1] * 4)


_FRACTION: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "fontsize": 8}
_CORNER: dict[str, Any] = {"ha": "right", "fontsize": 8, "color": "0.35", "style": "italic"}


def _widths(ax: Axes, widths: list[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, [str(width) for width in widths])
    ax.minorticks_off()


# ---------------------------------------------------------------------- claims


def claim_last_layer_is_the_laboratory(fast: bool = False, mutation: str | None = None) -> Checked:
    """With the last layer alone in float64, all losses equal the convex laboratory's."""
    reject_unknown(mutation, ("another-schedule",))  # Checked before anything is computed.
    found = last_layer_alone(a_task(8, torch.float64), 60 if fast else 150, range(3))
    wrong = np.roll(found.expected, 1, axis=0)
    expected = mutate(mutation, found.expected, {"another-schedule": wrong})
    return Checked(found.losses, expected, "exact", {"runs": 15.0}, 1e-8)


def claim_last_layer_stays_behind(fast: bool = False, mutation: str | None = None) -> Checked:
    """No run of the last layer passes the outer hull of its certified front."""
    reject_unknown(mutation, (SWAPPED,))  # before anything is computed
    found = last_layer_alone(a_task(8, torch.float64), 60 if fast else 150, range(3))
    assert found.largest_norm < RADIUS, "the front is that of a ball, which a run has left"
    wrong = replace(found, losses=found.losses[..., ::-1])
    behind = mutate(mutation, found, {SWAPPED: wrong}).behind
    zero = np.zeros_like(behind)
    return Checked(behind, zero, "lower", {"front error": found.front.error}, 1e-9)


def claim_narrow_network_passes_the_front(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """At the least width Mix and ALRIGHT end below the last layer's front, held out (upper).

    ``measured`` holds upper ends of 95 % intervals of the signed distance from the front of the
    same body. On held-out rows this front consists of the losses of its optimal last layers.
    """
    del fast
    found = _stored()["signed_distance"]["held_out"]
    cells = [found[joint][0] for joint in ("mix", "alright")]
    honest, wrong = [upper(cell) for cell in cells], [-lower(cell) for cell in cells]
    high = np.array(mutate(mutation, honest, {SWAPPED: wrong}))
    return Checked(high, np.zeros(2), "upper", {"n": float(_stored()["n"])}, 0.0)


def claim_orders_trail_in_networks(fast: bool = False, mutation: str | None = None) -> Checked:
    """All layers, tuned: either order has a larger held-out f_lambda than Mix, at each width.

    ``measured`` holds the lower ends of the 95 % intervals of the paired differences (lower).
    """
    del fast
    found = _stored()
    pairs = found["full"]["held_out_sequential_minus_joint"]
    low = [[lower(c) for c in pairs[f"{order} - mix"]] for order in ORDERS]
    wrong = [[-upper(c) for c in pairs[f"{order} - mix"]] for order in ORDERS]
    measured = np.array(mutate(mutation, low, {SWAPPED: wrong}))
    return Checked(measured, np.zeros_like(measured), "lower", {"n": found["n"]}, 0.0)


def _stored() -> dict[str, Any]:
    return shown("bridge")


if __name__ == "__main__":
    main(Path("out"))
