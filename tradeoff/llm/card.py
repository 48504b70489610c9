"""The model card of a run: a README.md for the hub, with the settings that repeat the run.

A card is made from ``about.json`` of a run and the evaluations in its log, so any checkpoint can
have one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeoff.errors import InputError
from tradeoff.llm._about import ABOUT, SETTINGS, on_hub, repeat
from tradeoff.llm.models import CARD
from tradeoff.records import read_json

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

_MEASURED = {
    "sft_loss": "SFT loss (nats per token)",
    "preference_loss": "preference loss (nats)",
    "preference_accuracy": "preference accuracy",
    "weighted_loss": "weighted loss",
}
_SETS = {
    "sft": "demonstrations",
    "preference": "preference pairs",
    "sft_test": "held-out demonstrations",
    "preference_test": "held-out preference pairs",
}


def texts(run: Path, step: int | None = None, *, merged: bool = False) -> dict[str, str]:
    """Card and settings of a policy, by file name; empty for a run of an older version.

    Parameters
    ----------
    run
        Output folder.
    step
        Number of updates done; None: that of the model that the run has saved.
    merged
        Whether adapters are merged into the weights.
    """
    try:
        about = read_json(run / ABOUT)
        log = (run / "metrics.jsonl").read_text("utf-8").splitlines()
        lines = [json.loads(line) for line in log]
    except (OSError, ValueError):
        return {}
    if step is None:
        step = lines[-1].get("best_step", lines[-1]["step"]) if lines else 0
    about["adapters"] = about["adapters"] and not merged
    done = [x for x in lines if x["kind"] == "evaluation" and x["step"] <= step]
    return {CARD: render(about, done, step), SETTINGS: about["settings"]}


def sources(run: Path) -> dict[str, str]:
    """Where the rows of a run came from, by name; empty for a run of an older version."""
    file = run / ABOUT
    data = read_json(file)["data"] if file.is_file() else {}
    return {name: part["source"] for name, part in data.items()}


def render(about: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], step: int) -> str:
    """A card in Markdown, with a YAML header.

    Parameters
    ----------
    about
        Content of ``about.json``.
    evaluations
        Records of the evaluations up to `step`, oldest first.
    step
        Updates done.
    """
    base, schedule = about["base"], about["schedule"]
    kind = "adapters for" if about["adapters"] else "a fine-tuned"
    first, last = (evaluations[0], evaluations[-1]) if evaluations else ({}, {})
    parts = [
        f"---\n{_header(about, last).to_yaml().strip()}\n---",
        f"# {base}, trained by {schedule['label']}",
        f"This is {kind} **{base}**, trained on demonstrations and preference pairs by the "
        f"schedule {schedule['label']} of the package tradeoff (arXiv 2410.15483), with "
        f"λ = {schedule['lam']:g} as the weight of the preference objective.",
        *(f"*Note.* {caution[0].upper()}{caution[1:]}." for caution in about.get("cautions", [])),
        "## Data",
        _table(["rows", "source", "count", "tokens"], _data(about)),
        "## Method",
        "\n".join(f"- {name}: {value}" for name, value in _method(about, last, step)),
        "## Held-out losses",
        _measured(first, last),
        "## Repeat",
        _repeat(about),
        "Versions: "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def upload_command(folder: str | Path, repository: str) -> str:
    """The command that uploads a folder to the hub; the package itself uploads nothing.

    Parameters
    ----------
    folder
        A folder that :func:`tradeoff.llm.export.export` wrote.
    repository
        ``owner/name``.

    Raises
    ------
    InputError
        If the hub does not allow such a name.
    """
    from shlex import join

    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(
            f"the hub does not allow this name: {error}",
            field="repository",
            value=repository,
            remedy="Give owner/name.",
        ) from error
    return join(["hf", "upload", repository, str(folder), "."])


def local_base(folder: Path) -> str | None:
    """The folder that adapters name as their base; None for a hub name, or no name.

    Parameters
    ----------
    folder
        Folder of a model or of adapters.
    """
    file = folder / "adapter_config.json"
    base = read_json(file)["base_model_name_or_path"] if file.is_file() else None
    return None if base is None or on_hub(base) else str(base)


def _header(about: Mapping[str, Any], last: Mapping[str, Any]) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    base = about["base"]
    options: dict[str, Any] = {}
    if about["on_hub"]:
        relation = "adapter" if about["adapters"] else "finetune"
        options = {"base_model": base, "base_model_relation": relation}
    hub = [x["source"].partition("@")[0].partition(":")[0] for x in about["data"].values()]
    datasets = sorted({name for name in hub if "/" in name and on_hub(name)})
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out",
            dataset_name=about["data"][f"{name.partition('_')[0]}_test"]["source"],
            metric_type=name,
            metric_name=_MEASURED[name],
            metric_value=round(last[name], 6),
        )
        for name in list(_MEASURED)[:3]
        if last.get(name) is not None
    ]
    if datasets:
        options["datasets"] = datasets
    if results:
        options["eval_results"] = results
        options["model_name"] = f"{base}-{about['schedule']['name']}"
    return ModelCardData(
        library_name="peft" if about["adapters"] else "transformers",
        pipeline_tag="text-generation",
        tags=["tradeoff", "sft", "preference-optimization", about["schedule"]["name"]],
        **options,
    )


def _data(about: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, found in about["data"].items():
        yield [_SETS[name], f"`{found['source']}`", f"{found['rows']:,}", f"{found['tokens']:,}"]


def _method(about: Mapping[str, Any], last: Mapping[str, Any], step: int) -> Iterator[Any]:
    schedule = {k: v for k, v in about["schedule"].items() if k not in ("label", "name")}
    yield "schedule", ", ".join(f"{name} = {value}" for name, value in schedule.items())
    yield "updates", step
    if last.get("step") == step:
        counts = last["sft_updates"], last["preference_updates"]
        yield "of these", f"{counts[0]} follow SFT and {counts[1]} preferences"
    yield from ((name.replace("_", " "), value) for name, value in about["train"].items())


def _measured(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    known = [name for name in _MEASURED if last.get(name) is not None]
    if not known:
        return "None was measured, as the run had no held-out rows."
    rows = [[_MEASURED[n], f"{_number(first.get(n))}", f"{_number(last[n])}"] for n in known]
    header = ["held out", f"after {first['step']} updates", f"after {last['step']} updates"]
    return _table(header, rows)


def _repeat(about: Mapping[str, Any]) -> str:
    if not about["complete"]:
        return (
            "The run was started in Python, with model and rows in memory. Its schedule and "
            f"settings are in `{SETTINGS}`, which `tradeoff.llm.config.read_experiment` reads."
        )
    before = f"With the rows above and `{SETTINGS}` of this folder:"
    return f"{before}\n\n```console\n{repeat(about)}\n```"


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(x.replace('|', ' ') for x in line)} |" for line in lines)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4f}"
