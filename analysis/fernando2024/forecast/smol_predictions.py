"""Predictions of the study on SmolLM2, made and stored before its runs.

    python -m analysis.fernando2024.forecast.smol_predictions

What `tradeoff forecast` measures of each pair of data sets is stored with what it says. Nothing
here reads a run of the study: neither results, nor the step sizes that it chose.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.fernando2024.real import smol_methods, smol_plan, smol_rows, smol_runs
from tradeoff import experiment, tiny
from tradeoff.forecast.calibration import Calibration
from tradeoff.forecast.candidates import CANDIDATES, STACKED
from tradeoff.forecast.forecast import Forecast, measure, of_measured
from tradeoff.forecast.lab import Effort, Lab
from tradeoff.forecast.llm import subject
from tradeoff.forecast.stack import Measured
from tradeoff.records import plain, read_json, write_json

STORED = Path(__file__).with_name("smol_predictions.json")
FORM = "gpu"
"""Form of the study whose runs are forecast."""


def settings(form: smol_plan.Form, folder: Path) -> Any:
    """Settings of a run of Mix of the study, at the middle of its grid of step sizes.

    Parameters
    ----------
    form
        Size of the study.
    folder
        Receives the chat template of the study, or its random model.
    """
    template, path = folder / "template.jinja", form.model
    template.write_text(smol_runs.TEMPLATE, "utf-8")
    if form.model == smol_runs.RANDOM:
        path = str(folder / "model")
        for part in tiny.random_model():
            part.save_pretrained(path)
    rate = form.grid[len(form.grid) // 2]
    return experiment.settings(
        None,
        {
            "model.path": path,
            "model.chat_template": str(template),
            "train.steps": smol_methods.updates(
                smol_methods.METHODS["mix"], form.budget, form.batch
            ),
            "train.batch_size": form.batch,
            "train.rows_per_forward": 4,
            "train.learning_rate": rate,
            "train.preference_learning_rate": smol_plan.BACK * rate,
            "train.beta": smol_runs.BETA,
            "train.lora.rank": smol_runs.RANK,
            "train.chat": form.model != smol_runs.RANDOM,
            "train.max_length": form.longest,
            "train.layout": form.layout,
        },
    )


def predict(pair: str, form: smol_plan.Form) -> dict[str, Any]:
    """What is measured of a pair of data sets, and what that costs."""
    began = time.process_time()
    given = smol_rows.rows(pair).training
    rows = {"sft": tuple(given[0]), "preference": tuple(given[1])}
    with tempfile.TemporaryDirectory() as folder:
        own = settings(form, Path(folder))
        effort = Effort.of(own.train.steps, own.train.batch_size)
        lab = Lab(subject(own, rows, effort), effort)
        found = measure(lab, {name: CANDIDATES[name] for name in STACKED})
    return {
        "variants": found.variants,
        "starts": found.starts,
        "base": found.base,
        "cost": lab.cost(),
        "cpu_seconds": time.process_time() - began,
        "effort": vars(effort),
    }


def measured(one: Mapping[str, Any], pair: str = "") -> Measured:
    """The stored measurements of a pair."""
    variants, starts = (
        {name: np.array(x) for name, x in one[key].items()} for key in ("variants", "starts")
    )
    return Measured(pair, variants, starts, np.array(one["base"]))


def forecasts(stored: Mapping[str, Any], calibration: Calibration) -> dict[str, Forecast]:
    """What a calibration makes of the stored measurements, by pair."""
    form = stored["form"]
    budget = form["updates"], form["batch"]
    return {
        pair: of_measured(measured(one, pair), calibration, *budget, one["cost"])
        for pair, one in stored["pairs"].items()
    }


def main(which: str = FORM) -> None:
    """Measure every pair that is not stored yet, and store it."""
    form = smol_plan.FORMS[which]
    found = read_json(STORED) if STORED.exists() else {"form": about(form), "pairs": {}}
    for pair in form.pairs:
        if pair not in found["pairs"]:
            found["pairs"][pair] = plain(predict(pair, form))
            write_json(STORED, found)
            print(pair, round(found["pairs"][pair]["cpu_seconds"]), "CPU s", flush=True)


def about(form: smol_plan.Form) -> dict[str, Any]:
    """What was assumed of the runs."""
    mix = smol_methods.METHODS["mix"]
    rate = form.grid[len(form.grid) // 2]
    return {
        "model": form.model,
        "updates": smol_methods.updates(mix, form.budget, form.batch),
        "batch": form.batch,
        "longest": form.longest,
        "rates": [rate, smol_plan.BACK * rate],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
