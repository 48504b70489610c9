"""The last layer of a language model is the policy of the convex laboratory: whole runs agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from scipy import sparse

from tradeoff.convex import LogLinear
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.llm.batches import Batch, Layout, collate
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.trainer import JointTrainer
from tradeoff.methods import Method, find
from tradeoff.methods.gradients import Seen
from tradeoff.schedules import Mix, Sequential

BETA, RATE, STEPS, LAM = 0.3, 0.5, 6, 0.3
PROMPTS, ANSWERS = ("Ask 1:", "Ask 2:", "Ask 3:"), ("x", "y", "z")
DEMONSTRATED, PREFERRED = (0, 1, 2, 2), ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1))
"""Prompt of each demonstration, whose answer has the same number; (prompt, chosen, rejected)."""


def last_layer_only() -> Any:
    """A random Llama whose output matrix alone is trained."""
    model = tiny_llama(
        len(bpe_tokenizer_hf()), hidden_size=8, num_attention_heads=2, tie_word_embeddings=False
    )
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    return model


def tokens(text: str) -> list[int]:
    return list(bpe_tokenizer_hf()(text)["input_ids"])


def without_ends(items: Sequence[Any], layout: Layout, pad: int) -> Batch:
    """Batches of responses of one token: the end-of-text token of each is dropped."""
    names = ("tokens",) if hasattr(items[0], "tokens") else ("chosen", "rejected")
    short = [replace(row, **{name: getattr(row, name)[:-1] for name in names}) for row in items]
    return collate(short, layout, pad)


def trained(method: Any) -> np.ndarray:
    """Output matrix after full-batch steps of the trainer."""
    sft = tuple(SftRow(PROMPTS[i], ANSWERS[i]) for i in DEMONSTRATED)
    pairs = tuple(PreferenceRow(PROMPTS[i], ANSWERS[a], ANSWERS[b]) for i, a, b in PREFERRED)
    config = TrainConfig(
        steps=STEPS, batch_size=4, rows_per_forward=4, learning_rate=RATE, beta=BETA, clip=None,
        weight_decay=0.0, chat=False, fsync=False,
    )  # fmt: skip
    run = JointTrainer(
        last_layer_only(), bpe_tokenizer_hf(), sft=sft, preference=pairs, sft_test=sft,
        preference_test=pairs, schedule=method, config=config,
        optimizer=lambda groups, _: torch.optim.SGD(groups), collator=without_ends,
    )  # fmt: skip
    run.train()
    return run.model.lm_head.weight.detach().double().numpy()


def problem() -> LogLinear:
    """The same rows with all tokens as responses, and hidden states as features."""
    model = last_layer_only()
    with torch.no_grad():
        states = [
            model.model(torch.tensor([tokens(text)])).last_hidden_state[0, -1].double().numpy()
            for text in PROMPTS
        ]
    start = model.lm_head.weight.detach().double().numpy()
    size = len(start)
    row = [[i * size + tokens(answer)[-1] for answer in ANSWERS] for i in range(len(PROMPTS))]
    return LogLinear(
        features=sparse.vstack([sparse.kron(sparse.eye(size), h[None]) for h in states]).tocsr(),
        offsets=np.arange(len(PROMPTS) + 1) * size,
        demonstrations=np.array([row[i][i] for i in DEMONSTRATED]),
        chosen=np.array([row[i][a] for i, a, _ in PREFERRED]),
        rejected=np.array([row[i][b] for i, _, b in PREFERRED]),
        radius=1e3,
        beta=BETA,
        reference=start.ravel(),
    )


def descended(method: Method) -> np.ndarray:
    """End of the same steps with the gradients of the convex problem."""
    convex, state = problem(), method.gradient.start(())
    theta = np.array(convex.reference)
    for step in range(STEPS):
        # The trainer divides by the tokens of the rows: an end that a collator drops counts, too.
        gradients = convex.gradients(theta) * [[0.5], [1.0]]
        if isinstance(method.schedule, Sequential):
            factors = np.array([1.0, 0.0] if step < STEPS / 2 else [0.0, 1.0])
        else:
            weights = np.array([1 - LAM, LAM])
            seen = Seen(gradients @ gradients.T, weights, np.zeros(2))
            factors, state = method.gradient.factors(seen, state)
        theta = theta - RATE * factors @ gradients
    return theta.reshape(-1, 8)


@pytest.mark.parametrize("name", ["mix", "sft-dpo", "mix+cagrad", "mix+pcgrad"])
def test_a_last_layer_ends_where_the_convex_problem_does(name):
    method = {"mix": Method(Mix(lam=LAM)), "sft-dpo": Method(Sequential(share=0.5))}.get(name)
    method = method or find(name, LAM)
    start = last_layer_only().lm_head.weight.detach().double().numpy()
    found, expected = trained(method), descended(method)
    assert np.abs(expected - start).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-5)
