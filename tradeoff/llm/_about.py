"""``about.json`` of a run: its model, data, method and settings, for model cards."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote
from typing import Any

from tradeoff.llm import gguf
from tradeoff.llm._corpora import Corpora
from tradeoff.llm.config import Experiment, TrainConfig
from tradeoff.llm.toml import to_toml, unwritable
from tradeoff.records import replacing, write_json
from tradeoff.schedules import Schedule

ABOUT, SETTINGS = "about.json", "run.toml"
"""Names of the file, and of the one with all settings."""
_TRAIN = (
    *("loss", "beta", "batch_size", "learning_rate", "decay", "max_length"),
    *("precision", "save_precision", "seed"),
)
_PACKAGES = ("tradeoff", "torch", "transformers", "peft")
_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def write(
    run: Path,
    schedule: Schedule,
    config: TrainConfig,
    data: Corpora,
    model: Any,
    experiment: Experiment | None,
) -> Path:
    """Store the model, data and settings of a run, from which its cards are made.

    A run of a command also gets ``run.toml``, which repeats it.

    Parameters
    ----------
    run
        Output folder.
    schedule, config, data
        Schedule, settings and data of the run.
    model
        A model of transformers or of peft.
    experiment
        The settings of the command; None if the run was started in Python.
    """
    adapters = getattr(model, "active_peft_config", None)
    named = model if adapters is None else adapters
    base = getattr(named, "name_or_path" if adapters is None else "base_model_name_or_path", "")
    settings = experiment or Experiment(schedule=schedule.to_dict(), train=config)
    record = {
        "base": _short(str(base or "")),
        "on_hub": on_hub(str(base or "")),
        "cautions": gguf.caution(str(base)) if base else [],
        "adapters": adapters is not None,
        "schedule": {"label": schedule.label, **schedule.to_dict()},
        "data": {
            name: {"source": _source(name, data, experiment), **_counts(part)}
            for name, part in data.summary().items()
        },
        "train": {
            **{name: getattr(config, name) for name in _TRAIN},
            "reference": _short(config.reference),
        },
        "settings": to_toml(settings, skip_unwritable=True),
        "assignments": [f"{name}=none" for name in unwritable(settings)],
        "complete": experiment is not None,
        "versions": dict(_versions()),
    }
    if experiment is not None:
        command = repeat(record, run / SETTINGS)
        with replacing(run / SETTINGS) as partial:
            partial.write_text(f"# {command}\n\n{record['settings']}", "utf-8")
    return write_json(run / ABOUT, record)


def repeat(about: Mapping[str, Any], settings: str | Path = SETTINGS) -> str:
    """The command that repeats a run with its file of settings.

    Parameters
    ----------
    about
        What ``about.json`` stores.
    settings
        Where that file is.
    """
    extra = [f"--set {text}" for text in about["assignments"]]
    return " ".join(["tradeoff", "train", quote(str(settings)), *extra, "--out", "run"])


def on_hub(name: str) -> bool:
    """Whether this is the name of a model on the hub, and not a folder."""
    return _HUB.fullmatch(name) is not None and not Path(name).exists()


def _short(name: str) -> str:
    """A hub name, or the last part of a path, so that no folder of this machine is named."""
    return name if on_hub(name) else Path(name).name or "a model made in memory"


def _counts(part: Mapping[str, Any]) -> dict[str, int]:
    return {name: part[name] for name in ("rows", "tokens")}


def _source(name: str, data: Corpora, experiment: Experiment | None) -> str:
    training = name.removesuffix("_test")
    if experiment is not None:
        given = getattr(experiment.data, name)
        if (given or getattr(experiment.data, training)) == "synthetic":
            return "the generated language of tradeoff"
    if (found := data.sources.get(name)) is not None:
        return found
    return f"held out of {data.sources.get(training) or 'the training rows'}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
