"""What the figures on real text share: where their numbers come from, and what captions say."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from analysis.llm_scales import SCALES
from analysis.llm_study import LAM, files
from analysis.runner import PAPER
from analysis.stored_results import numbers as stored_numbers
from tradeoff.checkout import DATA
from tradeoff.errors import InputError
from tradeoff.records import plain, write_json

STORED = PAPER / "results"
SEEDS = f"{SCALES['full'].seeds} seeds ({SCALES['full'].few} where λ is not {LAM:g})"
FEW = f"{SCALES['full'].few} seeds"
FEWEST = f"{SCALES['full'].fewest} seed"
FIGURES = (
    "llm_loss_space",
    "llm_forgetting",
    "llm_table",
    "llm_bars",
    "llm_lambdas",
    "llm_references",
    "max_eval_interval",
)


def available(scale: str) -> bool:
    """Whether the text that a scale reads is here."""
    return all(path.exists() for path in files(scale))


def numbers(name: str, fast: bool, measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What a figure shows: measured here, or where the text is absent the stored run's numbers."""
    scale = "fast" if fast else "full"
    if available(scale):
        # As the stored file has it, so that both are drawn alike.
        return plain(measure(scale)) | {"source": "this run"}
    path = STORED / f"{name}.json"
    if not path.exists():
        remedy = f"Put the files that its README names into {DATA} and run again."
        raise InputError("no real text and no stored run", field=name, remedy=remedy)
    return stored_numbers(path) | {"source": "stored run"}


def about(scale: str, seeds: str = "") -> str:
    """What every caption says of the experiment; ``seeds`` where they are not those of all."""
    size = SCALES[scale]
    seeds = seeds or f"{size.seeds} seeds"
    return (
        f"Llama ({size.base.layers} layers, width {size.base.width}) after books, trained on real "
        f"rows at equal cost: {size.budget:g} SFT updates of {size.batch} rows; step sizes from "
        f"another seed and other rows. What varies is the seed, n = {seeds}; held-out losses."
    )


def command(
    scale: Annotated[Literal["gpu", "full", "fast"], typer.Argument()] = "gpu",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = PAPER,
) -> None:
    """Measure the figures of this study at a scale and write ``results/NAME-SCALE.json``."""
    for name in FIGURES:
        found = import_module(f"analysis.{name}").measure(scale)
        typer.echo(write_json(out / "results" / f"{name}-{scale}.json", found))


if __name__ == "__main__":
    typer.run(command)
