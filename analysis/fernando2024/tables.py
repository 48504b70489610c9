"""The paper's tables: one frame of texts each.

Numbers of the paper are read from ``paper_numbers.toml``, our numbers from stored results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.dossier.cells import MISSING, interval, place
from analysis.fernando2024 import paper_tables
from analysis.fernando2024.costs import gpu_run
from analysis.fernando2024.methods import METHODS, label
from analysis.fernando2024.paper_numbers import reported
from analysis.fernando2024.real import smol_methods, smol_shown
from tradeoff import scores
from tradeoff.display import cell

Results = Mapping[str, Any]
BASE = "sft-dpo"
"""The method whose costs all others are compared with."""


def all_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Every table by name; each cell is text."""
    paper = reported()
    return {
        "headline": headline(results),
        "problems": problems(results),
        "pythia": paper_tables.pythia(results, paper["pythia"]["methods"]),
        "resources": paper_tables.resources(results, paper["pythia"]),
        "llama": paper_tables.llama(results, paper["llama"]),
        "spread": paper_tables.spread(paper["llama"]),
        "end_points": paper_tables.end_points(paper),
        "real_text": real_text(results),
        "costs": costs(results),
        "gpu": gpu(results),
        "smollm2": smollm2(results),
    }


def headline(results: Results) -> pd.DataFrame:
    """Every method at lambda = 1/2: scores of the convex laboratory and of the language model."""
    convex, network = results["loss_space"], results["lm_loss_space"]["methods"]
    here, there = (place(found["lambdas"], 0.5) for found in (convex, results["lm_loss_space"]))
    scores = {"regret": "regret", "front gap": "front_gap", "matched weight": "matched_weight"}
    trained = {"weighted loss": "weighted_loss", "exact match": "exact_match",
               "preferred style": "preference_match"}  # fmt: skip
    trained = {f"{name} (language model)": key for name, key in trained.items()}
    rows = [
        {"method": label(method)}
        | {name: interval(convex[method][key], here) for name, key in scores.items()}
        | {name: interval(network[method][key], there) for name, key in trained.items()}
        for method in METHODS
    ]
    return pd.DataFrame(rows)


def problems(results: Results) -> pd.DataFrame:
    """Every method at lambda = 1/2 on every problem, from the convex laboratory to real text."""
    convex, headline, real = (results[n] for n in ("loss_space", "lm_headline", "llm_table"))
    weighted = results["llm_loss_space"]
    losses = weighted["paired_joint_minus_sequential"]
    half, at, there = (place(x["lambdas"], 0.5) for x in (convex, real, weighted))
    rows = []
    for method in METHODS:
        regrets = {"convex": convex[method]["regret"],
                   "convex, one step size": convex["shared_step"]["regret"][method]}  # fmt: skip
        row = {"method": label(method)}
        row |= {f"regret, {name}": interval(kept, half) for name, kept in regrets.items()}
        for source, found in results["text_front"].items():
            kept = found["methods"][method]
            regret = kept["regret"][place(kept["lam"], 0.5)]
            row[f"regret, {source.removeprefix('sft_')} text"] = cell(regret)
        for level, conflict in enumerate(headline["conflicts"]):
            name = f"weighted loss, tiny model, conflict {conflict:g}"
            row[name] = interval(headline["methods"][method]["weighted_loss"], level)
        row["weighted loss, real rows"] = interval(losses[method][there])
        row["SFT progress kept, real rows (%)"] = interval(
            real["table"][method]["sft_retention"][at]
        )
        row["pairs preferred, real rows (%)"] = interval(
            real["table"][method]["preference_accuracy"][at]
        )
        rows.append(row)
    return pd.DataFrame(rows)


def real_text(results: Results) -> pd.DataFrame:
    """A small model on real rows, in the layout of the paper's table: skill and taste by lambda."""
    found = results["llm_table"]
    names = {"SFT progress kept": "sft_retention", "pairs preferred": "preference_accuracy"}
    rows = []
    for method, values in found["table"].items():
        row = {"method": label(method)}
        for name, key in names.items():
            for lam, kept in zip(found["lambdas"], values[key], strict=True):
                row[f"{name}, λ = {lam:g} (%)"] = interval(kept)
        rows.append(row)
    return pd.DataFrame(rows)


def costs(results: Results) -> pd.DataFrame:
    """Time of a gradient and peak memory, on each measured device and shape."""
    rows = []
    for device, found in results["llm_resources"]["devices"].items():
        for shape, methods in found["shapes"].items():
            for method, run in methods.items():
                name = {"device": device, "shape": shape, "method": label(method)}
                if run is None:
                    rows.append(name | {"ms per gradient": "out of memory"})
                    continue
                rows.append(
                    name
                    | {
                        "ms per gradient": f"{1e3 * _middle(run['seconds']):.0f}",
                        "tokens per second": f"{_middle(run['tokens_per_second']):,.0f}",
                        f"time, to {label(BASE)}": within(run["seconds_ratio"]),
                        f"memory, to {label(BASE)}": f"{_middle(run['memory_ratio']):.2f}",
                    }
                )
    return pd.DataFrame(rows).fillna(MISSING)


def gpu(results: Results) -> pd.DataFrame:
    """GPU measurements by step and method. Without a run, one row says so."""
    rows = []
    for step, found in results["gpu_run"]["steps"].items():
        for method, one in found.items():
            cells = {
                title: gpu_run.values(one["rounds"], name) for name, title in gpu_run.PANELS.items()
            }
            middle = {title: _middle(each) for title, each in cells.items() if len(each)}
            shown = {t: f"{x:,.0f}" if x >= 1_000 else f"{x:.4g}" for t, x in middle.items()}
            rows.append({"step": step, "method": label(method)} | shown)
    return pd.DataFrame(rows or [{"step": gpu_run.NONE}]).fillna(MISSING)


def smollm2(results: Results) -> pd.DataFrame:
    """Every method on SmolLM2, by pair of data sets. Without a run, one row says so."""
    names = {
        "weighted loss": "weighted_loss",
        "less SFT→DPO": "less_baseline",
        "pairs preferred (%)": "accuracy",
        "chosen (nats)": "chosen",
        "rejected (nats)": "rejected",
    }
    rows = []
    for pair, one in results["smol_loss_space"]["pairs"].items():
        for method, found in one["methods"].items():
            row = {"data": pair, "n": str(one["seeds"]), "method": smol_shown.label(one, method)}
            rows.append(row | {title: _cell(found[key]) for title, key in names.items()})
    return pd.DataFrame(rows or [{"data": smol_methods.NONE}]).fillna(MISSING)


def _cell(found: Mapping[str, Any]) -> str:
    """A mean with its half width, if there is one."""
    return f"{found['mean']:.3f}" if found["half_width"] is None else interval(found)


def _middle(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def within(values: list[float]) -> str:
    """Mean and half-width of the 95 % t-interval; the mean alone where there is one value."""
    found = scores.interval(values)
    half = float(found.high - found.mean)
    mean = float(found.mean)
    return interval({"mean": mean, "half_width": half}) if half > 0 else f"{mean:.2f}"
