"""Models and tokenizers of transformers, from a folder, the hub or a configuration."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from tradeoff.errors import InputError
from tradeoff.llm.config import Lora, ModelConfig
from tradeoff.records import replacing_folder


def load(config: ModelConfig, *, seed: int = 0, frozen_bf16: bool = False) -> tuple[Any, Any]:
    """A causal model and its tokenizer; no code that comes with a model is ever run.

    Parameters
    ----------
    config
        Where it is.
    seed
        Of random weights.
    frozen_bf16
        Load in bf16, for adapters on a frozen model; else in float32.

    Raises
    ------
    InputError
        If the folder or hub name holds no causal model with a tokenizer, or needs code of its own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if frozen_bf16 else torch.float32
    options: dict[str, Any] = {"trust_remote_code": False}
    built = {"dtype": dtype, "attn_implementation": config.attention}
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, **options)
        if config.config_only:
            torch.manual_seed(seed)
            settings = AutoConfig.from_pretrained(config.path, **options)
            model = AutoModelForCausalLM.from_config(settings, **options, **built)
        else:
            with quiet():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    config.path, use_safetensors=True, output_loading_info=True, **options, **built
                )
                model, found = loaded
                _require_all_weights(found["missing_keys"])
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"no causal model can be loaded: {reason}",
            field="path",
            value=config.path,
            remedy="Give a folder or hub name with config.json, tokenizer and safetensors.",
        ) from error
    return model, tokenizer


def _require_all_weights(missing: Iterable[str]) -> None:
    if absent := sorted(missing):
        raise ValueError(f"the files lack {len(absent)} of its weights, such as {absent[0]}")


def with_adapters(model: nn.Module, lora: Lora, *, seed: int = 0) -> Any:
    """The model with low-rank adapters, all else frozen.

    Raises
    ------
    InputError
        If no layer has a target's name.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_dora=lora.dora,
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers by the name that its version 6 drops.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            return get_peft_model(model, settings)
    except ValueError as error:
        names = sorted({n.split(".")[-1] for n, m in model.named_modules() if type(m) is nn.Linear})
        raise InputError(
            "adapters cannot be added",
            field="targets",
            value=targets,
            remedy=f"Use some of {names}.",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers, which show nothing of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save(accelerator: Any, model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder that transformers, or peft for adapters, loads; complete or not at all."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = names - {name for name, _ in model.named_parameters()}
    weights = {k: v for k, v in accelerator.get_state_dict(model).items() if k not in tied}
    if accelerator.is_main_process:
        # peft would look for the embedding of the model it adapts, which has not changed.
        options = {"save_embedding_layers": False} if hasattr(model, "get_base_model") else {}
        with replacing_folder(folder) as partial:
            with quiet():
                model.save_pretrained(partial, state_dict=weights, **options)
            tokenizer.save_pretrained(partial)
    accelerator.wait_for_everyone()
