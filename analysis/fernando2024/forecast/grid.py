"""The runs that forecasts are judged by: pairs of data sets of varying conflict, and five weights.

    python -m analysis.fernando2024.forecast.grid --plan
    python -m analysis.fernando2024.forecast.grid --jobs 2

Each pair of data sets trains the same base model, a smaller form of ``--model tiny``. Runs are
stored one by one under ``out/forecast``; the next call continues with the first that is missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any

import pandas as pd
import torch

from tradeoff import study, tiny
from tradeoff.checkout import WORK
from tradeoff.data.synthetic import Language, generate
from tradeoff.forecast.quantities import LAMBDAS
from tradeoff.methods import Method
from tradeoff.networks.hugging_face import from_hugging_face
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.train import Run, train
from tradeoff.schedules import SFT, Mix, Rounds, Schedule, Sequential, from_dict

FOLDER = WORK / "forecast"
SKILLS = ("reverse", "uppercase", "sort", "count")


def _pairs() -> dict[str, dict[str, Any]]:
    both: dict[str, Any] = {"skills": SKILLS, "preferences": ("polite", "short")}
    few = {"skills": ("reverse", "sort"), "preferences": ("short",)}
    noisy = {"skills": SKILLS, "preferences": ("polite",), "label_noise": 0.2}
    kinds = {
        "both styles": (both, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        "short, two skills": (few, (0.0, 0.4, 0.7, 1.0)),
        "polite, noisy labels": (noisy, (0.3, 0.8)),
    }
    return {
        f"{name}, conflict {level:g}": {**settings, "conflict": level}
        for name, (settings, levels) in kinds.items()
        for level in levels
    }


PAIRS = _pairs()
"""Settings of the generated language of each pair of data sets."""


def _fresh() -> dict[str, dict[str, Any]]:
    both: dict[str, Any] = {"skills": SKILLS, "preferences": ("polite", "short")}
    few = {"skills": ("reverse", "sort"), "preferences": ("short",)}
    every = {"skills": SKILLS, "preferences": ("short",)}
    noisy = {"skills": SKILLS, "preferences": ("polite",), "label_noise": 0.2}
    kinds = {
        "both styles": (both, (0.1, 0.5, 0.9)),
        "short, two skills": (few, (0.2, 0.85)),
        "short, all skills": (every, (0.3, 0.7)),
        "polite, noisy labels": (noisy, (0.55,)),
    }
    return {
        f"{name}, conflict {level:g}": {**settings, "conflict": level}
        for name, (settings, levels) in kinds.items()
        for level in levels
    }


FRESH = _fresh()
"""Further pairs, run after the forecast was chosen: nothing is fitted or chosen on them."""


@dataclass(frozen=True)
class Form:
    """Size of the grid.

    Attributes
    ----------
    updates
        Of Mix, each with a batch of demonstrations and one of pairs. Other schedules have twice as
        many updates, of one batch each.
    early
        Updates of the early-stopping control, a tenth.
    second
        CPU seconds of an update of Mix and of an evaluation, for the plan.
    """

    pairs: tuple[str, ...] = tuple(PAIRS)
    fresh: tuple[str, ...] = tuple(FRESH)
    seeds: int = 2
    updates: int = 100
    early: int = 10
    batch: int = 8
    rate: float = 5e-4
    evaluated: int = 100
    sft_rows: int = 2000
    preference_rows: int = 1000
    model: tiny.Tiny = field(default_factory=lambda: tiny.Tiny(width=32, layers=2, steps=600))
    second: tuple[float, float] = (0.018, 0.1)


FORMS = {
    "full": Form(),
    "fast": Form(
        pairs=(*list(PAIRS)[:6:2], *list(PAIRS)[7:9]),
        fresh=tuple(FRESH)[:2],
        seeds=1,
        updates=10,
        early=1,
        batch=4,
        rate=4e-3,
        evaluated=8,
        sft_rows=80,
        preference_rows=40,
        model=tiny.Tiny(
            width=16,
            layers=1,
            vocabulary=280,
            steps=40,
            language=replace(
                tiny.Tiny().language, sft_rows=80, preference_rows=40, test_rows=12, documents=400
            ),
        ),
    ),
}


# ---------------------------------------------------------------------- what is trained


@cache
def task(which: str, pair: str) -> LanguageTask:
    """The base model with a pair of data sets."""
    form = FORMS[which]
    model, tokenizer = from_hugging_face(tiny.folder(form.model, progress=False))
    data = generate(language(which, pair))
    # Runs of one pair are one batch: at this size that is three times as fast as one by one.
    return LanguageTask.of(model, data, tokenizer, evaluation_rows=form.evaluated, ragged=False)


def language(which: str, pair: str) -> Language:
    """Settings of a pair of data sets; its corpus is not read."""
    form = FORMS[which]
    own: dict[str, Any] = {"sft_rows": form.sft_rows, "preference_rows": form.preference_rows}
    return replace(form.model.language, documents=10, **own, **(PAIRS | FRESH)[pair])


def schedules() -> dict[str, Schedule]:
    """Schedules whose ends a forecast is about, by name."""
    return {
        **{f"mix {lam:g}": Mix(lam=lam) for lam in LAMBDAS},
        "sft-dpo": Sequential(),
        "dpo-sft": Sequential(first="preference"),
        "rounds 4": Rounds(rounds=4),
    }


def configurations(which: str) -> list[dict[str, Any]]:
    """Every run, the most telling first: what an interrupted grid has can be judged."""
    form = FORMS[which]
    runs = [
        {"which": which, "pair": pair, "seed": seed, **member}
        for pair, seed in product(form.pairs, range(form.seeds))
        for member in _members(form)
    ]
    return sorted(runs, key=_turn)


def fresh_configurations(which: str) -> list[dict[str, Any]]:
    """Runs of Mix on the pairs that nothing was chosen on, with one seed."""
    return [
        {"which": which, "pair": pair, "seed": 0, **member}
        for pair in FORMS[which].fresh
        for member in _members(FORMS[which])
        if "mix" in member["name"]
    ]


def _turn(c: Mapping[str, Any]) -> int:
    """Fronts of all pairs come before orders, and rounds come last."""
    return 0 if "mix" in c["name"] else 1 if "dpo" in c["name"] else 2


def _members(form: Form) -> Iterator[dict[str, Any]]:
    for name, rule in schedules().items():
        marks = 2 if isinstance(rule, Sequential) else 1
        about = {"marks": marks, "schedule": rule.to_dict()}
        # The budget is that of so many updates on both objectives.
        updates = Method(rule).updates(2 * form.updates)
        yield {"name": name, "updates": updates, **about}
        if rule.plan(updates).together.all():
            yield {"name": f"early {name}", "updates": form.early, **about}


ALIKE = ("which", "pair", "updates", "marks")


def train_batch(configurations: Sequence[Mapping[str, Any]]) -> list[pd.DataFrame]:
    """Held-out losses of runs that agree in all but their schedule, at each evaluation."""
    began, c = time.thread_time(), configurations[0]
    form, known = FORMS[c["which"]], task(c["which"], c["pair"])
    # The task's module is made on its first use in a thread, which must not be within a vmap.
    replace(known, ragged=True).losses(dict(known.base.named_parameters()), SFT, torch.tensor([0]))
    done = train(
        known,
        [Run(from_dict(each["schedule"]), each["seed"]) for each in configurations],
        steps=c["updates"],
        batch_size=form.batch,
        learning_rate=form.rate,
        clip=1.0,
        evaluate_every=c["updates"] // c["marks"],
    )
    columns = ["step", "sft_loss", "preference_loss", "preference_accuracy", "diverged_at"]
    share = (time.thread_time() - began) / len(configurations)
    groups = [rows[columns] for _, rows in done.table.groupby("run")]
    return [rows.assign(cpu_seconds=share) for rows in groups]


# ---------------------------------------------------------------------- running it


def plan(which: str) -> pd.DataFrame:
    """Number of runs and CPU minutes by kind of run, before anything is run."""
    form, rows = FORMS[which], []
    for c in configurations(which):
        gradients = c["updates"] * (1 if c["name"].startswith(("mix", "early")) else 0.5)
        seconds = gradients * form.second[0] + (c["marks"] + 1) * form.second[1]
        rows.append({"kind": c["name"].rstrip("0123456789. "), "CPU minutes": seconds / 60})
    groups = pd.DataFrame(rows).groupby("kind", sort=False)["CPU minutes"]
    return groups.agg(["size", "sum"]).set_axis(["runs", "CPU minutes"], axis=1).reset_index()


def run(
    which: str = "full", *, jobs: int = 1, fresh: bool = False, progress: bool = True
) -> pd.DataFrame:
    """All runs in one table, or those of fresh pairs; computes what is not stored, in threads."""
    return study.run(
        train_batch,
        fresh_configurations(which) if fresh else configurations(which),
        FOLDER / which,
        backend="sequential" if jobs == 1 else "threading",
        jobs=jobs,
        batch=10,
        alike=ALIKE,
        progress=progress,
    )


def stored(which: str = "full") -> pd.DataFrame:
    """The table of :func:`run`, without computing any run."""
    return study.collect(train_batch, configurations(which), FOLDER / which)


if __name__ == "__main__":
    planned = plan("full")
    print(planned.round(1).to_string(index=False))
    print(f"in all {planned['CPU minutes'].sum():.1f} CPU minutes", flush=True)
    if "--plan" not in sys.argv:
        run(jobs=int(sys.argv[sys.argv.index("--jobs") + 1]) if "--jobs" in sys.argv else 1)
