"""Which rows fight? Planted contradictions, found on the convex scale and by gradients of a model.

Demonstrations contradict the pairs for one asker in ten. A score of each row is to find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate
from analysis.fernando2024.forecast import grid
from analysis.fernando2024.stored import shown
from tradeoff import tiny
from tradeoff.convex import LogLinear
from tradeoff.convex.text import text_problem
from tradeoff.data.synthetic import InstructionData, generate
from tradeoff.forecast.fights import auroc, gradient_conflict, influence, price
from tradeoff.forecast.networks import TaskSubject
from tradeoff.forecast.sketch import CountSketch
from tradeoff.networks.hugging_face import from_hugging_face
from tradeoff.networks.language_task import LanguageTask
from tradeoff.scores import interval
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]
PLANTED, DROPPED, RADIUS = 0.1, 0.05, 20.0
"""Share of contradicting demonstrations; of rows that are dropped; radius of the convex problem."""
GOALS = {"convex": 0.95, "model": 0.8}
"""Areas under the curve that were asked for before any run."""
CAPTION = (
    "Planted contradictions, {planted} of {rows} demonstrations: area under the ROC curve of a "
    "row's exact influence on the price of conflict (convex problem on words) and of its "
    "gradient's cosine with the pairs' (tiny language model); lines are the goals. Right: price of "
    "conflict without the {dropped} of rows that fight most, or without as many random ones. What "
    "varies is the seed, n = {seeds}. Command: python -m analysis fighting_rows"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    return {
        "planted": f"{100 * PLANTED:.0f} %",
        "rows": str(numbers["rows"]),
        "dropped": f"{100 * DROPPED:.0f} %",
        "seeds": str(len(numbers["convex"])),
    }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    """Score the rows of some seeded data sets, drop some, and draw."""
    rows, seeds = (40, 2) if fast else (200, 20)
    found = [one(seed, rows, fast) for seed in range(seeds)]
    names = tuple(found[0])
    numbers: dict[str, Any] = {"rows": rows} | {
        name: [each[name] for each in found] for name in names
    }
    numbers["kept"] = _kept(numbers)
    picture(out, numbers)
    return numbers


def _kept(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Price after dropping rows, as a share of that of all rows."""
    every = np.array(numbers["price"])
    return {
        name: {"mean": float(found.mean), "low": float(found.low), "high": float(found.high)}
        for name in ("without_fighting", "without_random")
        for found in [interval(np.array(numbers[name]) / every)]
    }


def one(seed: int, rows: int, fast: bool) -> dict[str, float]:
    """Areas and prices of one seeded data set."""
    data = planted(seed, rows)
    contrary = np.array([row.contrary for row in data.sft_train])
    problem = posed(data)
    whole = price(problem)
    scores = influence(problem, whole)[0]
    few = round(DROPPED * rows)
    least = np.argsort(-scores, kind="stable")[few:]
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(rows)[few:])
    return {
        "convex": auroc(scores, contrary),
        "model": auroc(by_gradients(data, fast), contrary),
        "price": whole.value,
        "without_fighting": price(without(problem, least)).value,
        "without_random": price(without(problem, some)).value,
    }


def planted(seed: int, rows: int) -> InstructionData:
    """Rows of the small language, of which some demonstrations contradict the pairs."""
    language = tiny.Tiny().language
    sizes: dict[str, Any] = {
        "sft_rows": rows,
        "preference_rows": rows,
        "test_rows": 4,
        "documents": 4,
    }
    return generate(replace(language, seed=seed, conflict=PLANTED, **sizes))


def posed(data: InstructionData) -> LogLinear:
    """Convex problem on hashed words, whose alternatives include the responses of the pairs."""
    pool = [str(text) for row in data.preference_train for text in (row.chosen, row.rejected)]
    return text_problem(data.sft_train, data.preference_train, radius=RADIUS, n_features=64,
                        pool=pool)  # fmt: skip


def without(problem: LogLinear, kept: NDArray[np.int64]) -> LogLinear:
    """The problem with some of its demonstrations; prompts stay."""
    return replace(problem, demonstrations=problem.demonstrations[kept])


def by_gradients(data: InstructionData, fast: bool) -> Array:
    """Conflict of each demonstration with the pairs, from gradients of the base model."""
    model, tokenizer = base(fast)
    task = LanguageTask.of(model, data, tokenizer)
    subject, sketch = TaskSubject(task, 1e-3), CountSketch(512)
    rows = np.arange(len(task.sft))
    found = [subject.gradients(k, rows[: task.sizes[k]], sketch) for k in (0, 1)]
    return gradient_conflict(*found)[0]


@cache
def base(fast: bool) -> tuple[Any, Any]:
    form = grid.FORMS["fast" if fast else "full"]
    return from_hugging_face(tiny.folder(form.model, progress=False))


# ---------------------------------------------------------------------- drawing


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Areas by seed, and what dropping rows leaves of the price."""
    with style.figure(1, 2, height=2.6) as (fig, (left, right)):
        _areas(left, numbers)
        for place, name in enumerate(("without_fighting", "without_random")):
            share = np.array(numbers[name]) / np.array(numbers["price"])
            right.plot(np.full(len(share), place), share, "o", color="0.5", markersize=3)
            right.plot([place - 0.2, place + 0.2], [share.mean()] * 2, color="k")
        right.set_xticks([0, 1], ["fighting rows", "random rows"])
        right.set(ylabel="price of conflict left", xlabel="dropped", xlim=(-0.5, 1.5))
        style.save(fig, out, "fighting_rows")


def _areas(ax: Axes, numbers: Mapping[str, Any]) -> None:
    for place, (name, goal) in enumerate(GOALS.items()):
        areas = np.array(numbers[name])
        ax.plot(np.full(len(areas), place), areas, "o", color="0.5", markersize=3)
        ax.plot([place - 0.3, place + 0.3], [goal] * 2, color="k", linestyle="--")
    ax.set_xticks([0, 1], ["influence,\nconvex, exact", "gradients,\nmodel"])
    ax.set(ylabel="area under the ROC curve", xlim=(-0.5, 1.5), ylim=(None, 1.02))


# ---------------------------------------------------------------------- claims


def claim_fighting_rows_are_found(fast: bool = False, mutation: str | None = None) -> Checked:
    """Mean areas under the ROC curve are at least the goals, by their 95 % intervals (lower)."""
    del fast
    found = shown("fighting_rows")
    areas = {name: np.array(found[name]) for name in GOALS}
    wrong = {name: 1 - area for name, area in areas.items()}
    used = mutate(mutation, areas, {SWAPPED: wrong})
    low = np.array([float(interval(used[name]).low) for name in GOALS])
    seeds = {"n": float(len(found["convex"]))}
    return Checked(low, np.array(list(GOALS.values())), "lower", seeds, 0.0)
