"""Does dropping the rows that fight help a trained model, against as many random rows?

The contradictions are those of :mod:`fighting_rows`. A tiny language model is trained on all rows,
without the demonstrations whose gradients oppose the pairs most, and without random ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate
from analysis.fernando2024.forecast import fighting_rows, grid
from analysis.fernando2024.forecast.fighting_rows import DROPPED, PLANTED
from analysis.fernando2024.stored import shown
from tradeoff import study, tiny
from tradeoff.data.synthetic import InstructionData, generate
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.train import Run, train
from tradeoff.schedules import Alright, Mix
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

WAYS = {"all": "all rows", "fighting": "without rows\nthat fight", "random": "without\nrandom rows"}
"""Which demonstrations are trained on."""
LOSSES = ["sft_loss", "preference_loss"]
CAPTION = (
    "A tiny language model on {rows} demonstrations, {planted} of which contradict the {rows} "
    "pairs: all; without the {dropped} whose gradients oppose the pairs most; without as many "
    "random ones. Left: price of conflict, lambda = 1/2, {updates} updates. Right: held-out loss "
    "of Mix without contradictions. What varies: the seed, n = {seeds}; fighting less random, "
    "paired: {price} and {held_out} nats (95 % t-intervals). "
    "Command: python -m analysis dropped_rows"
)


@dataclass(frozen=True)
class Form:
    """Size of the study."""

    rows: int = 200
    test_rows: int = 200
    seeds: int = 14
    updates: int = 100


FORMS = {"full": Form(), "fast": Form(rows=40, test_rows=16, seeds=2, updates=4)}


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    found = {
        name: "{mean:.3f} ({low:.3f} to {high:.3f})".format(**numbers["differences"][name])
        for name in ("price", "held_out")
    }
    return found | {
        "rows": str(numbers["rows"]),
        "planted": f"{100 * PLANTED:.0f} %",
        "dropped": f"{100 * DROPPED:.0f} %",
        "updates": str(numbers["updates"]),
        "seeds": str(len(numbers["price"]["all"])),
    }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    """Train what is not stored, and draw."""
    which = "fast" if fast else "full"
    form = FORMS[which]
    folder = grid.FOLDER / f"{which}-dropped"
    table = study.run(
        trained, configurations(which), folder, backend="sequential", progress=not fast
    )
    wide = {
        name: {way: table[table["way"] == way].sort_values("seed")[name].tolist() for way in WAYS}
        for name in ("price", "held_out", "contrary")
    }
    numbers: dict[str, Any] = {"rows": form.rows, "updates": form.updates, **wide}
    numbers["differences"] = {
        name: {part: float(getattr(found, part)) for part in ("mean", "low", "high")}
        for name in ("price", "held_out")
        for found in [paired_difference(wide[name]["fighting"], wide[name]["random"])]
    }
    numbers["cpu_minutes"] = float(table["cpu_seconds"].sum() / 60)
    picture(out, numbers)
    return numbers


def configurations(which: str) -> list[dict[str, Any]]:
    """Every way with every seed."""
    return [
        {"which": which, "seed": seed, "way": way}
        for seed in range(FORMS[which].seeds)
        for way in WAYS
    ]


def trained(configuration: Mapping[str, Any]) -> pd.DataFrame:
    """Price of conflict and held-out loss of a model that is trained in one way."""
    began = time.process_time()
    which, seed, way = (configuration[name] for name in ("which", "seed", "way"))
    form, fast = FORMS[which], which == "fast"
    data = planted(form, seed)
    kept = chosen(data, way, seed, fast)
    clean = tuple(row for row in data.sft_test if not row.contrary)
    own = replace(data, sft_train=tuple(data.sft_train[i] for i in kept), sft_test=clean)
    model, tokenizer = fighting_rows.base(fast)
    task = LanguageTask.of(model, own, tokenizer, evaluation_rows=form.rows)
    schedules = (Mix(lam=0.5), Alright(lam=0.0), Alright(lam=1.0))
    done = train(
        task,
        [Run(schedule, seed) for schedule in schedules],
        steps=form.updates,
        batch_size=8,
        learning_rate=grid.FORMS[which].rate,
        clip=1.0,
        evaluate_every=form.updates,
    )
    last = done.table.groupby("run").last()
    joint, sft, pairs = (last.loc[k] for k in range(3))
    price = (
        joint["sft_loss_train"]
        - sft["sft_loss_train"]
        + joint["preference_loss_train"]
        - pairs["preference_loss_train"]
    ) / 2
    contrary = sum(row.contrary for row in own.sft_train)
    found = {"price": price, "held_out": joint[LOSSES].mean(), "contrary": contrary}
    return pd.DataFrame([found | {"cpu_seconds": time.process_time() - began}])


def planted(form: Form, seed: int) -> InstructionData:
    """Rows of the small language, of which some demonstrations contradict the pairs."""
    sizes: dict[str, Any] = {
        "sft_rows": form.rows,
        "preference_rows": form.rows,
        "test_rows": form.test_rows,
        "documents": 4,
    }
    return generate(replace(tiny.Tiny().language, seed=seed, conflict=PLANTED, **sizes))


def chosen(data: InstructionData, way: str, seed: int, fast: bool) -> NDArray[np.int64]:
    """Demonstrations that are kept, in their order."""
    count = len(data.sft_train)
    few = 0 if way == "all" else round(DROPPED * count)
    if way == "fighting":
        order = np.argsort(-fighting_rows.by_gradients(data, fast), kind="stable")
    else:
        order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[few:])


# ---------------------------------------------------------------------- drawing


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Prices and held-out losses by seed, and their means."""
    with style.figure(1, 2, height=2.6) as (fig, axes):
        for ax, name, label in zip(
            axes,
            ("price", "held_out"),
            ("price of conflict (nats)", "held-out loss of Mix (nats)"),
            strict=True,
        ):
            _ways(ax, numbers[name])
            ax.set(ylabel=label, xlim=(-0.5, len(WAYS) - 0.5))
        style.save(fig, out, "dropped_rows")


def _ways(ax: Axes, values: Mapping[str, Any]) -> None:
    for place, way in enumerate(WAYS):
        one = np.array(values[way])
        ax.plot(np.full(len(one), place), one, "o", color="0.5", markersize=3)
        found = interval(one)
        bar: dict[str, Any] = {"color": "k", "capsize": 3}
        ax.errorbar(place + 0.2, found.mean, float(found.high - found.mean), fmt="_", **bar)
    ax.set_xticks(range(len(WAYS)), list(WAYS.values()), fontsize=7)


# ---------------------------------------------------------------------- claims


def claim_dropping_beats_random(fast: bool = False, mutation: str | None = None) -> Checked:
    """Price of conflict and held-out loss are less, by paired 95 % intervals (upper)."""
    del fast
    found = shown("dropped_rows")
    ways = mutate(mutation, ("fighting", "random"), {SWAPPED: ("random", "fighting")})
    high = [
        float(paired_difference(*(found[name][way] for way in ways)).high)
        for name in ("price", "held_out")
    ]
    seeds = {"n": float(len(found["price"]["all"]))}
    return Checked(np.array(high), np.zeros(2), "upper", seeds, 0.0)
