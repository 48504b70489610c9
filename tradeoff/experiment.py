"""A training run from its settings: model, rows, schedule, trainer and output files.

This module may import both the trainer and the small networks, so that "tiny" can be the name of
the model that the package makes itself.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeoff.data import Rows
from tradeoff.data.layouts import EARLIER
from tradeoff.errors import InputError
from tradeoff.settings import build

if TYPE_CHECKING:
    from tradeoff.llm.config import Experiment
    from tradeoff.llm.trainer import JointTrainer, TrainResult

EXAMPLE = """\
[model]
path = "EleutherAI/pythia-1b"   # folder or hub name; "tiny": made here, offline
attention = "sdpa"

[data]                          # file, pattern, owner/name@split or "synthetic"
sft = "skills.jsonl"
preference = "taste.jsonl.gz"
sft_test = "skills-test.jsonl"  # without: train.holdout of the training rows
preference_test = "taste-test.jsonl"

[schedule]                      # sequential, rounds, mix, alright, maxright or constrained
name = "maxright"
lam = 0.5                       # weight of the PREFERENCE objective
refresh = 10                    # updates between evaluations of the probe rows
samples = 64                    # probe rows of each objective

[train]
steps = 1000
batch_size = 32
rows_per_forward = 8
learning_rate = 5e-5
decay = "cosine"
warmup = 50
loss = "sigmoid"
beta = 0.1
optima = "auto"                 # least losses, from which maxright measures gaps
max_length = 1024
precision = "bf16"
evaluate_every = 50
save_every = 100
trackers = ["tensorboard"]
seed = 0

[train.lora]                    # leave out to train all weights
rank = 16
targets = ["query_key_value"]
"""
_SEEN_TWICE = "Remove them from one of the two sets."
_LOST = {
    "too_long": "Their prompts alone fill max_length: raise it, or leave them out.",
    "identical": "Their sides have the same tokens, so they are not trained on: remove them.",
    "cut_equal": "Their sides differ only behind max_length: raise it.",
    "refused": "Change them, or use a template that accepts them.",
    "truncated": "What is behind max_length is not trained on: raise it, or shorten them.",
    "repeated_rows": "Remove them, unless they are meant to count more.",
    "contradicted_pairs": "Other pairs state them the other way round: keep one of each two.",
    "prompts_tested_on": "The other set holds these prompts out, so they are not trained on.",
    "prompts_trained_on": _SEEN_TWICE,
    "also_trained_on": _SEEN_TWICE,
    "near_duplicates": _SEEN_TWICE,
}
"""Counts of rows that a user should see, named as in the summary, and what to do about them."""


def settings(
    file: Path | None,
    flags: Mapping[str, Any],
    assignments: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> Experiment:
    """The settings of a run: those of a file, replaced by flags, then by assignments.

    Parameters
    ----------
    file
        TOML, such as `EXAMPLE`.
    flags
        Values by dotted name, such as ``"train.steps"``; None: not given. ``"schedule"`` is a
        name of :data:`tradeoff.schedules.SCHEDULES`, "sft-dpo" or "dpo-sft". It replaces the
        schedule of the file, but ``lam`` is kept, and all settings if the kind is the same.
        ``"method"`` is an argument of :func:`tradeoff.methods.find`: schedule and other parts,
        joined by ``+``.
    assignments
        Each ``NAME=VALUE``, with a dotted name and a value as in TOML. Quotes may be left out, and
        ``none`` means no value.
    tables
        The content of a file, in place of ``file``.

    Raises
    ------
    InputError
        For the first setting that is unknown, of a wrong type or out of range.
    """
    from tradeoff.llm import config

    place = None if file is None else str(file)
    found = dict(tables or {}) if file is None else config.read_settings(file)
    given = {name: value for name, value in flags.items() if value is not None}
    if isinstance(name := found.get("schedule"), str):
        found["schedule"] = _schedule(name, {})
    if isinstance(name := given.pop("method", None), str):
        _put_method(found, name)
    # The schedule's name comes first, because it replaces the table of its settings.
    for name, value in sorted(given.items(), key=lambda item: item[0] != "schedule"):
        _put(found, name, value)
    for name, value in map(_assignment, assignments):
        _put(found, name, value)
    if isinstance(table := found.get("schedule"), Mapping):
        found["schedule"] = {"name": "alright", **table}
    experiment = build(config.Experiment, found, file=place)
    try:
        experiment.make_method()
    except InputError as error:
        raise error.at(file=place) from error
    return experiment


def read_rows(experiment: Experiment) -> dict[str, Any]:
    """Read training and held-out rows, as a dict of arguments of the trainer.

    Raises
    ------
    InputError
        For the first file that cannot be used and, without ``data.skip_bad``, for the first such
        row.
    """
    from tradeoff import tiny
    from tradeoff.data import files
    from tradeoff.data.columns import columns_of
    from tradeoff.data.sources import check_apart

    if experiment.data.sft == "chosen":
        return _of_chosen(experiment)
    data, found = experiment.data, {}
    limits = {"sft": data.limit, "preference": data.preference_limit or data.limit}
    made = tiny.data() if "synthetic" in (data.sft, data.preference) else None
    options: dict[str, Any] = {"skip_bad": data.skip_bad, "use_labels": data.use_labels}
    options["folder"] = experiment.train.row_cache
    read: dict[str, Any] = {
        "sft": partial(files.read_sft, columns=columns_of(data.columns, "sft"), **options),
        "preference": partial(
            files.read_preferences,
            columns=columns_of(data.columns, "preference"),
            min_margin=data.min_margin,
            **options,
        ),
    }
    for name in read:
        source, test = getattr(data, name), getattr(data, f"{name}_test")
        held_out = None if test is None else read[name](test, default_split=None)
        if source == "synthetic":
            found[name] = getattr(made, f"{name}_train")[: limits[name]]
            held_out = getattr(made, f"{name}_test") if test is None else held_out
        else:
            found[name] = read[name](source, limit=limits[name])
            check_apart(found[name], held_out, f"data.{name}_test")
        found[f"{name}_test"] = held_out
    return found


def _of_chosen(experiment: Experiment) -> dict[str, Any]:
    """Rows whose demonstrations are the chosen responses of the pairs."""
    from dataclasses import replace

    from tradeoff.data import chosen_as_sft

    data = replace(experiment.data, sft="synthetic")
    found = read_rows(replace(experiment, data=data))
    pairs, test = found["preference"], found["preference_test"]
    if data.preference_limit is not None:
        # Demonstrations have their own limit.
        every = replace(data, preference_limit=data.limit)
        pairs = read_rows(replace(experiment, data=every))["preference"]
    found["sft"] = chosen_as_sft(pairs)
    if data.sft_test is None:
        found["sft_test"] = None if test is None else chosen_as_sft(test)
    return found


def told(read: Mapping[str, Any], data: Any, turns: str = "last") -> dict[str, list[str]]:
    """What was wrong with each row that was "dropped", and "remarks" on the others.

    Parameters
    ----------
    read
        Rows, as :func:`read_rows` returns them.
    data
        The tokenised rows of a trainer.
    turns
        The setting ``train.turns``; with "all", earlier turns carry loss, too.
    """
    untrue = (EARLIER,) if turns == "all" else ()
    rows = [part for part in read.values() if isinstance(part, Rows)]
    dropped = [str(error) for part in read.values() for error in getattr(part, "dropped", ())]
    remarks = [text for part in rows for text in part.remarks(untrue)]
    return {
        "dropped": [*dropped, *map(str, data.dropped())],
        "remarks": [*remarks, *data.remarks()],
    }


def lost(summary: Mapping[str, Any]) -> dict[str, int]:
    """How many rows of each set are lost, or should be seen, from the summary of a trainer."""
    return {
        f"{name} {what}": about[what]
        for name, about in summary.items()
        for what in _LOST
        if about.get(what)
    }


def in_lines(
    said: Mapping[str, Sequence[str]], counts: Mapping[str, int], where: str = ""
) -> list[str]:
    """What a user is to read of :func:`told` and :func:`lost`; `where` follows each count."""
    dropped = [f"dropped: {text}" for text in said["dropped"]]
    counted = [f"{name}: {n:,}{where}. {_LOST[name.split()[-1]]}" for name, n in counts.items()]
    return [*said["remarks"], *dropped, *counted]


def prepare(
    experiment: Experiment,
    rows: Mapping[str, Any],
    output: str | Path | None = None,
    *,
    progress: bool = True,
    references: Path | None = None,
) -> JointTrainer:
    """Make the trainer of a run, with all checks that are possible before training.

    Parameters
    ----------
    experiment
        The settings.
    rows
        Rows, as :func:`read_rows` returns them.
    output
        Folder for log, checkpoints and the trained model.
    progress
        Show a bar while the "tiny" model is made.
    references
        Folder where the reference's values are kept for later runs, if the settings name none.

    Raises
    ------
    InputError
        If rows, model, tokenizer or settings cannot be used.
    """
    from dataclasses import replace

    from tradeoff import tiny
    from tradeoff.llm import models, setup
    from tradeoff.llm.trainer import JointTrainer

    model_config, train = experiment.model, experiment.train
    if model_config.path == "tiny":
        model_config = replace(model_config, path=str(tiny.folder(progress=progress)))
    if train.reference == "tiny":
        train = replace(train, reference=str(tiny.folder(progress=progress)))
    if references is not None and train.reference_cache is None:
        train = replace(train, reference_cache=str(references))
    if output is not None:
        setup.check_not_replaced(Path(output), "path", model_config.path)
    adapted = train.lora is not None or models.has_adapter_files(model_config.path)
    if model_config.quantise and not adapted:
        raise InputError(
            "quantised weights cannot be trained, only adapters on them",
            field="model.quantise",
            value=model_config.quantise,
            remedy="Give train.lora, such as --lora-rank 16, or leave quantise out.",
        )
    frozen_bf16 = adapted and train.precision == "bf16"
    model, tokenizer = models.load(model_config, seed=train.seed, frozen_bf16=frozen_bf16)
    trainer = JointTrainer(
        model, tokenizer, schedule=experiment.make_method(), config=train, output=output, **rows
    )
    trainer.experiment = experiment
    return trainer


def reference_folder() -> Path | None:
    """Folder of the cache that keeps values of references; None if it cannot be written.

    Its name depends on the code of `tradeoff.llm`, so that changed code computes them anew.
    """
    from tradeoff import llm
    from tradeoff.files import check_writable
    from tradeoff.records import cache_folder

    digest = hashlib.sha256()
    for file in sorted(Path(llm.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    place = cache_folder() / f"references-{digest.hexdigest()[:12]}"
    try:
        check_writable(place, what="folder of references")
    except InputError:
        return None
    return place


def write(trainer: JointTrainer, result: TrainResult, folder: Path) -> list[Path]:
    """Write the trajectory as CSV and Parquet, and a figure if both losses were evaluated."""
    from tradeoff import plots
    from tradeoff.records import replacing

    paths = [folder / "trajectory.csv", folder / "trajectory.parquet"]
    with replacing(paths[0]) as partial:
        result.table.to_csv(partial, index=False)
    with replacing(paths[1]) as partial:
        result.table.to_parquet(partial, index=False)
    if {"sft_loss", "preference_loss"} <= set(result.table.columns):
        with plots.figure(height=4.0) as (figure, ax):
            draw(result, trainer.method, ax)
            paths += plots.save(figure, folder, "loss_space")
    return paths


def draw(result: TrainResult, schedule: Any, ax: Any) -> Any:
    """Draw a run in the plane of both held-out losses.

    Each evaluation has a marker, and the start a ring.
    """
    from tradeoff import plots

    x, y = result.table.sft_loss.to_numpy(), result.table.preference_loss.to_numpy()
    ax.plot(x, y, **plots.look(schedule).line_style())
    ax.plot(x[:1], y[:1], marker="o", markersize=10, fillstyle="none", color="0.3")
    plots.label_line(ax, x[-1], y[-1], schedule.label)
    ax.set(xlabel="held-out SFT loss (nats per token)", ylabel="held-out preference loss (nats)")
    ax.set_title(f"{schedule.label}, λ = {schedule.lam:g}")
    return ax


def _schedule(name: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a schedule, with the settings that are kept of the replaced one."""
    table = _named(name)
    same = before.get("name", "alright") == table["name"]
    return {k: v for k, v in before.items() if same or k == "lam"} | table


def _named(name: str) -> dict[str, Any]:
    """Name of a schedule, with the settings in which methods of the catalogue with it differ."""
    from tradeoff.methods import METHODS

    if name not in METHODS:
        return {"name": name}
    every = {known: method.schedule.to_dict() for known, method in METHODS.items()}
    own = every[name]
    siblings = [one for one in every.values() if one["name"] == own["name"]]
    distinctive = {k: v for k, v in own.items() if any(one[k] != v for one in siblings)}
    return {"name": own["name"], **distinctive}


def _put_method(settings: dict[str, Any], name: str) -> None:
    """Put a method, by its name, into the tables of a run, in place of other parts."""
    from tradeoff.methods import METHODS, find
    from tradeoff.schedules import SCHEDULES

    words = [word.strip() for word in name.split("+")]
    described = find(name).to_dict()
    schedule = described.pop("schedule")
    own = [word for word in words if word in METHODS or word in SCHEDULES]
    # The defaults of language models differ from those of the parts.
    _put(settings, "schedule", own[0] if own else schedule["name"])
    if not own:
        settings["schedule"] = {**schedule, **_kept(settings["schedule"])}
    settings["method"] = described


def _kept(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"lam": table["lam"]} if "lam" in table else {}


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        remedy = "Write --set NAME=VALUE, such as --set train.clip=0.5."
        raise InputError("not NAME=VALUE", field="--set", value=text, remedy=remedy)
    if value == "none":
        return name, None
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    if name == "schedule" and isinstance(value, str):
        before = settings.get("schedule")
        value = _schedule(value, before if isinstance(before, Mapping) else {})
    *tables, last = name.split(".")
    for table in tables:
        inner = settings.get(table)
        settings[table] = dict(inner) if isinstance(inner, Mapping) else {}
        settings = settings[table]
    settings[last] = value
