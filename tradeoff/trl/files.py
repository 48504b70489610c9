"""Settings of a joint run, from YAML files of TRL's command line or of LLaMA-Factory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from tradeoff.errors import InputError
from tradeoff.llm import setup
from tradeoff.trl._rows import count, share
from tradeoff.trl._values import typed
from tradeoff.trl.arguments import FREE, hinted, not_applied, train_config, unsupported, updates
from tradeoff.trl.factory import UNCHANGED, FactorySettings

_MODEL = {"model_name_or_path", "attn_implementation", "dtype", "torch_dtype", "model_revision"}
_MODEL |= {"load_in_4bit", "quantization_bit", "use_bnb_nested_quant"}
_LORA = {"use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_dora"}
_LORA |= {"lora_task_type"}
_DATA = {"dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split"}
_DATA |= {"dataset_test", "datasets", "dataset_mixture", "test_split_size"}
_SHOWN = {"trust_remote_code", "ignore_bias_buffers", "dataset_streaming", "streaming"}
_SHOWN |= {"preprocessing_num_workers"}
"""Names without effect here. Code of a model is never run, and a model that needs it is refused."""
_OLDER = {
    "warmup_ratio": "warmup_steps",  # A number below 1 is a share of the updates.
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
}
"""Names in older versions of transformers and TRL, with those of the newest."""
_LAUNCHERS = {"deepspeed", "fsdp", "fsdp_config"}
"""Fields that transformers reads with packages that may be missing."""
_KINDS = {"torch_dtype": "str | None", "quantization_bit": "int | None", "dataset_test": "str"}
_KINDS |= {"test_split_size": "float | None", "dataset_mixture": "dict | None"}
_KINDS |= {"lora_target_modules": "list | str | None"}
"""Types of fields that no configuration of TRL declares, or declares without a text."""
_PAST: dict[str, Any] = {"generate_during_eval": False, "reference_free": False}
_PAST |= {"force_use_ref_model": False, "use_logits_to_keep": False, "label_pad_token_id": -100}
_PAST |= {"group_by_length": False, "padding_value": 0}
"""Fields of older versions, with their defaults."""
_ABSENT = object()
_BUILDERS = {"json", "csv", "parquet", "arrow"}
"""Paths of a data set that name the format of its files."""
_MIXTURE = {"datasets", "test_split_size", "seed"}
"""Fields of a mixture of the alignment handbook; its seed decides only which rows come first."""
_PART = {"path", "name", "split", "columns", "data_files", "fraction", "id", "config", "weight"}
"""Fields of a part of a mixture, in the terms of TRL and of the alignment handbook."""


def read_yaml(sft: str | Path, dpo: str | Path) -> dict[str, Any]:
    """Read the files of two trainings as the tables of one experiment.

    Parameters
    ----------
    sft, dpo
        YAML files of ``trl sft --config`` and ``trl dpo --config``; or files of LLaMA-Factory,
        which have a ``stage``, and whose ``pref_ftx`` becomes ``chosen_nll``.

    Returns
    -------
    dict
        Tables ``model``, ``data``, ``schedule`` and ``train`` of an
        :class:`~tradeoff.llm.config.Experiment`, with ALRIGHT, whose weight is the second
        training's share of all updates.

    Raises
    ------
    InputError
        If a file cannot be read, trl is missing, or a setting is unsupported; the error names all
        such settings.
    """
    from trl import DPOConfig, SFTConfig  # type: ignore[attr-defined]

    found = [_Training(Path(sft), SFTConfig, "sft"), _Training(Path(dpo), DPOConfig, "dpo")]
    problems = [text for training in found for text in training.problems]
    problems += _different(*found)
    problems += unsupported(*(training.args for training in found))
    if problems:
        raise InputError(
            f"a joint run does not support these settings: {'; '.join(problems)}",
            file=str(sft),
            remedy="Remove or change them in the files, or write a TOML file of your own.",
        )
    first, second = found
    rows = first.rows(), second.rows()
    processes = setup.launched()
    config = train_config(first.args, second.args, rows, processes=processes)
    counts = updates(first.args, second.args, rows, processes)
    if second.adapter or first.model["path"] != second.model["path"]:
        warnings.warn(
            f"DPO begins with what SFT made ({second.adapter or second.model['path']}); a joint "
            f"run begins where SFT begins, with {first.model['path']}, which is also the reference",
            stacklevel=2,
        )
    for template in sorted({training.template for training in found} - {""}):
        warnings.warn(
            f"template = {template} is not applied: rows go through the chat template of the "
            "tokenizer, or that of --chat-template FILE",
            stacklevel=2,
        )
    train = {k: v for k, v in asdict(config).items() if k not in ("defects", "lora")}
    if "router_aux_loss_coef" not in first.named:
        train["router_loss"] = None  # Older versions of TRL have a default for models with routers.
    train |= {"lora": first.lora} if first.lora else {}
    train |= {"chosen_nll": second.chosen_nll} if second.chosen_nll else {}
    if first.factory:
        # It trains on every turn of the assistant.
        train |= {"chat": True, "turns": first.turns}
    columns = {**first.renamed, **second.renamed}
    held_out = max(first.held_out, second.held_out)
    if first.held_out != second.held_out:
        warnings.warn(
            f"a joint run holds out one share of both sets: {held_out:g}, although the files have "
            f"{first.held_out:g} for SFT and {second.held_out:g} for DPO",
            stacklevel=2,
        )
    return {
        "model": {**second.model, **first.model},
        "data": {
            "sft": first.data,
            "preference": second.data,
            **({"sft_test": first.test} if first.test else {}),
            **({"preference_test": second.test} if second.test else {}),
            **({"columns": columns} if columns else {}),
            **({"limit": first.limit} if first.limit else {}),
            **({"preference_limit": second.limit} if second.limit else {}),
        },
        "schedule": {"name": "alright", "lam": counts[1] / sum(counts)},
        "train": {**train, "holdout": held_out},
    }


def _different(sft: _Training, dpo: _Training) -> Iterator[str]:
    """How model and adapters differ; DPO may begin with the model that SFT made."""
    if sft.lora != dpo.lora:
        yield f"lora is {sft.lora} for SFT and {dpo.lora} for DPO"
    wrong = [sft] if sft.adapter else []
    wrong += [dpo] if dpo.adapter and not sft.made(dpo.adapter) else []
    for training in wrong:
        yield f"{training.file.name}: adapter_name_or_path = {training.adapter!r}"
    first, second = dict(sft.model), dict(dpo.model)
    if sft.made(str(second["path"])):
        second["path"] = first["path"]
    if not ("attention" in first and "attention" in second):  # One of them does not mind.
        first.pop("attention", None)
        second.pop("attention", None)
    if first != second:
        yield (
            f"model is {first} for SFT and {second} for DPO (give both the first one: a joint run "
            "begins where SFT begins)"
        )


class _Training:
    """The settings of one file.

    Parameters
    ----------
    file
        YAML.
    kind
        Configuration class of TRL whose fields the other names are.
    stage
        "sft" or "dpo".
    """

    def __init__(self, file: Path, kind: type[Any], stage: str) -> None:
        from trl import ModelConfig, ScriptArguments  # type: ignore[attr-defined]

        content = _mapping(file)
        self.file, self.stage = file, stage
        self.problems: list[str] = []
        self.factory = "stage" in content
        self.chosen_nll, self.limit, self.held_out = 0.0, None, 0.0
        self.turns, self.columns = "last", dict[str, str]()
        self.adapter = str(content.pop("adapter_name_or_path", None) or "")
        self.template = str(content.get("template") or "") if self.factory else ""
        if self.factory:
            of_factory = FactorySettings(content, file, stage)
            content, self.problems = of_factory.settings, of_factory.problems
            self.chosen_nll, self.limit = of_factory.chosen_nll, of_factory.limit
            self.turns, self.columns = of_factory.turns, of_factory.columns
            self.held_out = of_factory.held_out
        names = {field.name for field in fields(kind)} - {"trust_remote_code", "model_init_kwargs"}
        for old, new in _OLDER.items():
            if old in content and old not in names and not content.get(new):
                content[new] = content.pop(old)
        declared = [field for own in (ScriptArguments, ModelConfig, kind) for field in fields(own)]
        kinds = {field.name: str(field.type) for field in declared if field.name not in _LAUNCHERS}
        content = typed(content, kinds | _KINDS, file, self.problems)
        self.model = self._model(content)
        self.lora = self._lora(content)
        self.data, self.test = self._data(content)
        self._own = {
            Path(str(content[k])).name for k in ("output_dir", "hub_model_id") if k in content
        }
        known = {k: v for k, v in content.items() if k in names - _LAUNCHERS}
        self.named = frozenset(known)
        rest = content.keys() - (names - _LAUNCHERS) - _MODEL - _LORA - _DATA - _SHOWN
        rest -= FREE - {"model_init_kwargs"}
        unchanged = {**_PAST, **(UNCHANGED if self.factory else {})}
        unchanged |= {field.name: field.default for field in fields(ModelConfig)}
        self.problems += [
            hinted(f"{file.name}: {name} = {content[name]!r}", name)
            for name in sorted(rest)
            if content[name] not in (None, "", [], {})
            and content[name] != unchanged.get(name, _ABSENT)
        ]
        if (field := content.get("dataset_text_field", "text")) != "text":
            self.columns["sft.text"] = str(field)
        known.setdefault("output_dir", "tradeoff-train")
        known["report_to"] = known.get("report_to") or "none"
        # transformers rejects bf16, TRL's default, on a machine without a GPU.
        known.setdefault("use_cpu", not torch.accelerator.is_available())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.args = kind(**known)
            except (TypeError, ValueError) as error:
                raise InputError(str(error), file=file, remedy="Correct the file.") from error

    @property
    def renamed(self) -> dict[str, str]:
        """Columns that have another name than in the layouts."""
        return {k: v for k, v in self.columns.items() if k.rpartition(".")[2] != v}

    def made(self, model: str) -> bool:
        """Whether this training writes the model, by the last part of its name."""
        return Path(model).name in self._own

    def rows(self) -> int:
        """Number of training rows, for epochs; rows are not read if updates are given."""
        if self.args.max_steps > 0:
            return 1
        return count(self.data, self.stage, self.columns, self.limit)

    def _model(self, content: Mapping[str, Any]) -> dict[str, Any]:
        if not content.get("model_name_or_path"):
            remedy = "Name the model."
            raise InputError("there is no model_name_or_path", file=self.file, remedy=remedy)
        found = {"path": content["model_name_or_path"]}
        attention = content.get("attn_implementation")
        if attention is not None and attention not in ("auto", "disabled"):
            found["attention"] = {"fa2": "flash_attention_2"}.get(attention, attention)
        bits = content.get("quantization_bit")
        if content.get("load_in_4bit") or bits == 4:
            found["quantise"] = "nf4"
        elif bits is not None:
            self.problems.append(f"{self.file.name}: quantization_bit = {bits}")
        if (revision := content.get("model_revision")) not in (None, "main"):
            text = f"{self.file.name}: model_revision = {revision!r}"
            self.problems.append(hinted(text, "model_revision"))
        dtype = content.get("dtype", content.get("torch_dtype"))
        if dtype not in (None, "auto", "float32") and not (
            content.get("use_peft") and content.get("bf16", True)
        ):
            warnings.warn(f"{self.file.name}: {not_applied(str(dtype))}", stacklevel=4)
        return found

    def _lora(self, content: Mapping[str, Any]) -> dict[str, Any]:
        if not content.get("use_peft"):
            return {}
        targets = content.get("lora_target_modules")
        found = {"rank": content.get("lora_r", 16), "alpha": content.get("lora_alpha", 32)}
        found["dropout"] = content.get("lora_dropout", 0.05)
        found["dora"] = content.get("use_dora", False)
        if targets is None:
            self.problems.append(
                f"{self.file.name}: lora_target_modules is not given, and peft's choice by model "
                "is not repeated here; name them, or all-linear"
            )
        elif targets in ("all-linear", ["all-linear"]):
            found["targets"] = "all-linear"
        else:
            found["targets"] = [targets] if isinstance(targets, str) else list(targets)
        return found

    def _data(self, content: Mapping[str, Any]) -> tuple[str, str | None]:
        mixture, name = content.get("datasets"), content.get("dataset_name")
        if mixture is None and (named := content.get("dataset_mixture")):
            self.problems += [
                f"{self.file.name}: dataset_mixture.{key} = {named[key]!r}"
                for key in sorted(named.keys() - _MIXTURE, key=str)
            ]
            named = typed(named, _KINDS, self.file, self.problems)
            mixture, content = named.get("datasets"), {**content, **named}
        if mixture is not None:
            if name is not None:
                self.problems.append(f"{self.file.name}: dataset_name beside a list of datasets")
            self.held_out = share(content, "test_split_size", self.file, self.problems)
            return self._mixture(mixture), None
        if (size := content.get("test_split_size")) is not None:
            text = f"{self.file.name}: test_split_size = {size:g} without a list of datasets"
            self.problems.append(hinted(text, "test_split_size"))
        if not name:
            text = f"{self.file.name}: there is no {'dataset' if self.factory else 'dataset_name'}"
            self.problems.append(hinted(text, "dataset_name"))
            return "", None
        config = content.get("dataset_config")
        evaluated = content.get("eval_strategy", "no") != "no"
        splits = (Path(name) / "dataset_dict.json").is_file()
        if self.factory or (Path(name).exists() and not splits):
            return name, content.get("dataset_test")
        name = f"{name}:{config}" if config else name
        test = f"{name}@{content.get('dataset_test_split', 'test')}" if evaluated else None
        return f"{name}@{content.get('dataset_train_split', 'train')}", test

    def _mixture(self, parts: Any) -> str:
        """The sources of a mixture, which are read one after the other."""
        if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
            remedy = "List data sets, each with a path."
            raise InputError("this is no list", file=self.file, field="datasets", remedy=remedy)
        return ",".join(self._part(i, part) for i, part in enumerate(parts))

    def _part(self, place: int, part: Mapping[str, Any]) -> str:
        """One data set of a mixture; a share of its rows, and a folder, are not supported."""
        named = f"{self.file.name}: datasets[{place}]"
        unknown = sorted(part.keys() - _PART)
        shares = [k for k in ("fraction", "weight") if part.get(k, 1) not in (1, None)]
        self.problems += [f"{named}.{key} = {part[key]!r}" for key in (*unknown, *shares)]
        path, name = part.get("path", part.get("id")), part.get("name", part.get("config"))
        if path is None:
            remedy = "Give the file or hub name as path."
            raise InputError("there is no path", file=self.file, field="datasets", remedy=remedy)
        files = part.get("data_files")
        if files is not None:
            several = files if isinstance(files, list) else [files]
            if path not in _BUILDERS or not all(isinstance(file, str) for file in several):
                self.problems.append(f"{named}.data_files = {files!r} of {path}")
            return ",".join(map(str, several))
        if Path(path).exists():
            return str(path)
        return f"{path}{f':{name}' if name else ''}@{part.get('split', 'train')}"


def _mapping(file: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    remedy = "Give a YAML file of TRL's command line or of LLaMA-Factory."
    try:
        found = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"it cannot be read: {reason}", file=file, remedy=remedy) from error
    if not isinstance(found, dict):
        raise InputError("it holds no settings", file=file, remedy=remedy)
    return {str(name): value for name, value in found.items()}
