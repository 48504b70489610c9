"""What some families of transformers have of their own: experts, contexts, weights without use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_models import bpe_tokenizer_hf
from model_families import tiny

from tradeoff import tiny as rows_of
from tradeoff.errors import InputError
from tradeoff.llm import JointTrainer, TrainConfig, models
from tradeoff.llm.config import Lora, ModelConfig
from tradeoff.llm.export import export
from tradeoff.llm.logprobs import Policy
from tradeoff.schedules import Mix

TOKENIZER = bpe_tokenizer_hf()
SFT, PAIRS = rows_of.rows(8)


def trainer(model: Any, output: Path | None = None, **settings: Any) -> JointTrainer:
    usual: dict[str, Any] = {"steps": 2, "batch_size": 2, "max_length": 64, "holdout": 0.0}
    return JointTrainer(
        model,
        TOKENIZER,
        sft=SFT,
        preference=PAIRS,
        schedule=Mix(),
        config=TrainConfig(**{**usual, "learning_rate": 1e-2, "chat": False, **settings}),
        output=output,
    )


def made(family: str, folder: Path, **more: Any) -> Any:
    tiny(family, len(TOKENIZER), dropout=0.0, **more).save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    return models.load(ModelConfig(path=str(folder / "model")))[0]


def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=torch.arange(9)[None], use_cache=False).logits
    return found.detach()


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern")
def test_adapters_on_experts_are_read_back(tmp_path: Path) -> None:
    """peft puts one wrapper into another around the weights of all experts."""
    run = trainer(made("mixtral", tmp_path), tmp_path / "run", lora=Lora(rank=2))
    run.train(progress=False)
    assert any("experts" in name and p.requires_grad for name, p in run.model.named_parameters())
    assert not (tmp_path / "run" / "model" / "base").exists()
    expected = logits(run.model)
    torch.testing.assert_close(
        logits(models.load(ModelConfig(path=str(tmp_path / "run")))[0]), expected
    )
    export(tmp_path / "run", tmp_path / "whole", merged=True)
    found = logits(models.load(ModelConfig(path=str(tmp_path / "whole")))[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_run_resumes_with_weights_that_no_gradient_reaches(tmp_path: Path) -> None:
    """Jamba never calls its projection of the time step, so adapters there are not trained."""

    def fresh(name: str) -> JointTrainer:
        torch.manual_seed(0)
        model = made("jamba", tmp_path, use_mamba_kernels=False)
        return trainer(model, tmp_path / name, lora=Lora(rank=2))

    whole = fresh("whole")
    whole.train(progress=False)
    first = fresh("parts")
    first.begin()
    first.update()
    first.save()
    second = fresh("parts")
    second.train(progress=False)
    found, expected = second.model.state_dict(), whole.model.state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)


def test_packed_rows_longer_than_a_context_that_is_a_mask_are_refused(tmp_path: Path) -> None:
    model = made("gpt_neo", tmp_path)
    assert model.config.max_position_embeddings == 128
    with pytest.raises(InputError, match="does not keep packed sequences apart"):
        trainer(model, layout="packed")
    assert trainer(model, layout="auto").config.layout == "padded"


def test_the_context_of_mpt_has_a_name_of_its_own() -> None:
    model = tiny("mpt", len(TOKENIZER), dropout=0.0)
    assert models.context(model.config) == model.config.max_seq_len == 128
    assert trainer(model, max_length=999).config.max_length == 128


def test_a_sliding_window_of_zero_is_none() -> None:
    model = tiny("qwen2_moe", len(TOKENIZER))
    assert model.config.sliding_window == 0
    assert Policy(model).window is None
    assert trainer(model, layout="shared").config.layout == "shared"


def test_why_peft_adds_no_adapters_is_told() -> None:
    with pytest.raises(InputError, match="incompatible with Mamba") as error:
        trainer(tiny("mamba", len(TOKENIZER)), lora=Lora(rank=2))
    assert "in_proj" in str(error.value)
    assert "base_layer" not in str(error.value)


def changed(folder: Path, **settings: Any) -> ModelConfig:
    file = folder / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | settings), "utf-8")
    return ModelConfig(path=str(folder / "model"))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"pad_token_id": 9999}, "AssertionError: Padding_idx must be within"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "KeyError.*Missing required keys"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"model_type": "t5"}, "a model of the type t5 is an encoder and a decoder"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_error(
    settings: dict[str, Any], match: str, tmp_path: Path
) -> None:
    made("llama", tmp_path)
    with pytest.raises(InputError, match=match):
        models.load(changed(tmp_path, **settings))


def test_pickled_weights_alone_are_named(tmp_path: Path) -> None:
    model = made("llama", tmp_path)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: these weights are pickled"):
        models.load(ModelConfig(path=str(tmp_path / "model")))
