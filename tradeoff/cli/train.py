"""The command `tradeoff train`: flags to settings, a run, and what is printed at its end."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradeoff import experiment
from tradeoff._terminal import show_json, show_line, show_summary, show_table, show_written
from tradeoff.cli.ends import keeps
from tradeoff.cli.options import Json, output
from tradeoff.cli.run_options import Given, with_settings
from tradeoff.errors import RowWarning
from tradeoff.extras import require

if TYPE_CHECKING:
    from tradeoff.llm.trainer import JointTrainer, TrainResult

MUCH = 0.2
"""Share of the computation that is worth a remark."""
EPILOG = f"""\
A complete file (every setting: `tradeoff.llm.config`):

```toml
{experiment.EXAMPLE}```
"""


@with_settings()
def train(
    given: Given,
    out: Annotated[Path, output("Folder of the run.")] = Path("tradeoff-train"),
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the newest checkpoint.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Train one language model on demonstrations and preferences by a schedule.

    Settings come from a TOML file, then from flags, then from `--set`. Without any, the small model
    of the package is trained on generated rows, offline. Held-out SFT and preference loss are
    measured at every evaluation: the trajectory is the product.

    `--out` receives `run.toml`, with which `tradeoff train OUT/run.toml` repeats the run,
    `metrics.jsonl`, `trajectory.csv` and `.parquet`, `loss_space.svg` and `.png`, `summary.json`,
    `checkpoints/` and `model/`, which transformers or peft loads. Ctrl-C and SIGTERM save and end
    the run (exit status 130 and 143); the same command goes on. A run that diverged ends with
    status 1 and keeps its last good checkpoint, if it wrote one. `--no-resume` clears away what an
    earlier run left in the folder.

    `--patience N` stops early, after N evaluations without a lower held-out loss
    `(1 - lam) * SFT + lam * preference`; `model/` is then that of the lowest one.

    A model with adapters, such as a LoRA run's own `model/`, is trained on as it is: its adapters
    go on. With `--lora-rank` they are merged into its weights first, and new ones are trained.

    Many processes: `accelerate launch -m tradeoff train ...` or `torchrun -m tradeoff train ...`,
    with DDP or FSDP2.

    Examples:

    - `tradeoff train --steps 200 --out runs/tiny`

    - `tradeoff train run.toml --schedule mix --lam 0.25 --out runs/mix`

    - `tradeoff train run.toml --method mix+pcgrad+simpo --lam 0.25`

    - `tradeoff train run.toml --schedule rounds --rounds 8 --set train.decay=linear`

    - `tradeoff train run.toml --schedule constrained --limit 0.05 --set train.optima=[1.42,0]`

    - `tradeoff train --from-trl sft.yaml dpo.yaml --schedule mix --out runs/joint`

    - `tradeoff train --model EleutherAI/pythia-1b --sft skills.jsonl --preference taste.jsonl.gz
      --lora-rank 32 --precision bf16 --set train.clip=0.5`
    """
    require("llm")
    from tradeoff.llm import gguf

    keeps(f"checkpoints in {out} are kept, and the same command goes on from the newest")
    quiet = as_json or os.environ.get("RANK", "0") != "0"
    say = (lambda text: None) if quiet else partial(show_line, style="dim")
    say("reading settings")
    settings = given.settings()
    say(f"reading rows: SFT {settings.data.sft}, preference {settings.data.preference}")
    read = experiment.read_rows(settings)
    say(f"loading the model {settings.model.path}, and its tokens of {_counted(read)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RowWarning)  # printed below, with the remarks on the rows
        kept = experiment.reference_folder()
        trainer = experiment.prepare(settings, read, out, progress=not quiet, references=kept)
    said = experiment.told(read, trainer.data, settings.train.turns)
    said["remarks"] += gguf.caution(settings.model.path)
    if not quiet:
        for line in experiment.in_lines(said, experiment.lost(trainer.data.summary())):
            show_line(line, style="yellow")
        say(_ahead(trainer))
    try:
        result = trainer.train(resume=resume, progress=not quiet)
        if trainer.accelerator.is_main_process:
            _tell(trainer, result, said, out, as_json)
    finally:
        trainer.accelerator.end_training()
    if result.signal:
        raise typer.Exit(128 + result.signal)
    if result.diverged_at is not None:
        raise typer.Exit(1)


def _counted(read: Mapping[str, Any]) -> str:
    """How many rows each set has."""
    counts = [f"{len(rows):,} {name}" for name, rows in read.items() if rows is not None]
    return f"{' and '.join(counts)} rows"


def _ahead(trainer: JointTrainer) -> str:
    """What is about to be done."""
    read = sum(map(len, trainer.needed.groups))
    scored = f"; the reference is needed for {read:,} of them"
    config, sizes = trainer.config, (len(trainer.data.sft), len(trainer.data.preference))
    return (
        f"{trainer.method.label}: {trainer.steps:,} updates of {config.batch_size} rows on "
        f"{sizes[0]:,} demonstrations and {sizes[1]:,} pairs"
        f"{scored if config.reference_mode == 'cached' else ''}; {config.precision}, "
        f"{config.layout} on {trainer.accelerator.device.type}{_faster(trainer)}"
    )


def _faster(trainer: JointTrainer) -> str:
    """That packed rows would be much faster, where they would; empty otherwise."""
    from tradeoff.llm import waste

    attention = trainer.accelerator.unwrap_model(trainer.policy).attention
    given = trainer.costs, trainer.data, trainer.config, attention, trainer.accelerator.device.type
    if (saved := waste.saved_by_bounds(*given)) < MUCH:
        return ""
    return (
        f'; with attention = "varlen" rows are packed, which saves {saved:.0%} of the computation'
    )


def _tell(
    trainer: JointTrainer, result: TrainResult, read: dict[str, Any], out: Path, as_json: bool
) -> None:
    """Write the trajectory and show where the run ended."""
    written = experiment.write(trainer, result, out)
    if as_json:
        ends = {name: list(values) for name, values in _first_and_last(result).items()}
        how = {"signal": result.signal, **read, "written": written}
        show_json({**result.summary, "first_and_last": ends, **how})
        return
    if rows := _first_and_last(result):
        import pandas as pd

        table = pd.DataFrame.from_dict(rows, orient="index", columns=["first", "last"])
        show_table(table.rename_axis("held out").reset_index(), str(trainer.method.label))
    show_summary(_short(result.summary))
    show_written([*written, out / "metrics.jsonl"])
    _tell_end(result, out)


def _tell_end(result: TrainResult, out: Path) -> None:
    from tradeoff.llm import checkpoints

    steps = result.summary["steps"]
    if best := result.summary.get("best"):
        early = f"stopped early after {steps} updates; " if result.summary["stopped_early"] else ""
        show_line(
            f"{early}the model saved is that of update {best['step']}, whose weighted held-out "
            f"loss {best['weighted_loss']:.4f} is the lowest"
        )
    if result.signal and result.diverged_at is None:
        name = signal.Signals(result.signal).name
        message = f"{name}: saved after {steps} updates; the same command goes on"
        typer.secho(message, err=True)
    if result.diverged_at is not None:
        good = checkpoints.checkpoints(out / "checkpoints")
        kept = f"{good[-1]} is from before" if good else "no checkpoint was written before"
        message = (
            f"diverged by update {result.diverged_at}: a loss, gradient or weight is not finite. "
            f"Lower learning_rate; {kept}"
        )
        typer.secho(message, fg="red", err=True)


def _first_and_last(result: TrainResult) -> dict[str, tuple[float, float]]:
    names = ("sft_loss", "preference_loss", "preference_accuracy", "weighted_loss")
    known = [name for name in names if name in result.table]
    return {
        name: (float(result.table[name].iloc[0]), float(result.table[name].iloc[-1]))
        for name in known
    }


def _short(summary: dict[str, Any]) -> dict[str, Any]:
    """What fits a terminal."""
    rows = {name: about["rows"] for name, about in summary["data"].items()}
    return {
        "updates": summary["steps"],
        **{f"updates of {name}": count for name, count in summary["updates"].items()},
        "rows": ", ".join(f"{name} {count}" for name, count in rows.items()),
        **experiment.lost(summary["data"]),
        **({"adapters": summary["adapters"]} if summary["adapters"] else {}),
        "seconds": summary["seconds"],
        "tokens per second": summary["tokens_per_second"],
        "peak memory (GiB)": summary["peak_memory_bytes"] / 2**30,
    }
