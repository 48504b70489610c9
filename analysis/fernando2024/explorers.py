"""The report's interactive plots, made of stored paths alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.dossier import curves
from analysis.dossier.cells import interval, place
from analysis.dossier.controls import Control, Explorer, explorer
from analysis.fernando2024.methods import label, labels
from tradeoff.display import cell

Results = Mapping[str, Any]


def explorers(results: Results) -> list[Explorer]:
    """All interactive plots, made of stored results alone. The first one opens the page."""
    found = results["explorer"]
    return [_lead(results), _schedules(found), _splits(found), _refresh(found), _language(results)]


# ---------------------------------------------------------------------- the plots


def _lead(results: Results) -> Explorer:
    """One run, and an arrow from its end to the best policy for the requested weight."""
    found, tuned = results["explorer"], results["loss_space"]
    means = [path for path in found["paths"] if path["chosen"]["run"] == "mean"]
    names, lambdas = _unique(means, "schedule"), _unique(means, "lambda")
    controls = (
        Control("schedule", "Method", names, tuple(labels(names)), names[0]),
        Control("lambda", "λ, the weight asked for on preferences", lambdas, lambdas, "0.5",
                slider=True),
    )  # fmt: skip
    drawn = [*curves.front(found["fronts"]["laboratory"])[:1]]
    for lam, losses in found["targets"].items():
        drawn.append(curves.target(losses, {"lambda": lam}, "asked for"))
    rows, notes = [], []
    for run in means:
        name, lam = run["chosen"]["schedule"], run["chosen"]["lambda"]
        chosen = {"schedule": name, "lambda": lam}
        drawn.append(curves.marker(name, _last(run), {"lambda": lam}, faint=True, legend=True))
        drawn.append(curves.path({**run, "chosen": chosen}, name))
        drawn.append(curves.arrow(_last(run), found["targets"][lam], chosen))
        kept = tuned[name]["regret"]
        best = interval(kept, place(tuned["lambdas"], float(lam)))
        rows.append({"chosen": {"lambda": lam}, "cells": [label(name), lam, *_end(run),
                     cell(run["matched_weight"]), cell(run["regret"]), best]})  # fmt: skip
        notes.append({"chosen": chosen, "text": (
            f"You ask {label(name)} for λ = {lam}. It ends where λ = {run['matched_weight']:.2f} "
            f"is best. The arrow is its regret, {run['regret']:.2g} of the front's range. With "
            f"step sizes tuned for each method and stage, the regret is {best}."
        )})  # fmt: skip
    return explorer(
        "lead",
        "What you ask for, and what you get",
        f"Every path uses {found['gradients']:,} gradients and one step size, on one problem with "
        "two losses. No policy lies below the grey curve. The arrow leads to the point of the "
        "curve that was asked for. Pale markers: the other methods.",
        controls,
        drawn,
        ("method", "λ", "SFT loss", "preference loss", "matched weight", "regret, one step size",
         "regret, tuned"),
        rows,
        notes,
    )  # fmt: skip


def _schedules(found: Results) -> Explorer:
    paths = found["paths"]
    names = _unique(paths, "schedule")
    lambdas, runs = _unique(paths, "lambda"), _unique(paths, "run")
    controls = (
        Control("schedule", "Schedule", ("all", *names), ("all five", *labels(names)), "all"),
        Control(
            "lambda", "λ, weight of the preference", ("all", *lambdas), ("all", *lambdas), "0.5"
        ),
        Control(
            "run",
            "Run",
            (*runs, "all"),
            (
                f"mean of {found['replicas']} seeds",
                *(f"seed {r}" for r in runs[1:]),
                "all of these",
            ),
            "mean",
        ),
    )
    drawn = [*curves.front(found["fronts"]["laboratory"]), *curves.legend(names)]
    for lam, losses in found["targets"].items():
        drawn.append(curves.target(losses, {"lambda": lam}, f"asked for: λ = {lam}"))
    drawn += [curves.path(path, path["chosen"]["schedule"]) for path in paths]
    rows = [
        {
            "chosen": path["chosen"],
            "cells": [label(path["chosen"]["schedule"]), path["chosen"]["lambda"],
                      path["chosen"]["run"], *_end(path), cell(path["regret"]),
                      cell(path["matched_weight"])],
        }
        for path in paths
    ]  # fmt: skip
    return explorer(
        "explore-schedules",
        "Choose a schedule, a weight and a seed",
        f"Every path uses {found['gradients']:,} gradients on one problem. The large marker is its "
        "end. The hollow circle is the best policy for the weight that was asked for. The grey "
        "curve is the certified front.",
        controls,
        drawn,
        ("schedule", "λ", "run", "SFT loss", "preference loss", "regret", "matched weight"),
        rows,
    )


def _splits(found: Results) -> Explorer:
    paths, joint = found["splits"], found["paths"]
    shares = _unique(paths, "share")
    percent = tuple(f"{100 * float(share):.0f} %" for share in shares)
    controls = (
        Control("share", "Share of the preference stage", shares, percent, "0.5", slider=True),
    )
    drawn = [
        *curves.front(found["fronts"]["laboratory"]),
        *curves.legend(dict.fromkeys(path["schedule"] for path in paths)),
        curves.target(found["targets"]["0.5"], {}, "asked for: λ = 1/2"),
    ]
    ends = [p for p in joint if p["chosen"]["lambda"] == "0.5" and p["chosen"]["run"] == "mean"]
    for end in ends[2:]:
        drawn.append(curves.marker(end["chosen"]["schedule"], _last(end), {}))
    drawn += [curves.path(path, path["schedule"]) for path in paths]
    rows = [
        {"chosen": path["chosen"], "cells": [label(path["schedule"]), text, *_end(path),
                                             cell(path["regret"])]}
        for path in paths
        for text in [percent[shares.index(path["chosen"]["share"])]]
    ]  # fmt: skip
    rows += [
        {"chosen": {}, "cells": [label(end["chosen"]["schedule"]), "joint", *_end(end),
                                 cell(end["regret"])]}
        for end in ends[2:]
    ]  # fmt: skip
    return explorer(
        "explore-splits",
        "Move the budget between the two stages",
        f"Sequential training on {found['gradients']:,} gradients. You choose the share of the "
        f"preference stage. Paths are means of {found['replicas']} seeds. The joint methods, at "
        "the same budget, are single markers.",
        controls,
        drawn,
        ("schedule", "preference stage", "SFT loss", "preference loss", "regret at λ = 1/2"),
        rows,
    )


def _refresh(found: Results) -> Explorer:
    paths = found["refresh"]
    intervals, instances = _unique(paths, "k"), _unique(paths, "instance")
    texts = ("every update", *(f"every {k} updates" for k in intervals[1:-1]), "never")
    controls = (
        Control("k", "Values refreshed", intervals, texts, "1", slider=True),
        Control("instance", "Problem", instances, instances, "1"),
    )
    drawn = [*curves.legend(["maxright"], dash="")]
    for instance in instances:
        made = {"instance": instance}
        drawn += curves.front(found["fronts"][f"instance {instance}"], made)
        drawn.append(curves.target(found["aims"][int(instance) - 1], made, "asked for: λ = 1/4"))
    for path in paths:
        drawn.append(curves.path(path, "maxright", dash=""))
        drawn.append(curves.marker("maxright", path["average"], path["chosen"], "its average"))
    rows = [
        {
            "chosen": path["chosen"],
            "cells": [path["chosen"]["instance"], texts[intervals.index(path["chosen"]["k"])],
                      *map(cell, path["average"]), cell(path["matched_weight"])],
        }
        for path in paths
    ]  # fmt: skip
    return explorer(
        "explore-refresh",
        "Refresh MAXRIGHT's loss values less often",
        "One run of MAXRIGHT at λ = 1/4 with a constant step. With fresh loss values it stays near "
        "one point. With stale values the path swings along the front, and its average (triangle) "
        "moves away.",
        controls,
        drawn,
        ("problem", "refreshed", "SFT loss of the average", "preference loss of the average",
         "matched weight"),
        rows,
    )  # fmt: skip


def _language(results: Results) -> Explorer:
    found = results["lm_loss_space"]
    names, lambdas = tuple(found["methods"]), tuple(str(lam) for lam in found["lambdas"])
    controls = (
        Control("schedule", "Schedule", ("all", *names), ("all five", *labels(names)), "all"),
        Control(
            "lambda", "λ, weight of the preference", ("all", *lambdas), ("all", *lambdas), "0.5"
        ),
    )
    keys = {"exact match": "exact_match", "preferred style": "preference_match",
            "SFT loss": "sft_loss", "preference loss": "preference_loss"}  # fmt: skip
    drawn, rows = [*curves.legend(names)], []
    for name in names:
        for at, lam in enumerate(lambdas):
            scores = found["methods"][name]
            both = [scores["exact_match"], scores["preference_match"]]
            chosen = {"schedule": name, "lambda": lam}
            curve = curves.marker(name, [score["mean"][at] for score in both], chosen)
            curve["error"] = [score["half_width"][at] for score in both]
            drawn.append(curve | {"name": f"{label(name)}, λ = {lam}"})
            cells = [f"{scores[key]['mean'][at]:.3f} ± {scores[key]['half_width'][at]:.3f}"
                     for key in keys.values()]  # fmt: skip
            rows.append({"chosen": chosen, "cells": [label(name), lam, *cells]})
    return explorer(
        "explore-language",
        "The same choice, with a trained language model",
        f"Where the tiny language model ends after {found['gradients']} gradients, means of "
        f"{found['seeds']} seeds with 95 % t-intervals, on held-out prompts. Up and to the right "
        "is better.",
        controls,
        drawn,
        ("schedule", "λ", *keys),
        rows,
        axes=("exact match with the demonstrations", "responses in the preferred style"),
    )


def _unique(paths: Sequence[Results], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path["chosen"][key] for path in paths))


def _last(path: Results) -> list[float]:
    return [path["sft_loss"][-1], path["preference_loss"][-1]]


def _end(path: Results) -> list[str]:
    return [f"{value:.3f}" for value in _last(path)]
