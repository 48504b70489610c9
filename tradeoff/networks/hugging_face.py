"""The small language model as a Llama of transformers, and back.

`LlamaForCausalLM` and `PreTrainedTokenizerFast` load the folder, so the LLM trainer can start from
exactly the weights that were trained here. Writing the folder does not need transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tradeoff.data.tokenizer import CHAT_TEMPLATE, EOS, PAD, Tokenizer
from tradeoff.errors import InputError
from tradeoff.extras import require
from tradeoff.networks.checkpoints import fill, read_json, read_weights, write_folder
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig


def to_hugging_face(
    model: LanguageModel, tokenizer: Tokenizer, folder: str | PathLike[str]
) -> None:
    """Write a folder for `LlamaForCausalLM` and `PreTrainedTokenizerFast`, without transformers.

    Parameters
    ----------
    model
        The model; its logits and those of the loaded Llama agree up to rounding.
    tokenizer
        Its tokenizer, with no more tokens than the model scores.
    folder
        Folder to write. A new folder appears only when it is complete; other files in it stay.

    Raises
    ------
    InputError
        If the tokenizer has more tokens than the model.
    """
    if len(tokenizer) > model.config.vocabulary:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, more than the model scores",
            field="vocabulary",
            value=model.config.vocabulary,
            remedy="Export the tokenizer that the model was trained with.",
        )
    state = {_llama_name(name): weight for name, weight in model.state_dict().items()}
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    files = {
        "config.json": _llama_config(model.config, tokenizer) | {"dtype": dtype},
        "generation_config.json": {"eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "pad_token": PAD,
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": model.config.context,
            "clean_up_tokenization_spaces": False,
        },
        "tokenizer.json": json.loads(tokenizer.engine.to_str()),
    }
    write_folder(folder, state, files)


def from_hugging_face(folder: str | PathLike[str]) -> tuple[LanguageModel, Tokenizer]:
    """Read a Llama folder as `to_hugging_face` writes it, also after training by transformers.

    Raises
    ------
    InputError
        If a file is absent or damaged, or the Llama uses a feature that our model lacks: fewer key
        heads than query heads, biases, another activation, or scaled rotary positions.
    """
    folder = Path(folder)
    found = read_json(folder / "config.json")
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    expected = {
        "model_type": "llama",
        "num_key_value_heads": found.get("num_attention_heads"),
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    }
    differing = {k: found[k] for k, v in expected.items() if k in found and found[k] != v}
    if rope.get("rope_type", "default") != "default":
        differing["rope_type"] = rope["rope_type"]
    if differing:
        remedy = "Train it with tradeoff.llm, which takes any causal model of transformers."
        raise InputError(
            "this Llama uses what the small model lacks",
            file=str(folder / "config.json"),
            value=differing,
            remedy=remedy,
        )
    weights = {_own_name(name): weight for name, weight in read_weights(folder).items()}
    config = _own_config(found, rope, folder)
    return fill(config, weights, folder), Tokenizer.load(folder / "tokenizer.json")


def load_llama(folder: str | PathLike[str]) -> Any:
    """Load the folder as `transformers.LlamaForCausalLM`, from the disk only.

    Raises
    ------
    InputError
        If transformers is not installed, or cannot load the folder.
    """
    require("llm", "transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = {"attn_implementation": "sdpa", "trust_remote_code": False}
    try:
        config = LlamaConfig.from_pretrained(str(folder), local_files_only=True)
        # Names in the folder could be fetched from a hub.
        config._attn_implementation = "sdpa"
        return LlamaForCausalLM.from_pretrained(
            str(folder), config=config, local_files_only=True, use_safetensors=True, **options
        )
    except Exception as error:  # transformers, safetensors and torch raise errors of many types
        raise InputError(
            f"no Llama can be loaded: {type(error).__name__}: {error}",
            file=str(folder),
            remedy="Give a folder with config.json and model.safetensors.",
        ) from error


def _llama_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _own_name(name: str) -> str:
    return name.removeprefix("model.")


def _llama_config(config: LanguageModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.width // config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        # transformers 5 reads the first entry, transformers 4 the second.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.theta},
        "rope_theta": config.theta,
        "rms_norm_eps": config.epsilon,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
    }


def _own_config(
    found: Mapping[str, Any], rope: Mapping[str, Any], folder: Path
) -> LanguageModelConfig:
    try:
        return LanguageModelConfig(
            vocabulary=found["vocab_size"],
            width=found["hidden_size"],
            layers=found["num_hidden_layers"],
            heads=found["num_attention_heads"],
            hidden=found["intermediate_size"],
            context=found["max_position_embeddings"],
            tied=found.get("tie_word_embeddings", False),
            theta=float(rope.get("rope_theta", found.get("rope_theta", 10_000.0))),
            epsilon=found["rms_norm_eps"],
        )
    except KeyError as error:
        remedy = "Give the folder of a Llama."
        problem = "the configuration is incomplete"
        file = str(folder / "config.json")
        raise InputError(problem, file=file, field=str(error.args[0]), remedy=remedy) from error
