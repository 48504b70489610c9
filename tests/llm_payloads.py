"""Model folders that try to run code when they are loaded, for the tests and for the attack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from llm_models import bpe_tokenizer_hf
from llm_runs import trainer
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from tradeoff.llm import models
from tradeoff.llm.config import ModelConfig
from tradeoff.llm.evaluation import reward_model

KERNEL = "someone/kernel"
CODE = ("configuration_mine.py", "modeling_mine.py", "tokenization_mine.py", "mine.py")


def classifier(folder: Path, **settings: Any) -> Path:
    tokenizer = bpe_tokenizer_hf()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, num_labels=1, **sizes, **settings
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit(place: Path, file: str, **entries: Any) -> None:
    path = place / file
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**found, **entries}), "utf-8")


def plant(place: Path, marker: Path) -> None:
    """Put code that touches the marker at every place where a model may have code."""
    (place / "custom_generate").mkdir()
    for name in (*CODE, "custom_generate/generate.py"):
        (place / name).write_text(f"open({str(marker)!r}, 'w').close()\n", "utf-8")


def in_another_file(place: Path) -> None:
    """config.json names a file for this version of transformers."""
    shutil.copy(place / "config.json", place / "config.4.0.0.json")
    edit(place, "config.4.0.0.json", _attn_implementation=KERNEL)
    edit(place, "config.json", configuration_files=["config.4.0.0.json"])


def pickled(place: Path) -> None:
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()


PARTS = {"text_config": {"attn_implementation": {"": "sdpa", "vision": KERNEL}}}
HARMS: dict[str, Any] = {
    "kernel": lambda at: edit(at, "config.json", _attn_implementation=KERNEL),
    "kernel of a name": lambda at: edit(at, "config.json", attn_implementation="kernel:layer"),
    "internal": lambda at: edit(at, "config.json", _attn_implementation_internal=KERNEL),
    "nested": lambda at: edit(at, "config.json", **PARTS),
    "in a list": lambda at: edit(at, "config.json", parts=[{"attn_implementation": KERNEL}]),
    "unknown": lambda at: edit(at, "config.json", _attn_implementation="paged"),
    "experts": lambda at: edit(at, "config.json", _experts_implementation=KERNEL),
    "other file": in_another_file,
    "use_kernels": lambda at: edit(at, "config.json", use_kernels=True),
    "kernel_config": lambda at: edit(at, "config.json", kernel_config={"RMSNorm": KERNEL}),
    "trusted": lambda at: edit(at, "config.json", trust_remote_code=True),
    "generation": lambda at: edit(at, "generation_config.json", custom_generate=KERNEL),
    "generate": lambda at: (at / "custom_generate").mkdir(),
    "tokenizer": lambda at: edit(at, "tokenizer_config.json", trust_remote_code=True),
    "model code": lambda at: edit(
        at, "config.json", model_type="mine", auto_map={"AutoConfig": "configuration_mine.Mine"}
    ),
}


def as_adapters(place: Path) -> Any:
    upon = place.parent / "upon"
    shutil.copytree(place.parent / "adapters", upon)
    edit(upon, "adapter_config.json", base_model_name_or_path=str(place))
    return models.load(ModelConfig(path=str(upon)))


READERS: dict[str, Any] = {
    "policy": lambda place: models.load(ModelConfig(path=str(place))),
    "random": lambda place: models.load(ModelConfig(path=str(place), config_only=True)),
    "reference": lambda place: trainer(steps=1, reference=str(place)).train(progress=False),
    "settings": lambda place: models.without_weights(str(place)),
    "base": as_adapters,
    "judge": reward_model,
}


BAD_ADAPTERS: dict[str, dict[str, Any]] = {
    "imports": {"megatron_config": {"a": 1}, "megatron_core": "mine"},
    "mapping": {"auto_mapping": {"parent_library": "mine", "base_model_class": "Mine"}},
    "cache": {"corda_config": {"cache_file": "cache.bin"}},
    "covariance": {"corda_config": {"covariance_file": "cache.bin"}},
    "others": {"peft_type": "XLORA", "adapters": {"0": "someone/adapters"}},
    "prompts": {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
    "pickled state": {"prompt_tuning_init_state_dict_path": "state.bin"},
}

TEMPLATES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "file": "{% include '/etc/hostname' %}",
    "import": "{% import '/etc/hostname' as stolen %}{{ stolen }}",
    "change": "{{ messages.append(messages[0]) }}",
}
