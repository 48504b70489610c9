"""Do the results hold on real text? Certified fronts, end points of the methods, held-out losses.

Each prompt chooses among a few candidate responses by hashed words. The problem is convex and its
front is certified, while the text is real. Left: training losses. Right: losses of the same
parameters on prompts that no update reads. One row per pair of data sets.

The data are in a folder beside the project, not in it. Where they are absent the figure is drawn
from the numbers of the stored run, and its result says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.dossier import lookup, style
from analysis.dossier.stored_results import numbers as stored_numbers
from analysis.fernando2024.methods import label
from analysis.fernando2024.stored import PAPER
from tradeoff.checkout import DATA
from tradeoff.conflict import choose_radius
from tradeoff.convex import Front, LogLinear, pareto_front, trajectories
from tradeoff.convex.text import text_problem
from tradeoff.data import PreferenceRow, SftRow, read_preferences, read_sft
from tradeoff.errors import InputError
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential

CAPTION = (
    "Do results hold on real text? Above: rasbt instructions, polite over rude answers. Below: "
    "{dolly} Dolly instructions, HH-harmless pairs. Left: certified front of the training losses. "
    "Right, held out ({above} above, {below} below): the same policies, not certified; methods end "
    "below their curve ({beyond}). Lines join λ = .25, .5, .75. Only ALRIGHT's draws vary: n = "
    "{seeds} below. Command: python -m analysis text_front"
)
FEATURES = 2**12
LAMBDAS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Pair:
    """Names of two data sets, titles of both parts, number of SFT rows, and size of the runs."""

    sft: str
    preference: str
    title: str
    held_out: str
    rows: int | None
    steps: int
    step_size: float
    replicas: int


PAIRS = (
    Pair(
        "sft_rasbt",
        "pref_rasbt",
        "rasbt (polite/rude)",
        "rasbt, held out",
        rows=None,
        steps=300,
        step_size=16.0,
        replicas=5,
    ),
    Pair(
        "sft_dolly15k",
        "pref_hh_harmless_base",
        "Dolly and HH-harmless",
        "Dolly and HH-harmless, held out",
        rows=2000,
        steps=120,
        step_size=16.0,
        replicas=3,
    ),
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    above, below = (numbers[pair.sft]["held_out_rows"] for pair in PAIRS)
    ends = [", ".join(beyond(numbers[pair.sft])) or "none" for pair in PAIRS]
    return {
        "beyond": f"above: {ends[0]}; below: {ends[1]}",
        "dolly": f"{numbers[PAIRS[1].sft]['rows'][0]:,}",
        "above": f"{above[0]} demonstrations and {above[1]} pairs",
        "below": f"{below[0]} and {below[1]}",
        "seeds": f"{PAIRS[0].replicas} seeds above, {PAIRS[1].replicas}",
    }


def beyond(found: Mapping[str, Any]) -> list[str]:
    """Methods whose ends all lie below the held-out curve: no point of it is as good."""
    curve = np.asarray(found["front"]["held_out"])
    ends = {name: np.asarray(entry["held_out"]) for name, entry in found["methods"].items()}
    return [
        label(name)
        for name, points in ends.items()
        if not (curve[:, None] <= points).all(axis=2).any()
    ]


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    pairs = PAIRS[:1] if fast else PAIRS
    numbers = measure(pairs, fast) if have_data(pairs) else stored(pairs)
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Both planes of each pair of data sets that the numbers have."""
    pairs = [pair for pair in PAIRS if pair.sft in numbers]
    with style.figure(len(pairs), 2, height=2.9 * len(pairs) + 0.4, squeeze=False) as (fig, axes):
        for row, pair in zip(axes, pairs, strict=True):
            found = numbers[pair.sft]
            draw_losses(row[0], found, "train")
            draw_losses(row[1], found, "held_out")
            row[0].set_title(pair.title)
            row[1].set_title(pair.held_out)
        certified, evaluated = (ax.get_legend_handles_labels() for ax in axes[0])
        handles, labels = ([*a, b[0]] for a, b in zip(certified, evaluated, strict=True))
        fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        style.save(fig, out, "text_front")


# ---------------------------------------------------------------------- where the numbers come from


def have_data(pairs: Sequence[Pair]) -> bool:
    """Whether every file that the pairs need exists."""
    names = [name for pair in pairs for name in (pair.sft, pair.preference)]
    return all(
        (DATA / f"{n}_{part}.jsonl.gz").exists() for n in names for part in ("train", "test")
    )


def stored(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Numbers of the stored run, marked as stored."""
    path = lookup.place(PAPER, "text_front")
    if not path.exists():
        remedy = f"Put the files that shared/data/README.md names into {DATA.name}/ and run again."
        raise InputError("no real text and no stored run", field="text_front", remedy=remedy)
    numbers = stored_numbers(path)
    return {**{p.sft: numbers[p.sft] for p in pairs}, "source": "stored run"}


def measure(pairs: Sequence[Pair], fast: bool) -> dict[str, Any]:
    """Fronts, runs and held-out losses of each pair, by the name of its SFT data."""
    return {**{pair.sft: measure_pair(pair, fast) for pair in pairs}, "source": "this run"}


def measure_pair(pair: Pair, fast: bool) -> dict[str, Any]:
    """All numbers of one pair of data sets."""
    rows = read(pair, "train")
    shape: dict[str, Any] = {"candidates": 8, "n_features": FEATURES, "seed": 0, "beta": 1.0}
    radius = 40.0 if fast else choose_radius(*rows, **shape)
    problem = text_problem(rows[0], rows[1], radius=radius, **shape)
    aside = read(pair, "test")
    held_out = text_problem(aside[0], aside[1], radius=radius, **shape)
    front = pareto_front(problem, solves=9 if fast else 17, accuracy=2e-3, interpolate=False)
    steps, replicas = (60, 2) if fast else (pair.steps, pair.replicas)
    result: dict[str, Any] = {
        "rows": [len(problem.demonstrations), len(problem.chosen)],
        "held_out_rows": [len(held_out.demonstrations), len(held_out.chosen)],
        "beta": problem.beta,
        "radius": radius,
        "updates": steps,
        "certified_error": front.error,
        "gradient_norms_at_start": np.linalg.norm(problem.gradients(0 * front.thetas[0]), axis=1),
        "front": {"train": front.points, "held_out": held_out.losses(front.thetas)},
        "methods": run_methods(problem, held_out, front, steps, pair.step_size, replicas),
    }
    if not fast:
        result["beta_0.1"] = usual_beta(replace(problem, beta=0.1), replace(held_out, beta=0.1))
    return result


def read(pair: Pair, part: str) -> tuple[list[SftRow], list[PreferenceRow]]:
    """SFT and preference rows of one part of a pair."""
    sft = list(read_sft(DATA / f"{pair.sft}_{part}.jsonl.gz"))[: pair.rows]
    return sft, list(read_preferences(DATA / f"{pair.preference}_{part}.jsonl.gz"))


def usual_beta(problem: LogLinear, held_out: LogLinear) -> dict[str, Any]:
    """The front at beta = 0.1, and the norms of the two gradients there."""
    front = pareto_front(problem, solves=9, accuracy=1e-2, interpolate=False)
    start = np.zeros(problem.dimension)
    return {
        "ideal": front.ideal,
        "ranges": front.ranges,
        "certified_error": front.error,
        "held_out_best": held_out.losses(front.thetas).min(axis=0),
        "gradient_norms_at_start": np.linalg.norm(problem.gradients(start), axis=1),
    }


def run_methods(
    problem: LogLinear,
    held_out: LogLinear,
    front: Front,
    steps: int,
    step_size: float,
    replicas: int,
) -> dict[str, Any]:
    """Losses (train, held out) and scores of every method; joint methods at several lambda."""
    randomised = [Alright(lam=lam) for lam in LAMBDAS]
    steady: list[Schedule] = [Sequential(), Sequential(first="preference")]
    steady += [Mix(lam=lam) for lam in LAMBDAS]
    steady += [Maxright(lam=lam, weighted=False) for lam in LAMBDAS]
    found: dict[str, Any] = {}
    for schedules, repeats in ((steady, 1), (randomised, replicas)):
        runs = trajectories(
            problem,
            schedules,
            steps=steps,
            step_size=step_size,
            replicas=repeats,
            gradients="full",
            checkpoints=[steps],
        )
        for schedule, theta in zip(schedules, runs.last[:, :, -1], strict=True):
            entry = found.setdefault(
                schedule.key,
                {"lam": [], "train": [], "held_out": [], "held_out_spread": []}
                | {"front_gap": [], "matched_weight": [], "regret": []},
            )
            seen, unseen = problem.losses(theta), held_out.losses(theta)
            score = front.score(seen, schedule.lam).mean()
            entry["lam"].append(schedule.lam)
            entry["train"].append(seen.mean(axis=0))
            entry["held_out"].append(unseen.mean(axis=0))
            entry["held_out_spread"].append([unseen.min(axis=0), unseen.max(axis=0)])
            for name in ("front_gap", "matched_weight", "regret"):
                entry[name].append(float(score[name]))
    return found


# ---------------------------------------------------------------------- drawing


def draw_losses(ax: Axes, found: dict[str, Any], part: str) -> None:
    """Draw the front and the end points in the plane of the two losses."""
    front = np.asarray(found["front"][part])
    if part == "train":
        ax.plot(*front.T, **style.FRONT, label="certified front")
    else:
        ax.plot(*front.T, **style.BOUND, label="the same policies, held out: not certified")
    for method, entry in found["methods"].items():
        look = style.look(method)
        ax.plot(*np.asarray(entry[part]).T, **look.line_style(markersize=5.5, label=label(method)))
    where = "training" if part == "train" else "held-out"
    ax.set(
        xlabel=f"{where} SFT loss (nats)",
        ylabel=f"{where} preference loss (nats)",
        xscale="log",
        yscale="log",
    )
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        subs = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 5, 7)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    main(Path("out"))
