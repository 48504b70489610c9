"""Settings of a joint run, from YAML files of TRL's command line or of LLaMA-Factory."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from tradeoff.errors import InputError
from tradeoff.llm import setup
from tradeoff.trl.arguments import hinted, not_applied, train_config, unsupported, updates

_MODEL = {"model_name_or_path", "attn_implementation", "dtype", "torch_dtype", "model_revision"}
_MODEL |= {"load_in_4bit", "quantization_bit", "quantization_method", "use_bnb_nested_quant"}
_LORA = {"use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_dora"}
_LORA |= {"lora_task_type"}
_DATA = {"dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split"}
_DATA |= {"dataset_test", "datasets", "dataset_mixture", "test_split_size"}
_SHOWN = {"trust_remote_code", "env", "ignore_bias_buffers", "dataset_streaming", "streaming"}
_SHOWN |= {"overwrite_output_dir"}
"""Names without effect here. Code of a model is never run, and a model that needs it is refused."""
FACTORY = {
    "cutoff_len": "max_length",
    "pref_beta": "beta",
    "pref_loss": "loss_type",
    "dpo_label_smoothing": "label_smoothing",
    "lora_rank": "lora_r",
    "flash_attn": "attn_implementation",
}
"""Names of LLaMA-Factory, with the equivalent names of TRL."""
_FACTORY_FREE = {
    *("stage", "finetuning_type", "template", "overwrite_cache"),
    *("preprocessing_num_workers", "plot_loss", "dataset", "dataset_dir", "eval_dataset"),
    *("pref_ftx", "lora_target", "max_samples", "val_size", "do_train", "ddp_timeout"),
    *("dataloader_num_workers", "save_only_model", "mask_history", "cache_dir", "hf_hub_token"),
    *("use_fast_tokenizer", "low_cpu_mem_usage", "print_param_status", "use_unsloth_gc"),
    *("enable_liger_kernel", "use_unsloth", "disable_gradient_checkpointing"),
}
_OLDER = {
    "warmup_ratio": "warmup_steps",  # A number below 1 is a share of the updates.
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
}
"""Names in older versions of transformers and TRL, with those of the newest."""
_LAUNCHERS = {"deepspeed", "fsdp", "fsdp_config"}
"""Fields that transformers reads with packages that may be missing."""
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ABSENT = object()
_WORD = re.compile(r"\w+")
_BUILDERS = {"json", "csv", "parquet", "arrow"}
"""Paths of a data set that name the format of its files."""
_PART = {"path", "name", "split", "columns", "data_files", "fraction", "id", "config", "weight"}
"""Fields of a part of a mixture, in the terms of TRL and of the alignment handbook."""
_FACTORY_DEFAULTS = {"learning_rate": 5e-5, "logging_steps": 500, "max_length": 2048}
_FACTORY_DEFAULTS |= {"bf16": False}
"""Defaults of LLaMA-Factory that differ from those of TRL."""
_FACTORY_COLUMNS = {
    "sft": {"prompt": "instruction", "query": "input", "response": "output"},
    "preference": {"prompt": "instruction", "query": "input"},
}
_FACTORY_COLUMNS["preference"] |= {name: name for name in ("chosen", "rejected")}
for _own in _FACTORY_COLUMNS.values():
    _own |= {"system": "system", "tools": "tools", "messages": "conversations"}
"""Names of columns in ``dataset_info.json``, with those of the layouts, of both sets."""
_FACTORY_TAGS = {
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant", "chatgpt"),
    "observation_tag": ("observation", "tool", "function_response"),
    "function_tag": ("function_call",),
    "system_tag": ("system",),
}
"""Names of the parts of a message that are read."""
_FACTORY_ENTRY = {"hf_hub_url", "ms_hub_url", "om_hub_url", "file_name", "subset", "split"}
_FACTORY_ENTRY |= {"columns", "tags", "formatting", "ranking", "file_sha1"}
"""Fields of an entry of ``dataset_info.json`` that are used, or have no effect."""


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
        from trl import ModelConfig  # type: ignore[attr-defined]

        content = _mapping(file)
        self.file, self.stage = file, stage
        self.problems: list[str] = []
        self.factory = "stage" in content
        self.chosen_nll, self.limit, self.held_out = 0.0, None, 0.0
        self.turns, self.columns = "last", dict[str, str]()
        self.adapter = str(content.pop("adapter_name_or_path", None) or "")
        if self.factory:
            content = self._of_factory(content)
        self.model = self._model(content)
        self.lora = self._lora(content)
        self.data, self.test = self._data(content)
        names = {field.name for field in fields(kind)} - {"trust_remote_code", "model_init_kwargs"}
        for old, new in _OLDER.items():
            if old in content and old not in names and not content.get(new):
                content[new] = content.pop(old)
        self._own = {
            Path(str(content[k])).name for k in ("output_dir", "hub_model_id") if k in content
        }
        known = self._read(kind, {k: v for k, v in content.items() if k in names - _LAUNCHERS})
        self.named = frozenset(known)
        rest = content.keys() - (names - _LAUNCHERS) - _MODEL - _LORA - _DATA - _SHOWN
        unchanged: dict[str, Any] = {"double_quantization": True}  # Weights of 4 bits are held so.
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
        known.setdefault("report_to", "none")
        # transformers rejects bf16, TRL's default, on a machine without a GPU.
        known.setdefault("use_cpu", not torch.accelerator.is_available())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.args = kind(**known)
            except (TypeError, ValueError) as error:
                raise InputError(str(error), file=file, remedy="Correct the file.") from error

    def _read(self, kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The values, with texts as the numbers that YAML does not see in them, such as 2e-5.

        The command line of TRL reads them likewise, by the type of the field.
        """
        read = dict(given)
        for field in fields(kind):
            text, kinds = given.get(field.name), set(_WORD.findall(str(field.type)))
            if not isinstance(text, str) or "str" in kinds or not kinds & {"bool", "int", "float"}:
                continue
            try:
                if "bool" in kinds:
                    read[field.name] = _TRUTH[text.strip().lower()]
                else:
                    number = float(text)
                    read[field.name] = int(number) if number.is_integer() else number
            except (KeyError, ValueError, OverflowError):
                self.problems.append(f"{self.file.name}: {field.name} = {text!r}")
                del read[field.name]
        return read

    @property
    def renamed(self) -> dict[str, str]:
        """Columns that have another name than in the layouts."""
        return {k: v for k, v in self.columns.items() if k.rpartition(".")[2] != v}

    def made(self, model: str) -> bool:
        """Whether this training writes the model, by the last part of its name."""
        return Path(model).name in self._own

    def rows(self) -> int:
        """Number of training rows, for epochs; rows are not read if updates are given."""
        return 1 if self.args.max_steps > 0 else self._count(self.data, self.limit)

    def _count(self, source: str, limit: int | None = None) -> int:
        """Number of rows of a source."""
        from tradeoff.data import read_preferences, read_sft

        read = read_sft if self.stage == "sft" else read_preferences
        columns = {key.rpartition(".")[2]: column for key, column in self.renamed.items()}
        return len(read(source, limit=limit, columns=columns))

    def _model(self, content: Mapping[str, Any]) -> dict[str, Any]:
        if "model_name_or_path" not in content:
            remedy = "Name the model."
            raise InputError("there is no model_name_or_path", file=self.file, remedy=remedy)
        found = {"path": str(content["model_name_or_path"])}
        attention = content.get("attn_implementation")
        if attention is not None and attention not in ("auto", "disabled"):
            found["attention"] = {"fa2": "flash_attention_2"}.get(attention, attention)
        bits = content.get("quantization_bit")
        if content.get("load_in_4bit") or bits == 4:
            found["quantise"] = "nf4"
        elif bits is not None:
            self.problems.append(f"{self.file.name}: quantization_bit = {bits}")
        if content.get("model_revision") not in (None, "main"):
            self.problems.append(f"{self.file.name}: model_revision")
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
        rank = int(content.get("lora_r", 16))
        found: dict[str, Any] = {"rank": rank, "alpha": int(content.get("lora_alpha", 32))}
        found["dropout"] = float(content.get("lora_dropout", 0.05))
        found["dora"] = bool(content.get("use_dora", False))
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
        mixture = content.get("datasets")
        if mixture is None and isinstance(content.get("dataset_mixture"), Mapping):
            content = {**content, **content["dataset_mixture"]}
            mixture = content.get("datasets")
        if mixture is not None:
            return self._mixture(mixture, content.get("test_split_size")), None
        name, config = content.get("dataset_name"), content.get("dataset_config")
        if name is None:
            remedy = "Name one data set, or several as the list `datasets`."
            raise InputError("there is no dataset_name", file=self.file, remedy=remedy)
        name = str(name)
        evaluated = content.get("eval_strategy", "no") not in ("no", False)
        splits = (Path(name) / "dataset_dict.json").is_file()
        if self.factory or (Path(name).exists() and not splits):
            return name, content.get("dataset_test")
        name = f"{name}:{config}" if config else name
        test = f"{name}@{content.get('dataset_test_split', 'test')}" if evaluated else None
        return f"{name}@{content.get('dataset_train_split', 'train')}", test

    def _mixture(self, parts: Any, held_out: Any) -> str:
        """The sources of a mixture, which are read one after the other."""
        if held_out is not None:
            self._hold_out("test_split_size", float(held_out))
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

    def _hold_out(self, name: str, size: float) -> None:
        """Hold out a share of the rows; a number of rows is not supported."""
        if size >= 1:
            self.problems.append(f"{self.file.name}: {name} = {size:g} rows; give a share")
        else:
            self.held_out = size

    # ------------------------------------------------------------------ LLaMA-Factory

    def _of_factory(self, content: dict[str, Any]) -> dict[str, Any]:
        """Rename the settings to the names of TRL."""
        name = self.file.name
        if content["stage"] != self.stage:
            self.problems.append(f"{name}: stage = {content['stage']!r} in place of {self.stage!r}")
        self.chosen_nll = float(content.get("pref_ftx", 0.0))
        self.limit = content.get("max_samples")
        self.turns = "last" if content.get("mask_history") else "all"
        self._hold_out("val_size", float(content.get("val_size", 0.0)))
        tuning = content.get("finetuning_type", "lora")
        if tuning not in ("lora", "full"):
            self.problems.append(f"{name}: finetuning_type = {tuning!r}")
        found: dict[str, Any] = {**_FACTORY_DEFAULTS}
        found["gradient_checkpointing"] = not content.get("disable_gradient_checkpointing", False)
        found |= {FACTORY.get(k, k): v for k, v in content.items() if k not in _FACTORY_FREE}
        if tuning == "lora":
            rank = int(found.get("lora_r", 8))
            targets = content.get("lora_target", "all")
            named = targets.split(",") if isinstance(targets, str) else list(targets)
            found |= {"use_peft": True, "lora_r": rank}
            found.setdefault("lora_dropout", 0.0)
            found.setdefault("lora_alpha", 2 * rank)
            found["lora_target_modules"] = (
                "all-linear" if targets == "all" else [part.strip() for part in named]
            )
        found["dataset_name"] = self._factory_files(content, "dataset")
        self._limit_each(found["dataset_name"].split(","))
        if content.get("eval_dataset"):
            found["dataset_test"] = self._factory_files(content, "eval_dataset")
        return found

    def _limit_each(self, sources: list[str]) -> None:
        """Drop a limit of each of several data sets, if none of them has more rows."""
        if self.limit is None or len(sources) == 1:
            return
        few = all(map(os.path.exists, sources)) and all(
            self._count(source) <= self.limit for source in sources
        )
        if few:
            self.limit = None
        else:
            self.problems.append(
                f"{self.file.name}: max_samples = {self.limit}, a limit of each of several data "
                "sets, of which one has more rows or is no file"
            )

    def _factory_files(self, content: Mapping[str, Any], field: str) -> str:
        """Sources of one or several data sets."""
        names = _names(content.get(field))
        return ",".join(self._factory_file(content, field, name) for name in names)

    def _factory_file(self, content: Mapping[str, Any], field: str, name: str) -> str:
        """Look up the file or hub name of a data set in ``dataset_info.json``."""
        folder = Path(content.get("dataset_dir", self.file.parent / "data"))
        folder = folder if folder.is_absolute() or folder.is_dir() else self.file.parent / folder
        registry = folder / "dataset_info.json"
        try:
            entry = json.loads(registry.read_text("utf-8"))[name]
            self._factory_entry(name, entry)
            if "file_name" in entry:
                return str(folder / entry["file_name"])
            subset = f":{entry['subset']}" if entry.get("subset") else ""
            return f"{entry['hf_hub_url']}{subset}@{entry.get('split', 'train')}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "no data set of this name is registered with a file or a hub name",
                file=registry,
                field=field,
                value=name,
                remedy="Name data sets of dataset_info.json in dataset_dir, with commas between.",
            ) from error

    def _factory_entry(self, name: str, entry: Mapping[str, Any]) -> None:
        """Take over the names of columns; rows cannot have those of two sets."""
        kind, where = ("sft" if self.stage == "sft" else "preference"), f"dataset_info.json: {name}"
        self.problems += [
            f"{where}: {key} = {entry[key]!r}" for key in sorted(entry.keys() - _FACTORY_ENTRY)
        ]
        self.problems += [
            f"{where}: {tag} = {value!r}"
            for tag, value in (entry.get("tags") or {}).items()
            if value not in _FACTORY_TAGS.get(tag, ())
        ]
        usual = {"prompt": "instruction", "response": "output"}
        usual = {"messages": "conversations"} if entry.get("formatting") == "sharegpt" else usual
        for own, column in (entry.get("columns") or usual).items():
            layout = _FACTORY_COLUMNS[kind].get(own)
            if layout is None and entry.get("columns"):
                self.problems.append(f"{where}: the column {own}")
            elif layout is None or (column == "messages" and kind == "sft"):
                continue  # Messages have two names.
            elif self.columns.setdefault(f"{kind}.{layout}", column) != column:
                self.problems.append(f"{where}: another column {own} than in another data set")


def _names(given: Any) -> list[str]:
    """The names of one or several data sets."""
    if isinstance(given, str):
        return [name.strip() for name in given.split(",")]
    return [str(name) for name in given or ()]


def _mapping(file: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    remedy = "Give a YAML file of TRL's command line or of LLaMA-Factory."
    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"it cannot be read: {reason}", file=file, remedy=remedy) from error
    if not isinstance(found, dict):
        raise InputError("it holds no settings", file=file, remedy=remedy)
    return found
