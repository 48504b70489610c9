"""The declaration of this paper's dossier."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.dossier.controls import Explorer
from analysis.dossier.declaration import Chapter, Dossier
from analysis.dossier.stored_results import fitting
from analysis.fernando2024.stored import PAPER
from tradeoff.checkout import ROOT

Results = Mapping[str, Any]

CHAPTERS = (
    Chapter(
        "convex",
        "Figures of the convex laboratory",
        first=(
            "toy_trajectories",
            "loss_space",
            "explorer",
            "sequential_gap",
            "budget_splits",
            "beta_sweep",
            "convergence",
            "last_iterate",
            "interleaving",
            "stale_refresh",
            "value_error",
            "equal_compute",
            "quadratic_exact",
            "certified_front",
            "scores",
            "text_front",
        ),
    ),
    Chapter(
        "networks",
        "Figures of small networks",
        first=("bridge", "token_convexity"),
        studies=True,
    ),
    Chapter(
        "language",
        "Figures of a tiny language model",
        first=(
            "lm_rates",  #  All other figures of the chapter use the step sizes that it stores.
            "lm_loss_space",
            "lm_headline",
            "lm_rounds",
            "lm_forgetting",
            "lm_suppressed",
        ),
        studies=True,
    ),
    Chapter(
        "forecast",
        "Figures of forecasts",
        first=("forecast_accuracy", "smol_forecast", "fighting_rows", "dropped_rows"),
        studies=True,
    ),
    Chapter(
        "real",
        "Figures of language models on real text",
        # These figures show their stored run where the text is absent.
        first=(
            "llm_loss_space",
            "llm_forgetting",
            "llm_table",
            "llm_bars",
            "llm_lambdas",
            "llm_references",
            "max_eval_interval",
            "smol_loss_space",
            "smol_rounds",
            "smol_methods_compared",
            "smol_transfer",
            "smol_lambdas",
            "smol_references",
            "smol_relearning",
            "smol_steps",
        ),
        studies=True,
    ),
    Chapter(
        "costs",
        "Figures of time and memory",
        first=("schedule_cost", "llm_resources", "llm_memory", "gpu_run"),
        studies=True,
    ),
)
SECTIONS = {
    "paper": "The paper in our words",
    "theory": "The bounds",
    "numbers": "The paper's numbers beside ours",
    "training": "Does the convex story survive training?",
    "objections": "Objections and answers",
    "corrections": "Where we would correct the paper",
    "errata": "Where we corrected ourselves",
    "against": "What speaks against us",
    "code": "The official code",
}
TITLES = {
    "headline": "Every method at lambda = 1/2: scores of the convex laboratory (losses in units of "
    "the front's ranges) and of the tiny language model (held out); means and 95 % half-widths.",
    "problems": "Every method at lambda = 1/2 on every problem: regrets in units of the front's "
    "ranges, weighted losses in nats; means and 95 % half-widths where there are several runs.",
    "pythia": "The paper's Pythia-1B at lambda = 1/2, beside the convex laboratory.",
    "resources": "Time and memory of an update beyond sequential training's: the paper's Pythia-1B "
    "(at lambda = 1/2, and over its five lambdas), and our two small models on one processor.",
    "llama": "The paper's Llama-3-8B, beside the tiny language model, at lambda = .25 / .5 / .75.",
    "spread": "Differences of the paper's Llama-3-8B table in points, with 95 % half-widths from "
    "the number of questions and prompts alone; * significant after Holm's correction.",
    "end_points": "ALRIGHT's end points (SFT loss, preference loss) in the official scripts.",
    "real_text": "A small Llama trained on real rows, in the layout of the paper's table: means "
    "and 95 % half-widths over seeds, held out.",
    "costs": "Time and memory of training with random weights and adapters: medians over rounds, "
    "means and 95 % half-widths of ratios; TRL on the same rows.",
    "gpu": "What a GPU measured at published shapes, with random weights and adapters in bf16.",
    "smollm2": "SmolLM2-135M-Instruct, dequantised from 4 bits, trained on short rows: means and "
    "95 % half-widths over n seeds, held out; not comparable with published scores.",
}
"""Captions of the tables in LaTeX."""


# The imports below are late: a list of figures needs neither the curves nor the tables.


def _tables(results: Results) -> dict[str, pd.DataFrame]:
    from analysis.fernando2024.tables import all_tables

    return all_tables(results)


def _explorers(results: Results) -> list[Explorer]:
    from analysis.fernando2024.explorers import explorers

    return explorers(results)


def _content(results: Results) -> dict[str, Any]:
    """The paper's numbers, their significance, names of methods, and the README's example."""
    from analysis import advised
    from analysis.fernando2024 import methods, paper_numbers, paper_spread

    paper = paper_numbers.reported()
    with fitting("what the dossier says of the paper's table"):
        spread = paper_spread.summary(paper["llama"])
    return {"paper": paper, "spread": spread, "label": methods.label, "example": example(),
            "printed": printed(),
            "advised": advised.sentences(), "advised_command": advised.command(),
            "commands": commands(), "package": package()}  # fmt: skip


def package() -> dict[str, str]:
    """Version, licence and Python versions of the package, from its metadata."""
    from importlib import metadata

    found = metadata.metadata("tradeoff")
    named = [line.rpartition(" ")[2] for line in found.get_all("Classifier") or []
             if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)]  # fmt: skip
    return {"version": found["Version"], "licence": found["License-Expression"],
            "python": ", ".join(named)}  # fmt: skip


def commands() -> dict[str, str]:
    """Purpose of each command, in the order of the help."""
    import typer

    from tradeoff.cli import app

    found = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: " ".join((command.help or "").split("\n\n")[0].split()).rstrip(".").replace("|", "/")
        for name, command in found.items()
    }


def example() -> str:
    """The README's example, which runs as a test."""
    return (DOSSIER.templates / "example.py").read_text("utf-8").rstrip()


def printed() -> str:
    """What the example prints, which a test compares."""
    return (DOSSIER.templates / "example.txt").read_text("utf-8").rstrip()


DOSSIER = Dossier(
    title='Fernando et al., "Understanding Forgetting in LLM Supervised Fine-Tuning and '
    'Preference Learning"',
    folder=PAPER,
    package="analysis.fernando2024",
    chapters=CHAPTERS,
    sections=SECTIONS,
    opening=2,
    tables=_tables,
    titles=TITLES,
    explorers=_explorers,
    content=_content,
    pages={ROOT / "README.md": "readme.md.j2"},
)
