"""Weights of 16 bits are not trained in 16 bits: rounding would lose the updates."""

from __future__ import annotations

import warnings

import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import trainer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tradeoff.errors import RowWarning
from tradeoff.llm import models
from tradeoff.llm.config import Lora, ModelConfig
from tradeoff.llm.export import export

RANK_2 = Lora(rank=2)
HALF = (torch.bfloat16, torch.float16)
SMALL = {"learning_rate": 1e-6, "steps": 2, "evaluate_every": 2}


def kinds(model, trained):
    return {p.dtype for p in model.parameters() if p.requires_grad == trained}


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trained_weights_are_made_float32_and_move(tmp_path, kind, precision):
    tiny_llama(len(bpe_tokenizer_hf())).to(kind).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)  # In the precision of the files.
    assert kinds(model, True) == {kind}
    with pytest.warns(UserWarning, match=f"given as {str(kind)[6:]} are cast to float32"):
        run = trainer(model=model, precision=precision, **SMALL)
    assert kinds(run.model, True) == {torch.float32}
    before = {name: weight.detach().clone() for name, weight in run.model.named_parameters()}
    assert run.train(progress=False).diverged_at is None
    moved = [(weight != before[name]).float() for name, weight in run.model.named_parameters()]
    # All but those of tokens that occur in no row; in bfloat16 it was 2 % of them.
    assert torch.cat([part.flatten() for part in moved]).mean() > 0.6


@pytest.mark.parametrize("kind", HALF)
def test_weights_below_adapters_follow_the_precision(kind):
    model = tiny_llama(len(bpe_tokenizer_hf())).to(kind)
    with pytest.warns(UserWarning, match="are cast to float32"):
        run = trainer(model=model, lora=RANK_2, **SMALL)
    assert kinds(run.model, True) == kinds(run.model, False) == {torch.float32}


def test_bfloat16_below_adapters_stays(recwarn):
    model = tiny_llama(len(bpe_tokenizer_hf())).bfloat16()
    run = trainer(model=model, lora=RANK_2, precision="bf16", **SMALL)
    assert (kinds(run.model, True), kinds(run.model, False)) == ({torch.float32}, {torch.bfloat16})
    assert not [found for found in recwarn if "are cast" in str(found.message)]


def test_float16_below_adapters_becomes_bfloat16():
    model = tiny_llama(len(bpe_tokenizer_hf())).half()
    with pytest.warns(UserWarning, match="float16 are cast to bfloat16"):
        run = trainer(model=model, lora=RANK_2, precision="bf16", **SMALL)
    assert kinds(run.model, False) == {torch.bfloat16}


def test_what_the_package_loads_needs_no_cast(tmp_path):
    tokenizer = bpe_tokenizer_hf()
    tiny_llama(len(tokenizer)).bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for frozen_bf16, settings in ((False, {}), (True, {"lora": RANK_2, "precision": "bf16"})):
        model, _ = models.load(ModelConfig(path=str(tmp_path)), frozen_bf16=frozen_bf16)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", RowWarning)  # Of the rows, not of the weights.
            trainer(model=model, **settings, **SMALL)


@pytest.mark.parametrize("lora", [None, RANK_2])
def test_a_model_is_saved_in_16_bits_where_that_is_asked_for(tmp_path, lora):
    given = {**SMALL, "lora": lora, "save_precision": "bf16"}
    run = trainer("mix", output=tmp_path, **given)
    assert run.train(progress=False).summary["save_precision"] == "bf16"
    name = "model" if lora is None else "adapter_model"
    stored = load_file(tmp_path / "model" / f"{name}.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert kinds(run.model, True) == {torch.float32}, "the policy in memory is not rounded"
    if lora is None:
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert kinds(again, True) == {torch.bfloat16}
    loaded, _ = models.load(ModelConfig(path=str(tmp_path)))
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        expected = run.model.eval()(tokens).logits
        torch.testing.assert_close(loaded.eval()(tokens).logits, expected, rtol=0.02, atol=0.02)


def test_an_exported_model_is_in_the_precision_asked_for(tmp_path):
    trainer("mix", output=tmp_path / "run", **SMALL).train(progress=False)
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        folder = export(tmp_path / "run", tmp_path / precision, precision=precision)
        stored = load_file(folder / "model.safetensors")
        assert {weight.dtype for weight in stored.values()} == {kind}
