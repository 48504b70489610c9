"""Adapters of one run in the next: they are trained further or merged, and never silently lost."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import stop_at, trainer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tradeoff import _seals
from tradeoff.errors import InputError
from tradeoff.llm import batches, models
from tradeoff.llm._data import Pair
from tradeoff.llm.config import Lora, ModelConfig
from tradeoff.llm.export import export
from tradeoff.llm.logprobs import Policy

# peft imports from transformers a name that will be removed in version 6.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
RANK_2 = Lora(rank=2)
KINDS = {"lora": RANK_2, "dora": Lora(rank=2, dora=True)}


def log_probs(model: Any) -> torch.Tensor:
    """Log-probabilities of a pair."""
    pair = Pair(torch.arange(3, 12).numpy(), torch.arange(3, 9).numpy(), 3)
    with torch.no_grad():
        return Policy(model.eval()).responses(batches.pairs([pair], "padded", 0))


def load(path: Path) -> Any:
    return models.load(ModelConfig(path=str(path)))[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model with tied weights."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), bpe_tokenizer_hf()
    tiny_llama(len(tokenizer), tie_word_embeddings=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def first(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished run of each kind of adapters."""
    runs = {}
    for name, lora in KINDS.items():
        runs[name] = trainer(
            model=load(base), lora=lora, output=tmp_path_factory.mktemp(name), seed=1
        )
        runs[name].train(progress=False)
    return runs


def held_out(run: Any, row: int) -> list[float]:
    return run.journal.table("evaluation")[["sft_loss"]].iloc[row].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_a_run_loads_as_it_was_trained(first, kind):
    found = load(first[kind].output / "model")
    torch.testing.assert_close(log_probs(found), log_probs(first[kind].model))
    assert not any(weight.requires_grad for weight in found.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_without_settings_the_adapters_of_a_model_go_on(first, base, tmp_path, kind):
    run = trainer(model=load(first[kind].output / "model"), output=tmp_path, seed=1)
    done = run.train(progress=False)
    assert held_out(run, 0) == pytest.approx(held_out(first[kind], -1))
    assert done.summary["adapters"] == "those of the model"
    trained = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    torch.testing.assert_close(log_probs(load(tmp_path / "model")), log_probs(run.model))
    before, after = (
        load_file(place / "model" / "adapter_model.safetensors")
        for place in (first[kind].output, tmp_path)
    )
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_with_settings_they_are_merged_and_new_ones_are_trained(first, tmp_path, kind):
    run = trainer(
        model=load(first[kind].output / "model"), lora=RANK_2, output=tmp_path / "run", seed=1
    )
    done = run.train(progress=False)
    assert held_out(run, 0) == pytest.approx(held_out(first[kind], -1))
    assert done.summary["adapters"] == "new, its own merged into the model"
    # The folder is complete, and may be moved.
    moved = shutil.move(tmp_path / "run" / "model", tmp_path / "moved")
    torch.testing.assert_close(log_probs(load(Path(moved))), log_probs(run.model))


def test_adapters_on_random_weights_do_not_take_a_folder_for_their_base(base, tmp_path):
    model, _ = models.load(ModelConfig(path=str(base), config_only=True), seed=5)
    run = trainer(model=model, lora=RANK_2, output=tmp_path)
    run.train(progress=False)
    torch.testing.assert_close(log_probs(load(tmp_path / "model")), log_probs(run.model))
    named = json.loads((tmp_path / "model" / "adapter_config.json").read_text("utf-8"))
    assert Path(named["base_model_name_or_path"]) == tmp_path / "model" / "base"
    run.train(progress=False)
    assert (tmp_path / "model" / "base").is_dir()


def test_an_adapted_model_can_be_the_reference(first, tmp_path):
    folder = str(first["dora"].output / "model")
    run = trainer(model=load(Path(folder)), reference=folder, steps=1)
    assert run.train(progress=False).table.preference_loss[0] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_when_its_reference_is_gone(first, tmp_path):
    place = tmp_path / "reference"
    shutil.copytree(first["dora"].output / "model", place)
    model, again = load(place), load(place)
    settings = {"reference": str(place), "output": tmp_path / "run", "evaluate_every": 1}
    stop = stop_at(2, signal.SIGTERM)
    assert trainer(model=model, **settings, callbacks=[stop]).train(progress=False).interrupted
    shutil.rmtree(place)
    assert not trainer(model=again, **settings).train(progress=False).interrupted


def test_the_tokenizer_may_be_that_of_the_base(first, base, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(first["lora"].output / "model" / name, tmp_path)
    _, tokenizer = models.load(ModelConfig(path=str(tmp_path)))
    assert tokenizer.get_vocab() == bpe_tokenizer_hf().get_vocab()


def pickled(place: Path) -> None:
    weights = load_file(place / "adapter_model.safetensors")
    torch.save(weights, place / "adapter_model.bin")
    (place / "adapter_model.safetensors").unlink()


def incomplete(place: Path) -> None:
    weights = load_file(place / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, place / "adapter_model.safetensors")


def of_nothing(place: Path) -> None:
    named(place, None)


def of_adapters(place: Path) -> None:
    inner = shutil.copytree(place, place / "inner")
    named(place, str(inner))


def named(place: Path, base: str | None) -> None:
    file = place / "adapter_config.json"
    about = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**about, "base_model_name_or_path": base}), "utf-8")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (pickled, "adapter_model.safetensors"),
        (incomplete, "missing adapter keys"),
        (of_nothing, "no base model"),
        (of_adapters, "no base model"),
    ],
)
def test_adapters_that_cannot_be_loaded_are_named(first, tmp_path, harm, word):
    place = shutil.copytree(first["lora"].output / "model", tmp_path / "model")
    (place / _seals.MANIFEST).unlink()  # as in what others made
    harm(place)
    with pytest.raises(InputError, match="no causal model can be loaded") as error:
        load(place)
    assert word in str(error.value)


@pytest.mark.parametrize("lora", [None, RANK_2])
def test_adapters_that_transformers_put_into_a_model_are_not_lost(first, lora):
    model = AutoModelForCausalLM.from_pretrained(first["lora"].output / "model")
    with pytest.raises(InputError, match=r"PeftModel\.from_pretrained"):
        trainer(model=model, lora=lora)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_tied_weights_of_which_one_has_adapters_are_merged_apart(base, tmp_path, target):
    """Merged into the weight that both share, adapters of one would change the other, too."""
    lora = Lora(rank=2, targets=(target, "q_proj"))
    run = trainer(model=load(base), lora=lora, output=tmp_path / "run", learning_rate=0.1)
    run.train(progress=False)
    expected = log_probs(load(tmp_path / "run"))
    merged = log_probs(models.with_adapters(load(tmp_path / "run"), RANK_2))
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-4)
    export(tmp_path / "run", tmp_path / "whole", merged=True)
    torch.testing.assert_close(log_probs(load(tmp_path / "whole")), expected, rtol=1e-5, atol=1e-4)
    elsewhere = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(log_probs(elsewhere), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Model has `tie_word", "ignore:Setting `save_embedding")
def test_adapters_may_bring_new_tokens(base, tmp_path):
    """peft saves a resized embedding with the adapters, and needs as many rows below them."""
    model = load(base)
    size = models.vocabulary(model)
    model.resize_token_embeddings(size + 3, mean_resizing=False)
    more = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, **more))
    adapted.save_pretrained(tmp_path / "adapters")
    found = load(tmp_path / "adapters")
    assert models.vocabulary(found) == size + 3
    torch.testing.assert_close(log_probs(found), log_probs(adapted))
