"""Code that the figures on real text share: the source of their numbers, and texts of captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from analysis.dossier import lookup
from analysis.fernando2024 import stored
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_study import LAM, files
from analysis.fernando2024.stored import PAPER, shown
from tradeoff.checkout import DATA
from tradeoff.errors import InputError
from tradeoff.records import plain, write_json


def available(scale: str) -> bool:
    """Whether the text that a scale reads exists on this machine."""
    return all(path.exists() for path in files(scale))


def numbers(name: str, fast: bool, measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Numbers of a figure: measured now, or those of the stored run where the text is absent."""
    scale = "fast" if fast else "full"
    if available(scale):
        # The same form as in the stored file, so that both are drawn alike.
        return plain(measure(scale)) | {"source": "this run"}
    if not lookup.place(stored.PAPER, name).exists():
        remedy = f"Put the files that its README names into {DATA} and run again."
        raise InputError("no real text and no stored run", field=name, remedy=remedy)
    return shown(name) | {"source": "stored run"}


def about() -> str:
    """Description of the experiment in every caption; :func:`words` fills its fields."""
    size = SCALES["full"]
    return (
        f"Llama ({size.base.layers} layers, width {size.base.width}), pretrained on books, trained "
        f"on real rows at equal cost: {size.budget:g} SFT updates of {size.batch} rows; step sizes "
        "tuned on other rows. What varies is the seed, n = {seeds}; losses are held out."
    )


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the fields of all captions: number of seeds, and whether there are intervals."""
    seeds = numbers["seeds"]
    few = numbers.get("few", seeds)
    beside = "" if few == seeds else f" ({few} where λ is not {LAM:g})"
    return {
        "seeds": f"{seeds} seed{'s' * (seeds > 1)}{beside}",
        "intervals": "95 % intervals" if seeds > 1 else "one seed gives no interval",
    }


def command(
    scale: Annotated[Literal["gpu", "full", "fast"], typer.Argument()] = "gpu",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = PAPER,
) -> None:
    """Measure the figures of this study at a scale and write ``results/NAME-SCALE.json``."""
    from analysis.fernando2024.dossier import DOSSIER

    for name in DOSSIER.members("real"):
        found = DOSSIER.module(name).measure(scale)
        typer.echo(write_json(out / "results" / f"{name}-{scale}.json", found))


if __name__ == "__main__":
    typer.run(command)
