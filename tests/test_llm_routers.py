"""The load-balancing loss of mixtures of experts equals that of transformers, and is a setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf
from llm_runs import begin, trainer
from transformers import MixtralConfig, MixtralForCausalLM

from tradeoff.errors import InputError
from tradeoff.llm import batches, routers
from tradeoff.schedules import Alright, Mix

VOCABULARY = len(bpe_tokenizer_hf())


def mixture() -> MixtralForCausalLM:
    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        sliding_window=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return MixtralForCausalLM(config)


def run(schedule: Any, **settings: Any) -> Any:
    return begin(trainer(schedule, model=mixture(), **{"layout": "padded", **settings}))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_balance_is_that_of_transformers(layout: str) -> None:
    made = run(Mix(lam=0.5), router_loss=0.1, layout=layout)
    items = made.data.preference[:3]
    made.policy(batches.pairs(items, layout, 0))
    found = made._bare.balance
    padded = batches.pairs(items, "padded", 0)
    mask = routers.used(padded).view_as(padded.tokens)
    assert not mask.all()
    expected = made.model(padded.tokens, attention_mask=mask.long(), output_router_logits=True)
    torch.testing.assert_close(found, expected.aux_loss, rtol=1e-5, atol=1e-6)
    assert found.requires_grad


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_its_gradient_is_added_and_known_losses_go_without(lam: float) -> None:
    losses, gradients = [], []
    for weight in (None, 0.5):
        made = run(Alright(lam=lam), router_loss=weight, rows_per_forward=4)
        passes = made.feed.passes(0, made.plan.rule, made._follow)
        losses.append(float(made._backward(passes)[int(lam)]))
        gradients.append(gradient(made))
    assert losses[0] == losses[1]
    made.model.zero_grad()
    items = [made.data.training(int(lam))[i] for i in passes[0].rows]
    make: Any = batches.pairs if lam else batches.demonstrations
    made.policy(make(items, "padded", 0))
    (0.5 * made._bare.balance).backward()
    added = gradient(made)
    assert float(added.abs().max()) > 1e-4
    torch.testing.assert_close(gradients[1] - gradients[0], added, rtol=1e-3, atol=1e-6)


def gradient(made: Any) -> torch.Tensor:
    parts = [p.grad for p in made.model.parameters()]
    given = zip(parts, made.model.parameters(), strict=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in given]
    )


@pytest.mark.slow
def test_training_with_it_spreads_tokens_more_evenly() -> None:
    ends = []
    for weight in (None, 10.0):
        made = run(Mix(lam=0.5), router_loss=weight, steps=8, learning_rate=3e-3)
        made.train(progress=False)
        made._bare.experts = 2
        made.policy(batches.pairs(made.data.preference[:8], "padded", 0))
        ends.append(float(made._bare.balance.detach()))
        held_out = made.evaluate()["sft_loss"]
        assert np.isfinite(held_out)
    assert ends[1] < ends[0]


def test_a_model_without_routers_is_refused() -> None:
    with pytest.raises(InputError, match="no routers"):
        trainer(router_loss=0.1)
    assert routers.experts_per_token(mixture()) == 2
