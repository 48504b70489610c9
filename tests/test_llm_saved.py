"""The saved policy is the trained one: every kind of output has its losses after loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import cases, trainer
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from tradeoff.llm import _origin, models
from tradeoff.llm.config import Lora
from tradeoff.llm.evaluation import load

# peft imports from transformers a name that will be removed in version 6.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
RANK_2 = Lora(rank=2)
Made = tuple[Any, dict[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model."""
    return write(tmp_path_factory.mktemp("base"))


def write(folder: Path, **settings: Any) -> Path:
    tokenizer = bpe_tokenizer_hf()
    tiny_llama(len(tokenizer), **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_memory(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def shifted(model: Any) -> Any:
    """The model as if training had changed one of its weights, in a place that is easy to miss."""
    with torch.no_grad():
        list(model.parameters())[-2].view(-1)[-1] += 1.0
    return model


def adapted(model: Any, kind: Any = LoraConfig, name: str = "default", **settings: Any) -> Any:
    settings = {"r": 2, **settings} if kind is LoraConfig else settings
    about = kind(task_type=TaskType.CAUSAL_LM, **settings)
    return get_peft_model(model, about, adapter_name=name)


def merged(folder: Path) -> Any:
    model = adapted(in_memory(folder), target_modules="all-linear", init_lora_weights=False)
    return model.merge_and_unload()


def after_a_trainer(folder: Path) -> Any:
    """The model that a first trainer leaves in memory, with the name of its original folder."""
    model = in_memory(folder)
    trainer(model=model).train(progress=False)
    assert model.name_or_path == str(folder)
    return model


def resized(folder: Path) -> Any:
    model = in_memory(folder)
    model.resize_token_embeddings(model.config.vocab_size + 7, mean_resizing=False)
    return model


def unfrozen(folder: Path) -> Any:
    """Adapters, and a trained weight of the model below them."""
    model = adapted(in_memory(folder), target_modules=["q_proj"])
    model.get_base_model().model.norm.weight.requires_grad_(True)
    return model


KINDS: dict[str, tuple[Callable[[Path], Any], Lora | None, bool]] = {
    # Kinds of models, new adapters, and whether the model below is written with them.
    "full": (in_memory, None, False),
    "full, resized": (resized, None, False),
    "lora": (in_memory, RANK_2, False),
    "dora": (in_memory, Lora(rank=2, dora=True), False),
    "lora after a merge": (merged, RANK_2, True),
    "lora on a model trained in memory": (lambda folder: shifted(in_memory(folder)), RANK_2, True),
    "two trainers": (after_a_trainer, RANK_2, True),
    "lora, resized": (resized, RANK_2, True),
    "lora with modules to save": (
        lambda folder: adapted(
            in_memory(folder),
            target_modules=["q_proj"],
            modules_to_save=["embed_tokens", "lm_head"],
        ),
        None,
        False,
    ),
    "resized, with modules to save": (
        lambda folder: adapted(
            resized(folder), target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
        ),
        None,
        True,
    ),
    "lora with biases": (
        lambda folder: adapted(in_memory(folder), target_modules=["q_proj"], bias="all"),
        None,
        False,
    ),
    "lora and an unfrozen weight": (unfrozen, None, True),
    "lora of another name": (
        lambda folder: adapted(in_memory(folder), name="mine", target_modules=["q_proj"]),
        None,
        False,
    ),
    "ia3 on a model trained in memory": (
        lambda folder: adapted(
            shifted(in_memory(folder)),
            IA3Config,
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
        None,
        True,
    ),
}


def losses(run: Any, scorer: Any) -> list[float]:
    found = scorer.mean_sft(run.data.sft_test)
    found |= scorer.mean_pairs(run.data.preference_test, run.references.test)
    return [found["sft_loss"], found["preference_loss"]]


def assert_loads_as_trained(run: Any, folder: Path) -> None:
    expected = losses(run, run.scorer)
    assert losses(run, load(folder).scorer) == pytest.approx(expected, rel=1e-6, abs=1e-6)


FEW = (
    "full",
    "lora",
    "dora",
    "lora after a merge",
    "two trainers",
    "resized, with modules to save",
    "lora and an unfrozen weight",
    "ia3 on a model trained in memory",
)
"""Kinds that differ most; the slow tests have the others, which combine what these have."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", cases(KINDS, FEW))
def test_every_kind_of_output_loads_as_it_was_trained(base, tmp_path, kind):
    make, lora, written = KINDS[kind]
    run = trainer(model=make(base), lora=lora, steps=2, output=tmp_path, learning_rate=0.1)
    done = run.train(progress=False)
    assert losses(run, run.scorer)[0] == pytest.approx(done.table.sft_loss.iloc[-1], abs=1e-6)
    assert losses(run, run.scorer)[0] != pytest.approx(done.table.sft_loss.iloc[0], abs=1e-4)
    assert_loads_as_trained(run, tmp_path)
    assert (tmp_path / "model" / "base").is_dir() == written
    if isinstance(run.model, PeftModel):
        about = run.model.active_peft_config.base_model_name_or_path
        assert about == str(base)  # The name in memory is the user's.
        named = json.loads((tmp_path / "model" / "adapter_config.json").read_text("utf-8"))
        own = str((tmp_path / "model" / "base").resolve())
        assert named["base_model_name_or_path"] == (own if written else str(base))


@pytest.mark.parametrize("lora", [None, RANK_2], ids=["full", "lora"])
def test_tied_weights_are_compared_once(tmp_path, lora):
    folder = write(tmp_path / "base", tie_word_embeddings=True)
    run = trainer(model=in_memory(folder), lora=lora, steps=2, output=tmp_path / "run")
    run.train(progress=False)
    assert_loads_as_trained(run, tmp_path / "run")
    assert not (tmp_path / "run" / "model" / "base").exists()


def test_a_base_that_is_gone_is_saved(tmp_path):
    folder = write(tmp_path / "base")
    run = trainer(model=in_memory(folder), lora=RANK_2, steps=2, output=tmp_path / "run")
    folder.rename(tmp_path / "moved")
    run.train(progress=False)
    assert_loads_as_trained(run, tmp_path / "run")


def test_adapters_find_their_base_from_any_working_directory(tmp_path, monkeypatch):
    write(tmp_path / "models" / "base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = trainer(model=in_memory(Path("models/base")), lora=RANK_2, steps=2, output="run")
    run.train(progress=False)
    assert run.model.active_peft_config.base_model_name_or_path == "models/base"
    monkeypatch.chdir("elsewhere")
    assert_loads_as_trained(run, tmp_path / "run")


@pytest.mark.parametrize("shard", ["50GB", "40KB"])
def test_files_hold_the_weights_that_were_loaded_from_them(tmp_path, shard):
    model = tiny_llama(64)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert _origin.holds(str(tmp_path), model.state_dict(), model)
    half = tiny_llama(64).bfloat16()
    assert _origin.holds(str(tmp_path), half.state_dict(), half)
    assert not _origin.holds(str(tmp_path / "absent"), model.state_dict(), model)
    shifted(model)
    assert not _origin.holds(str(tmp_path), model.state_dict(), model)


def test_files_with_names_of_their_own_are_loaded_to_be_compared(tmp_path):
    from safetensors.torch import load_file, save_file

    model = tiny_llama(64, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    found = load_file(file)
    # The embedding under the name of the head that is tied to it.
    found["lm_head.weight"] = found.pop("model.embed_tokens.weight")
    save_file(found, file, {"format": "pt"})
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    assert _origin.holds(str(tmp_path), weights, model)
    assert not _origin.holds(str(tmp_path), weights, shifted(model))


def test_the_files_that_are_replaced_hold_nothing(base, tmp_path):
    model = models.with_adapters(in_memory(base), RANK_2)
    assert models.stored_base(model, model.state_dict(), tmp_path) == str(base)
    assert models.stored_base(model, model.state_dict(), base.parent) is None
