"""Dropout is off in preference losses, for every model family; elsewhere it is a setting."""

import copy
import math

import pytest
import torch
from llm_models import bpe_tokenizer_hf
from model_families import DROPPED, families, tiny

from tradeoff import Alright
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.llm import JointTrainer, TrainConfig
from tradeoff.llm._dropout import Dropout
from tradeoff.llm.config import Lora
from tradeoff.schedules import PREFERENCE, SFT

DEMONSTRATIONS = [SftRow(f"question {i}", f" answer {i}") for i in range(12)]
PAIRS = [PreferenceRow(f"question {i}", f" good {i}", " no") for i in range(12)]
SOME = ("gpt2", "opt", "bloom", "gpt_neo", "gpt_neox", "falcon", "mpt", "phi", "biogpt", "llama")


def first_losses(model, *, lam=1.0, **settings):
    tokenizer = bpe_tokenizer_hf()
    config = TrainConfig(
        steps=1, batch_size=4, max_length=32, log_every=1, beta=1.0, layout="padded", **settings
    )
    rows = {"sft": DEMONSTRATIONS, "preference": PAIRS}
    trainer = JointTrainer(model, tokenizer, schedule=Alright(lam=lam), config=config, **rows)
    return trainer.train(progress=False).log.iloc[0]


@pytest.mark.parametrize("family", SOME)
def test_the_first_preference_loss_is_log_two(family):
    assert family in families()
    model = tiny(family, len(bpe_tokenizer_hf()))
    assert first_losses(model)["preference/loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_dropout_moves_the_first_loss_where_it_is_asked_for():
    model = tiny("gpt2", len(bpe_tokenizer_hf()))
    moved = first_losses(copy.deepcopy(model), dropout="always")["preference/loss"]
    assert abs(moved - math.log(2)) > 1e-3
    kept, never = (first_losses(copy.deepcopy(model), lam=0.0, dropout=w) for w in ("sft", "never"))
    assert kept["sft/loss"] != never["sft/loss"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_that_run_again_have_no_dropout_either(checkpointing):
    model = tiny("gpt2", len(bpe_tokenizer_hf()))
    plain = tiny("gpt2", len(bpe_tokenizer_hf()), dropout=0.0)
    found = first_losses(model, gradient_checkpointing=checkpointing)
    expected = first_losses(plain, gradient_checkpointing=checkpointing)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)


def test_adapters_have_their_dropout_in_demonstrations_only():
    lora = Lora(rank=4, dropout=0.5, targets=("q_proj",))
    model = tiny("llama", len(bpe_tokenizer_hf()))
    assert first_losses(model, lora=lora)["preference/loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_rates_are_as_before_when_a_pass_ends():
    model = tiny("opt", 64).train()
    tokens = torch.tensor([[0, 5, 6, 7]])
    rates = [
        (name, getattr(m, "p", None), getattr(m, "dropout", None))
        for name, m in model.named_modules()
    ]
    assert any(DROPPED in rate for rate in rates)
    dropout = Dropout(model)
    with torch.no_grad():
        with dropout.off():
            assert torch.equal(model(tokens).logits, model(tokens).logits)
        assert not torch.equal(model(tokens).logits, model(tokens).logits)
        with pytest.raises(RuntimeError), dropout.during(PREFERENCE, "sft"):
            raise RuntimeError
        with dropout.during(SFT, "sft"):
            assert not torch.equal(model(tokens).logits, model(tokens).logits)
    assert rates == [
        (name, getattr(m, "p", None), getattr(m, "dropout", None))
        for name, m in model.named_modules()
    ]


@pytest.mark.parametrize("family", ["mixtral", "minimax", "phimoe"])
def test_routers_choose_experts_without_noise(family):
    """The noise of a router is not in the reference either; in Phi's it is also a threshold."""
    noise = {"router_jitter_noise": 0.5}
    if family == "phimoe":
        noise["input_jitter_noise"] = 0.5
    model = tiny(family, len(bpe_tokenizer_hf()), **noise)
    assert first_losses(model)["preference/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert all(module.training for module in model.modules())
