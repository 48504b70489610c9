"""`python -m analysis.advised_checked`: try the advice of `tradeoff advise` on other rows.

Of each pair of sets, half of the prompts are given to `tradeoff.advise`; the other half is only
measured on. The convex problem is trained on the first half at the advised weight, at 1/2, and in
both orders, at equal cost. The tiny language model is trained in the same ways on one pair of sets.
What counts is what advise promises: both objectives keep the same share of what each would gain
alone, so that the smaller of the two shares is as large as possible.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import advised
from analysis.advised import ROWS
from tradeoff import experiment, read_preferences, read_sft
from tradeoff.advice import advise
from tradeoff.advice.measure import NO_GAIN, STEPS, SplitProblem, pose, step_sizes
from tradeoff.advice.radius import nested_radius
from tradeoff.checkout import DATA, ROOT
from tradeoff.compare import compare, grid
from tradeoff.compare.runs import LOSSES
from tradeoff.conflict import largest_curvature
from tradeoff.data.splits import hold_out
from tradeoff.methods import find
from tradeoff.records import read_json, replacing, write_json

Array = NDArray[np.float64]
STORED = ROOT / "docs" / "howto" / "advise_checked.json"
TABLE = STORED.with_suffix(".txt")
HH, DOLLY = "pref_hh_{}_base_train.jsonl.gz", "sft_dolly15k_train.jsonl.gz"
PAIRS = {
    "rasbt": ROWS,
    "Dolly, HH harmless": (DOLLY, HH.format("harmless")),
    "Dolly, HH helpful": (DOLLY, HH.format("helpful")),
    "rasbt, HH helpful": (ROWS[0], HH.format("helpful")),
}
"""Names of the pairs of sets, and their files."""
SPLITS, READ, DRAWN = 2, 600, 250
"""Splits of each pair, rows read of each set, and rows of a repeat of advise."""
SHAPE: dict[str, Any] = {"beta": 1.0, "candidates": 8, "n_features": 2**13}
"""The convex problem, as advise poses it."""
SEEDS, UPDATES = 3, 120
"""Seeds and updates of the language model."""
METHODS = {
    "advised": "both, advised weight",
    "half": "both, weight 0.5",
    "sft-dpo": "SFT then DPO",
    "dpo-sft": "DPO then SFT",
}


def kept(record: dict[str, Any], method: str) -> Array:
    """(2,) share of the gain alone that each objective keeps; NaN where there is no gain."""
    start, alone = np.array(record["start"]), np.array(record["alone"])
    gain = np.where(start - alone > NO_GAIN * start, start - alone, np.nan)
    return np.asarray((start - np.array(record["ends"][method])) / gain)


# ---------------------------------------------------------------------- the convex problem


def convex() -> list[dict[str, Any]]:
    """One record for each pair of sets and split."""
    return [_split(name, seed) for name in PAIRS for seed in range(SPLITS)]


def _split(name: str, seed: int) -> dict[str, Any]:
    sft_file, pairs_file = (str(DATA / file) for file in PAIRS[name])
    rows = read_sft(sft_file, limit=READ), read_preferences(pairs_file, limit=READ)
    halves = hold_out((rows[0], None), (rows[1], None), 0.5, seed)
    known = list(halves[0].train), list(halves[1].train)
    lam = advise(*known, repeats=3, rows=DRAWN, seed=seed).choice.lam
    return {"rows": name, "seed": seed, "lam": lam, **_tried(halves, seed, lam)}


def _tried(halves: Any, seed: int, lam: float) -> dict[str, Any]:
    """Losses of the other half after each way of training on the first."""
    radius = nested_radius(halves[0].train, halves[1].train, seed, seed=seed, **SHAPE)
    posed = pose(*halves, radius=radius, seed=seed, **SHAPE)
    sizes = step_sizes(posed.train)
    stage = {k: [(np.eye(2)[k], sizes[k])] * STEPS for k in (0, 1)}
    alone = [_descend(posed, stage[k])[k] for k in (0, 1)]
    plans = {
        "advised": _jointly(posed, lam),
        "half": _jointly(posed, 0.5),
        "sft-dpo": stage[0] + stage[1],
        "dpo-sft": stage[1] + stage[0],
    }
    ends = {name: _descend(posed, plan) for name, plan in plans.items()}
    return {"start": posed.start[1].tolist(), "alone": alone, "ends": ends}


def _jointly(posed: SplitProblem, lam: float) -> list[tuple[Array, float]]:
    weights = np.array([1 - lam, lam])
    return [(weights, 1 / largest_curvature(posed.train, weights))] * STEPS


def _descend(posed: SplitProblem, plan: list[tuple[Array, float]]) -> list[float]:
    """Held-out losses after full-gradient updates, each with its weights and step size."""
    theta = np.zeros(posed.train.dimension)
    for weights, size in plan:
        theta = posed.train.project(theta - size * weights @ posed.train.gradients(theta))
    return [float(loss) for loss in posed.test.losses(theta)]


# ---------------------------------------------------------------------- the language model


def model(lam: float) -> list[dict[str, Any]]:
    """One record for each seed of the tiny language model, with the advised weight `lam`."""
    flags: dict[str, Any] = {"model.path": "tiny", "data.sft": str(DATA / ROWS[0])}
    flags |= {"data.preference": str(DATA / ROWS[1]), "train.steps": UPDATES, "train.chat": True}
    flags |= {"data.sft_test": str(DATA / ROWS[0].replace("train", "test"))}
    flags |= {"data.preference_test": str(DATA / ROWS[1].replace("train", "test"))}
    flags |= {"train.batch_size": 8, "train.max_length": 96, "train.learning_rate": 1e-4}
    flags |= {"train.evaluate_every": UPDATES, "train.evaluate_rows": 100}

    def make(name: str, weight: float, seed: int) -> Any:
        given = {**flags, "method": name, "schedule.lam": weight, "train.seed": seed}
        return experiment.settings(None, given, ())

    seeds = range(SEEDS)
    planned = [*grid(make, ["alright"], [0.0, 0.5, lam, 1.0], seeds),
               *grid(make, ["sft-dpo", "dpo-sft"], [0.5], seeds)]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = compare(planned, folder, say=lambda text: print(text, file=sys.stderr))
    ends = {
        (str(run["method"]), float(run["lam"]), int(run["seed"])): [
            float(run[name]) for name in LOSSES
        ]
        for run in found.runs.to_dict("records")
    }
    both = find("alright").label
    names = {"advised": (both, lam), "half": (both, 0.5)}
    names |= {order: (find(order).label, 0.5) for order in ("sft-dpo", "dpo-sft")}
    names |= {"SFT alone": (both, 0.0), "DPO alone": (both, 1.0)}
    records = []
    for seed in seeds:
        ended = {k: ends[(*place, seed)] for k, place in names.items()}
        alone = [ended.pop("SFT alone")[0], ended.pop("DPO alone")[1]]
        about = {"rows": "rasbt", "seed": seed, "lam": lam, "start": found.start.tolist()}
        records.append({**about, "alone": alone, "ends": ended})
    return records


# ---------------------------------------------------------------------- what is shown


def smaller(records: list[dict[str, Any]], method: str) -> Array:
    """(n,) the smaller share of each record; NaN where an objective alone gains nothing."""
    return np.array([kept(record, method).min() for record in records])


def wins(records: list[dict[str, Any]], other: str) -> tuple[int, int, int]:
    """In how many records the advised weight keeps more than another way, as much, and less."""
    apart = smaller(records, "advised") - smaller(records, other)
    return int(np.sum(apart > 0)), int(np.sum(apart == 0)), int(np.sum(apart < 0))


def table(found: dict[str, Any]) -> str:
    """The stored numbers as a text."""
    groups = {name: [r for r in found["convex"] if r["rows"] == name] for name in PAIRS}
    groups["tiny model, rasbt"] = found["model"]
    rows = []
    for name, records in groups.items():
        for record in records:
            row = {"rows": name, "weight": f"{record['lam']:.2g}"}
            rows.append(row | {METHODS[k]: _shares(record, k) for k in METHODS})
    return pd.DataFrame(rows).to_string(index=False) + "\n"


def _shares(record: dict[str, Any], method: str) -> str:
    """Both shares in per cent, such as ``66 / 84``."""
    return " / ".join(
        "no gain" if np.isnan(share) else "< -100" if share < -1 else f"{100 * share:.0f}"
        for share in kept(record, method)
    )


def main(arguments: list[str]) -> int:
    """Measure what is named, `convex` and `model` if nothing is, and write file and table."""
    advised.check_here(sorted({file for files in PAIRS.values() for file in files}))
    for part in arguments or ("convex", "model"):
        records = convex() if part == "convex" else model(advised.weight())
        found = {**(read_json(STORED) if STORED.exists() else {}), part: records}
        write_json(STORED, found)
    with replacing(TABLE) as partial:
        partial.write_text(table(found), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
