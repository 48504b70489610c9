"""The settings of a run on the command line, which every command that trains takes alike."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradeoff import experiment
from tradeoff.cli.options import (
    Attention,
    Chat,
    ChatTemplate,
    Columns,
    EosToken,
    MinMargin,
    SkipBad,
    UseLabels,
)
from tradeoff.data.columns import parsed
from tradeoff.errors import InputError
from tradeoff.extras import require

if TYPE_CHECKING:
    from tradeoff.llm.config import Experiment

_CHOICES = (
    "sft-dpo, dpo-sft, rounds, mix, alright, maxright, constrained, or another schedule's name."
)

METHOD = (
    "Schedule and other parts joined by +, such as mix+pcgrad or sft-dpo+ewc+ema; or "
    "package.module:Name, one of your own."
)


@dataclass(frozen=True)
class Given:
    """What a command line says of a run.

    Attributes
    ----------
    file
        Settings in TOML.
    flags
        Values by dotted name; None where an option was not given.
    assignments
        Texts ``NAME=VALUE`` of ``--set``.
    tables
        Settings of another trainer's files, in place of `file`.
    """

    file: Path | None
    flags: Mapping[str, Any]
    assignments: tuple[str, ...] = ()
    tables: Mapping[str, Any] | None = None

    def settings(self, **flags: Any) -> Experiment:
        """The settings of a run, with other `flags`, by dotted name."""
        return experiment.settings(
            self.file, {**self.flags, **flags}, self.assignments, self.tables
        )

    @property
    def anything(self) -> bool:
        """Whether any setting was given."""
        flags = any(value is not None for value in self.flags.values())
        return flags or bool(self.file or self.assignments or self.tables)


def with_settings(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of :func:`run_settings` in place of its first parameter.

    A parameter of the command that has the name of such an option takes its place; those named in
    `without` are left out.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        shared = dict(inspect.signature(run_settings, eval_str=True).parameters)
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        named = {parameter.name: parameter for parameter in own}
        passed = [name for name in shared if name not in named and name not in without]

        def called(**values: Any) -> None:
            given = run_settings(**{name: values[name] for name in passed})
            command(given, **{name: values[name] for name in named})

        every = {name: named.get(name, shared[name]) for name in shared if name not in without}
        kept = [p.replace(kind=p.KEYWORD_ONLY) for p in (every | named).values()]
        called.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
        called.__annotations__ = {}
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__module__ = command.__module__
        return called

    return decorated


def run_settings(
    file: Annotated[
        Path | None, typer.Argument(help="Settings in TOML.", metavar="CONFIG.toml")
    ] = None,
    from_trl: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Settings of two trainings, SFT and DPO, in YAML of TRL's command line or of "
            "LLaMA-Factory, in place of CONFIG.toml.",
            metavar="SFT.yaml DPO.yaml",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, GGUF file, hub name, `smollm2` or `tiny`.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Take only the model's configuration.")
    ] = False,
    sft: Annotated[
        str | None, typer.Option(help="SFT rows: file, hub name or `synthetic`.")
    ] = None,
    preference: Annotated[str | None, typer.Option(help="Preference rows, likewise.")] = None,
    sft_test: Annotated[str | None, typer.Option(help="Held-out SFT rows.")] = None,
    preference_test: Annotated[str | None, typer.Option(help="Held-out preference rows.")] = None,
    rows: Annotated[int | None, typer.Option(help="Most training rows of each set.")] = None,
    skip_bad: SkipBad = False,
    columns: Columns = None,
    use_labels: UseLabels = False,
    min_margin: MinMargin = None,
    chat: Chat = None,
    chat_template: ChatTemplate = None,
    eos_token: EosToken = None,
    attention: Attention = None,
    schedule: Annotated[str | None, typer.Option(help=_CHOICES)] = None,
    method: Annotated[str | None, typer.Option(help=METHOD)] = None,
    lam: Annotated[
        float | None, typer.Option(help="Weight of the preference objective, in [0, 1].")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="rounds: how many.")] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="constrained: nats of SFT training loss that may be lost, or a share."),
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="constrained: the limit is a share of the gain.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Updates of the optimiser.")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Instead: passes through the larger set.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of an update.")] = None,
    rows_per_forward: Annotated[
        int | None, typer.Option(help="Rows of a forward pass of a process.")
    ] = None,
    tokens_per_pass: Annotated[
        int | None, typer.Option(help="Instead: its tokens, filling included.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Largest learning rate.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest sequence in tokens.")] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="Preference loss by TRL's name, such as sigmoid, ipo or simpo."),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Inverse temperature of that loss.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train adapters of this rank.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Updates between evaluations.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many evaluations without a lower weighted loss."),
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Updates between checkpoints.")] = None,
    seed: Annotated[int | None, typer.Option(help="Root seed of every random draw.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting; repeatable."),
    ] = None,
) -> Given:
    """The options of a run's settings."""
    flags = {
        "model.path": model,
        "model.config_only": random_weights or None,
        "model.chat_template": chat_template,
        "model.eos_token": eos_token,
        "model.attention": attention,
        "data.sft": sft,
        "data.preference": preference,
        "data.sft_test": sft_test,
        "data.preference_test": preference_test,
        "data.limit": rows,
        "data.skip_bad": skip_bad or None,
        "data.columns": parsed(columns) if columns else None,
        "data.use_labels": use_labels or None,
        "data.min_margin": min_margin,
        "train.chat": chat,
        "schedule": schedule,
        "method": method,
        "schedule.lam": lam,
        "schedule.rounds": rounds,
        "schedule.limit": limit,
        "schedule.relative": relative or None,
        "train.steps": steps,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.rows_per_forward": rows_per_forward,
        "train.tokens_per_pass": tokens_per_pass,
        "train.learning_rate": learning_rate,
        "train.max_length": max_length,
        "train.loss": loss,
        "train.beta": beta,
        "train.lora.rank": lora_rank,
        "train.precision": precision,
        "train.evaluate_every": evaluate_every,
        "train.patience": patience,
        "train.save_every": save_every,
        "train.seed": seed,
    }
    return Given(file, flags, tuple(assignments or ()), _taken_over(file, from_trl))


def _taken_over(file: Path | None, files: tuple[Path, Path] | None) -> dict[str, Any] | None:
    """Settings of TRL's command line, if they are asked for."""
    if files is None:
        return None
    if file is not None:
        remedy = "Give CONFIG.toml or --from-trl; flags and --set change either."
        raise InputError("two sources of settings", field="--from-trl", remedy=remedy)
    require("trl")
    from tradeoff import trl

    with warnings.catch_warnings(record=True) as said:
        found: dict[str, Any] = trl.read_yaml(*files)
    for one in said:
        typer.echo(str(one.message), err=True)
    return found
