"""Settings of LLaMA-Factory, by the names of TRL's command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.trl._rows import count, share
from tradeoff.trl._values import typed

NAMES = {
    "cutoff_len": "max_length",
    "pref_beta": "beta",
    "pref_loss": "loss_type",
    "dpo_label_smoothing": "label_smoothing",
    "lora_rank": "lora_r",
    "flash_attn": "attn_implementation",
}
"""Names of LLaMA-Factory, with the equivalent names of TRL."""
_FREE = {
    *("stage", "finetuning_type", "template", "overwrite_cache"),
    *("preprocessing_num_workers", "plot_loss", "dataset", "dataset_dir", "eval_dataset"),
    *("pref_ftx", "lora_target", "max_samples", "val_size", "do_train", "ddp_timeout"),
    *("dataloader_num_workers", "save_only_model", "mask_history", "cache_dir", "hf_hub_token"),
    *("use_fast_tokenizer", "low_cpu_mem_usage", "print_param_status", "use_unsloth_gc"),
    *("enable_liger_kernel", "use_unsloth", "disable_gradient_checkpointing"),
}
_DEFAULTS = {"learning_rate": 5e-5, "logging_steps": 500, "max_length": 2048}
_DEFAULTS |= {"bf16": False}
"""Defaults of LLaMA-Factory that differ from those of TRL."""
_KINDS = {"pref_ftx": "float", "max_samples": "int | None", "val_size": "float"}
_KINDS |= {"lora_rank": "int", "lora_alpha": "int", "lora_target": "str | list"}
_KINDS |= {"mask_history": "bool", "disable_gradient_checkpointing": "bool"}
_KINDS |= dict.fromkeys(("dataset", "eval_dataset"), "str | list") | {"dataset_dir": "str"}
"""Types of its own fields."""
UNCHANGED: dict[str, Any] = {
    # Weights of 4 bits are held so.
    "double_quantization": True, "quantization_type": "nf4", "quantization_method": "bnb",
    "packing": False, "neat_packing": False, "train_on_prompt": False, "mix_strategy": "concat",
    "simpo_gamma": 0.5, "pref_beta": 0.1, "pref_bco_weight": 0.0, "enable_thinking": True,
    "use_rslora": False, "pissa_init": False, "create_new_adapter": False, "pure_bf16": False,
    "resize_vocab": False, "shift_attn": False, "upcast_layernorm": False, "use_galore": False,
    "use_apollo": False, "use_badam": False, "use_llama_pro": False, "use_swanlab": False,
    "split_special_tokens": False, "ignore_pad_token_for_loss": True,
    "predict_with_generate": False,
}  # fmt: skip
"""Fields that files repeat although they have their defaults, which change nothing here."""
_COLUMNS = {
    "sft": {"prompt": "instruction", "query": "input", "response": "output"},
    "preference": {"prompt": "instruction", "query": "input"},
}
_COLUMNS["preference"] |= {name: name for name in ("chosen", "rejected")}
for _own in _COLUMNS.values():
    _own |= {"system": "system", "tools": "tools", "messages": "conversations"}
"""Names of columns in ``dataset_info.json``, with those of the layouts, of both sets."""
_TAGS = {
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant", "chatgpt"),
    "observation_tag": ("observation", "tool", "function_response"),
    "function_tag": ("function_call",),
    "system_tag": ("system",),
}
"""Names of the parts of a message that are read."""
_ENTRY = {"hf_hub_url", "ms_hub_url", "om_hub_url", "file_name", "subset", "split"}
_ENTRY |= {"columns", "tags", "formatting", "ranking", "file_sha1"}
"""Fields of an entry of ``dataset_info.json`` that are used, or have no effect."""


class FactorySettings:
    """The settings of one file of LLaMA-Factory.

    Parameters
    ----------
    content
        What the file holds.
    file, stage
        The file; "sft" or "dpo".

    Attributes
    ----------
    settings
        By the names of TRL.
    chosen_nll, limit, held_out, turns
        Weight of the chosen response's NLL; largest number of rows; share of rows that is held
        out; turns with loss.
    columns
        Columns of the data sets, as ``sft.prompt`` and so on.
    problems
        What is not supported.

    Raises
    ------
    InputError
        If a data set is not registered.
    """

    def __init__(self, content: Mapping[str, Any], file: Path, stage: str) -> None:
        self.file, self.stage = file, stage
        self.problems: list[str] = []
        self.columns: dict[str, str] = {}
        content = typed(content, _KINDS, file, self.problems)
        self.chosen_nll: float = content.get("pref_ftx", 0.0)
        self.limit: int | None = content.get("max_samples")
        self.turns = "last" if content.get("mask_history") else "all"
        self.held_out = share(content, "val_size", file, self.problems)
        self.settings = self._renamed(content)

    def _renamed(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The settings by the names of TRL."""
        name = self.file.name
        if content["stage"] != self.stage:
            self.problems.append(f"{name}: stage = {content['stage']!r} in place of {self.stage!r}")
        tuning = content.get("finetuning_type", "lora")
        if tuning not in ("lora", "full"):
            self.problems.append(f"{name}: finetuning_type = {tuning!r}")
        found: dict[str, Any] = {**_DEFAULTS}
        found["gradient_checkpointing"] = not content.get("disable_gradient_checkpointing", False)
        found |= {NAMES.get(k, k): v for k, v in content.items() if k not in _FREE}
        if tuning == "lora":
            rank = found.get("lora_r", 8)
            targets = content.get("lora_target", "all")
            found |= {"use_peft": True, "lora_r": rank}
            found.setdefault("lora_dropout", 0.0)
            found.setdefault("lora_alpha", 2 * rank)
            found["lora_target_modules"] = "all-linear" if targets == "all" else _listed(targets)
        found["dataset_name"] = self._sources(content, "dataset")
        self._limit_each(found["dataset_name"].split(","))
        if content.get("eval_dataset"):
            found["dataset_test"] = self._sources(content, "eval_dataset")
        return found

    def _limit_each(self, sources: list[str]) -> None:
        """Drop a limit of each of several data sets, if none of them has more rows."""
        if self.limit is None or len(sources) == 1:
            return
        few = all(map(os.path.exists, sources)) and all(
            count(source, self.stage, self.columns) <= self.limit for source in sources
        )
        if few:
            self.limit = None
        else:
            self.problems.append(
                f"{self.file.name}: max_samples = {self.limit}, a limit of each of several data "
                "sets, of which one has more rows or is no file"
            )

    def _sources(self, content: Mapping[str, Any], field: str) -> str:
        """Sources of one or several data sets."""
        names = _listed(content.get(field))
        return ",".join(self._source(content, field, name) for name in names)

    def _source(self, content: Mapping[str, Any], field: str, name: str) -> str:
        """Look up the file or hub name of a data set in ``dataset_info.json``."""
        folder = Path(content.get("dataset_dir", "data"))
        folder = folder if folder.is_absolute() or folder.is_dir() else self.file.parent / folder
        registry = folder / "dataset_info.json"
        if not registry.is_file():
            raise InputError(
                "there is no such file, in which data sets are registered",
                file=registry,
                field=field,
                value=name,
                remedy="Give its folder as dataset_dir, or start in the folder above data.",
            )
        try:
            entry = json.loads(registry.read_text("utf-8"))[name]
            self._entry(name, entry)
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

    def _entry(self, name: str, entry: Mapping[str, Any]) -> None:
        """Take over the names of columns; rows cannot have those of two sets."""
        kind, where = ("sft" if self.stage == "sft" else "preference"), f"dataset_info.json: {name}"
        self.problems += [
            f"{where}: {key} = {entry[key]!r}" for key in sorted(entry.keys() - _ENTRY)
        ]
        self.problems += [
            f"{where}: {tag} = {value!r}"
            for tag, value in (entry.get("tags") or {}).items()
            if value not in _TAGS.get(tag, ())
        ]
        usual = {"prompt": "instruction", "response": "output"}
        usual = {"messages": "conversations"} if entry.get("formatting") == "sharegpt" else usual
        for own, column in (entry.get("columns") or usual).items():
            layout = _COLUMNS[kind].get(own)
            if layout is None and entry.get("columns"):
                self.problems.append(f"{where}: the column {own}")
            elif layout is None or (column == "messages" and kind == "sft"):
                continue  # Messages have two names.
            elif self.columns.setdefault(f"{kind}.{layout}", column) != column:
                self.problems.append(f"{where}: another column {own} than in another data set")


def _listed(given: Any) -> list[str]:
    """The names of one or several data sets."""
    if isinstance(given, str):
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(name) for name in given or ()]
