"""Tables of the paper's numbers, with ours where there is something to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.dossier.cells import MISSING, interval, joined, percent, percent_range, place
from analysis.fernando2024 import paper_spread
from analysis.fernando2024.methods import METHODS, label

NETWORK = "language model, nano"
APART = "*"
"""Mark of a difference that is significant given the sample sizes."""
Results = Mapping[str, Any]


def pythia(results: Results, paper: Results) -> pd.DataFrame:
    """The paper's gaps at lambda = 1/2, and those of the convex laboratory."""
    ours = results["loss_space"]
    half = place(ours["lambdas"], 0.5)
    rows = [
        {
            "method": label(method),
            "SFT gap, paper": _quoted(paper, method, "sft_gap"),
            "preference gap, paper": _quoted(paper, method, "preference_gap"),
            "ideal distance, paper": _quoted(paper, method, "ideal_distance"),
            "ideal distance, ours": interval(ours[method]["ideal_distance"], half),
        }
        for method in METHODS
    ]
    return pd.DataFrame(rows)


def resources(results: Results, paper: Results) -> pd.DataFrame:
    """Time and memory of an update beyond those of sequential training, in percent.

    The paper's values are those at lambda = 1/2 and, in brackets, the least and largest over five
    lambdas.
    """
    models = results["schedule_cost"]["models"]
    names = {"maxright": "maxright-100"}
    kinds = {"time": "runtime_percent", "memory": "memory_percent"}
    rows = []
    for method in ("sft-dpo", "mix", "alright", "maxright"):
        row = {"method": label(names.get(method, method))}
        said = paper["methods"].get(method)
        for kind, key in kinds.items():
            ends = paper["sweep"][key].get(method)
            every = f" ({percent_range(*ends)})" if ends else ""
            row[f"{kind}, paper"] = percent(said[key] if said else 0.0) + every
        for model, key in (("policy", "policy, width 64"), ("language model", NETWORK)):
            run, base = models[key][names.get(method, method)], models[key]["sft-dpo"]
            time = run["seconds_per_update"]["median"] / base["seconds_per_update"]["median"]
            row[f"time, {model}"] = percent(100 * (time - 1))
            memory = run["peak_bytes"] / base["peak_bytes"]
            row[f"memory, {model}"] = percent(100 * (memory - 1))
        rows.append(row)
    return pd.DataFrame(rows)


def llama(results: Results, paper: Results) -> pd.DataFrame:
    """The paper's MMLU and win rates, and the language model's skill and style, by lambda."""
    found = results["lm_loss_space"]
    at = [place(found["lambdas"], lam) for lam in paper["lambdas"] if lam in found["lambdas"]]
    shown = joined([found["lambdas"][k] for k in at])
    quoted = paper["methods"]
    rows = []
    for method in METHODS:
        ours = found["methods"][method]
        rows.append(
            {"method": label(method)}
            | {
                f"{name}, paper (%)": joined(quoted[method][key], 2)
                if method in quoted
                else MISSING
                for name, key in (("MMLU", "mmlu"), ("win rate", "win_rate"))
            }
            | {
                f"{name}, ours at λ = {shown} (%)": joined([100 * ours[key]["mean"][k] for k in at])
                for name, key in (
                    ("exact match", "exact_match"),
                    ("preferred style", "preference_match"),
                )
            }
        )
    return pd.DataFrame(rows)


def spread(paper: Results) -> pd.DataFrame:
    """Every difference of the Llama-3-8B table in points, with its half-width from n alone."""
    rows: dict[str, dict[str, str]] = {}
    for one in paper_spread.differences(paper).to_dict("records"):
        pair = f"{label(one['method'])} − {label(one['other'])}"
        name = f"{paper_spread.NAMES[one['measure']]}, λ = {one['lam']:g}"
        mark = f" {APART}" if one["apart"] else ""
        row = rows.setdefault(pair, {"difference": pair})
        row[name] = f"{one['difference']:+.2f} ± {one['half_width']:.2f}{mark}"
    return pd.DataFrame(list(rows.values()))


def end_points(paper: Results) -> pd.DataFrame:
    """ALRIGHT's end points (SFT loss, preference loss) as the official scripts list them."""
    sources = {
        f"Pythia-1B, compared with {label(found['order'])}": found
        for found in paper["pythia"]["references"]
    } | {"Llama-3-8B": paper["llama"]}
    lambdas = paper["pythia"]["sweep"]["lambdas"]
    rows = []
    for name, found in sources.items():
        at = dict(zip(found["lambdas"], found["end_points"], strict=True))
        points = {
            f"λ = {lam:g}": "({:.4f}, {:.4f})".format(*at[lam]) if lam in at else MISSING
            for lam in lambdas
        }
        rows.append({"model": name, "least losses": _least(paper, found), **points})
    return pd.DataFrame(rows)


def _least(paper: Results, found: Results) -> str:
    """The least (SFT, preference) losses, with the digits of the script."""
    sft = found.get("f_sft_minimum", paper["pythia"]["f_sft_minimum"])
    digits = 5 if "f_sft_minimum" in found else 4
    return f"({sft:.{digits}f}, {found['f_dpo_minimum']:.{digits}f})"


def _quoted(paper: Results, method: str, key: str) -> str:
    return f"{paper[method][key]:g}" if method in paper else MISSING
