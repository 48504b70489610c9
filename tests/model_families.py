"""Tiny random models of the families of transformers, made from their own configuration classes."""

from __future__ import annotations

from typing import Any

import torch

SIZES: dict[str, Any] = {
    # A configuration knows one of the names of each size; it ignores or stores the others.
    "hidden_size": 16, "n_embd": 16, "d_model": 16, "embed_dim": 16, "embedding_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2,
    "decoder_attention_heads": 2, "attention_types": [[["global"], 2]],
    "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4,
    "intermediate_size": 32, "ffn_dim": 32, "n_inner": 32, "decoder_ffn_dim": 32,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_seq_len": 128,
    "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4,
    "moe_intermediate_size": 16,
}  # fmt: skip
DROPPED = 0.4


def families() -> list[str]:
    """Names of the model types that have a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(family: str, vocabulary: int, dropout: float = DROPPED, **more: Any) -> Any:
    """A causal model of a family in float32, with dropout wherever its configuration has a rate."""
    from transformers import AutoConfig, AutoModelForCausalLM

    known = vars(AutoConfig.for_model(family))
    sizes = {name: value for name, value in SIZES.items() if name in known}
    config = AutoConfig.for_model(family, **sizes, **more, vocab_size=vocabulary)
    for name, value in vars(config).items():
        if "drop" in name and "layer" not in name and type(value) in (int, float):
            setattr(config, name, dropout)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
