"""Adapters on weights of 4 bits: with bitsandbytes they train, without it an error says so."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import trainer

from tradeoff import experiment
from tradeoff.errors import InputError
from tradeoff.llm import Lora, _pretrained, models
from tradeoff.llm.config import ModelConfig

needs_package = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs: pip install bitsandbytes"
)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    tokenizer = bpe_tokenizer_hf()
    model = tiny_llama(len(tokenizer), hidden_size=64, intermediate_size=64)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_without_the_package_that_is_said(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pretrained, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install bitsandbytes") as error:
        models.load(ModelConfig(path=folder, quantise="nf4"))
    assert error.value.field == "quantise"


def test_what_cannot_be_quantised_is_refused(folder: str) -> None:
    with pytest.raises(InputError, match="not quantised"):
        models.load(ModelConfig(path=folder, quantise="nf4", config_only=True))
    settings = experiment.settings(None, {"model.path": folder, "model.quantise": "nf4"})
    with pytest.raises(InputError, match="--lora-rank"):
        experiment.prepare(settings, {}, None)


@needs_package
@pytest.mark.filterwarnings("ignore:bitsandbytes")
def test_adapters_train_upon_rounded_weights(folder: str, tmp_path: Path) -> None:
    model, _ = models.load(ModelConfig(path=folder, quantise="nf4"), frozen_bf16=True)
    assert torch.uint8 in {p.dtype for p in model.parameters()}
    run = trainer(
        "mix", model=model, output=tmp_path / "run", precision="bf16", lora=Lora(rank=4), steps=4
    )
    table = run.train(progress=False).table
    assert table.preference_loss.iloc[-1] < table.preference_loss.iloc[0]
    place = ModelConfig(path=str(tmp_path / "run"), quantise="nf4")
    again, _ = models.load(place, frozen_bf16=True)
    tokens = torch.arange(8)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        kept = run.model.eval()(tokens).logits
        found = again.eval()(tokens).logits
        torch.testing.assert_close(found, kept, rtol=0.02, atol=0.01)  # bf16
