"""A model that looks ahead, or into other rows of a pass, is refused before training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf
from llm_runs import preference_rows, sft_rows
from model_families import tiny

from tradeoff.errors import InputError
from tradeoff.llm import JointTrainer, TrainConfig, _sight, varlen
from tradeoff.llm._data import Pair
from tradeoff.llm.logprobs import Policy
from tradeoff.schedules import Mix

PAIRS = [
    Pair(np.array([5, 6, 7, 8, 9]), np.array([5, 6, 7, 3]), 3),
    Pair(np.array([9, 4, 3]), np.array([9, 5, 2, 8]), 1),
]


def policy(family: str, scale: float = 8.0) -> Policy:
    """A random model with weights so large that what it attends to shows."""
    model = tiny(family, 32, dropout=0.0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale if weight.ndim > 1 else 1.0)
    return Policy(model)


@pytest.mark.parametrize("family", ["bert", "xlnet", "cpmant"])
def test_a_model_that_looks_ahead_is_refused(family: str) -> None:
    with pytest.raises(InputError, match=f"later tokens.*{family}"):
        _sight.check_causal(policy(family))


@pytest.mark.parametrize("family", ["llama", "bloom", "mamba", "gpt_oss"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_causal_model_is_not(family: str, kind: torch.dtype) -> None:
    model = policy(family).to(kind)
    attention = model.attention
    _sight.check_causal(model)
    assert model.attention == attention


def test_a_trainer_checks_it() -> None:
    tokenizer = bpe_tokenizer_hf()
    rows = {"sft": sft_rows(8), "preference": preference_rows(8)}
    with pytest.raises(InputError, match="is_decoder"):
        JointTrainer(
            tiny("bert", len(tokenizer)), tokenizer, **rows, schedule=Mix(),
            config=TrainConfig(max_length=64),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "fits"),
    # Doge adds its own mask, OPT counts positions from the mask, Mamba multiplies by it.
    [("llama", True), ("falcon", True), ("doge", False), ("opt", False), ("mamba", False)],
)
def test_attention_by_bounds_is_compared_with_eager_attention(family: str, fits: bool) -> None:
    varlen.register()
    model = policy(family)
    model.model.set_attn_implementation("varlen")
    if fits:
        _sight.check_varlen(model, PAIRS)
        return
    with pytest.raises(InputError, match="mask or a bias"):
        _sight.check_varlen(model, PAIRS)


@pytest.mark.parametrize(
    ("family", "scale", "leaks"),
    [
        ("llama", 8.0, False),
        ("mixtral", 8.0, False),
        ("inkling_text", 8.0, True),
        # With its first weights, the state of a recurrent layer is too small to show.
        ("jamba", 1.0, True),
    ],
)
def test_state_that_passes_to_the_next_row_is_found(family: str, scale: float, leaks: bool) -> None:
    for layout in ("packed", "shared"):
        assert _sight.leaks(policy(family, scale), PAIRS, layout) == leaks  # type: ignore[arg-type]
