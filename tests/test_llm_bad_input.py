"""Input that cannot be trained on gives an error with its name, before training if possible."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows, trainer
from safetensors.torch import load_file, save_file

from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import _corpora, models, setup
from tradeoff.llm import config as settings
from tradeoff.llm.batches import Batch
from tradeoff.llm.config import Experiment, Lora, ModelConfig, TrainConfig
from tradeoff.llm.defects import Defects
from tradeoff.llm.trainer import JointTrainer
from tradeoff.schedules import PREFERENCE, SFT, Alright, Maxright
from tradeoff.settings import build

VOCABULARY = len(bpe_tokenizer_hf())


def joint_trainer(tokenizer: Any, model: Any = None, **rows: Any) -> JointTrainer:
    """A trainer with another tokenizer."""
    given = {"sft": sft_rows(), "preference": preference_rows(), **rows}
    few = TrainConfig(steps=1, max_length=64)
    model = model or tiny_llama(VOCABULARY)
    return JointTrainer(model, tokenizer, schedule=Alright(), config=few, **given)


# ---------------------------------------------------------------------- rows


@pytest.mark.parametrize("name", ["sft", "preference"])
def test_no_rows(name):
    with pytest.raises(InputError, match="there are no rows") as error:
        trainer(**{name: ()})
    assert error.value.field == name


@pytest.mark.parametrize("name", ["sft", "preference"])
def test_a_single_row_cannot_be_held_out_and_trained_on(name):
    rows = {"sft": sft_rows, "preference": preference_rows}[name](1)
    with pytest.raises(InputError, match=r"a share of 0\.2") as error:
        trainer(**{name: rows})
    assert error.value.field == name
    assert f"{name}_test" in error.value.remedy
    trainer(**{name: rows}, holdout=0.0)


def test_prompts_that_fill_the_length_are_dropped_and_counted(tmp_path):
    long = SftRow("word " * 80, "fox")
    run = trainer(sft=(*sft_rows(), long), steps=1, holdout=0, output=tmp_path)
    done = run.train(progress=False)
    assert done.summary["data"]["sft"]["too_long"] == 1
    assert done.summary["data"]["sft"]["rows"] == 20
    written = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert written["data"]["sft"]["too_long"] == 1


@pytest.mark.parametrize("name", ["sft", "preference"])
def test_an_error_if_no_prompt_is_short_enough(name):
    rows = {
        "sft": (SftRow("word " * 80, "fox"),) * 4,
        "preference": (PreferenceRow("word " * 80, "fox", "dog"),) * 4,
    }
    with pytest.raises(InputError, match="every prompt alone fills") as error:
        trainer(**{name: rows[name]})
    assert error.value.field == "max_length"


def test_text_and_messages_mixed_name_the_row():
    odd = SftRow("plain", (Message("assistant", "not plain"),))
    with pytest.raises(InputError, match="text and messages are mixed") as error:
        trainer(sft=(*sft_rows(4), odd), holdout=0)
    assert error.value.row == 5


def test_rows_of_the_other_kind():
    with pytest.raises(InputError, match="not a SftRow"):
        trainer(sft=preference_rows(4))


def test_mappings_are_read_as_rows():
    run = trainer(sft=[{"prompt": f"{i}?", "completion": "fox"} for i in range(4)], holdout=0)
    assert len(run.data.sft) == 4
    with pytest.raises(InputError, match="no known layout"):
        trainer(sft=[{"question": "a"}] * 4)


# ---------------------------------------------------------------------- tokenizer and model


def test_a_tokenizer_without_an_end():
    tokenizer = bpe_tokenizer_hf()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        joint_trainer(tokenizer)


def test_conversations_without_a_chat_template():
    tokenizer = bpe_tokenizer_hf()
    tokenizer.chat_template = None
    turns = (Message("user", "hello"),), (Message("assistant", "hi"),)
    with pytest.raises(InputError, match="no chat template"):
        joint_trainer(tokenizer, sft=(SftRow(*turns),) * 3)


def test_a_vocabulary_beyond_the_embedding():
    with pytest.raises(InputError, match="beyond the embedding") as error:
        trainer(model=tiny_llama(VOCABULARY - 1))
    assert f"resize_token_embeddings({VOCABULARY})" in str(error.value)


def test_a_model_without_weights_to_train():
    with pytest.raises(InputError, match="no weights to train"):
        trainer(model=tiny_llama(VOCABULARY).requires_grad_(False))


def test_sequences_are_never_longer_than_the_context():
    model = tiny_llama(VOCABULARY, max_position_embeddings=24)
    run = trainer(model=model, max_length=2048)
    assert run.config.max_length == 24
    done = run.train(progress=False)
    assert done.summary["max_length"] == 24
    assert max(part["longest"] for part in done.summary["data"].values()) == 24
    assert sum(part["truncated"] for part in done.summary["data"].values()) > 0


def test_pairs_may_have_a_longest_sequence_of_their_own():
    model = tiny_llama(VOCABULARY, max_position_embeddings=24)
    run = trainer(model=model, max_length=20, preference_max_length=2048)
    assert (run.config.longest(SFT), run.config.longest(PREFERENCE)) == (20, 24)
    longest = {name: part["longest"] for name, part in run.data.summary().items()}
    assert longest == {"sft": 20, "sft_test": 20, "preference": 24, "preference_test": 24}
    with pytest.raises(InputError, match="every prompt alone fills") as error:
        trainer(preference_max_length=2)
    assert (error.value.field, error.value.value) == ("preference_max_length", 2)
    with pytest.raises(InputError, match="every prompt alone fills") as error:
        trainer(max_length=2)
    assert error.value.field == "max_length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads."""
    place, tokenizer = tmp_path_factory.mktemp("model"), bpe_tokenizer_hf()
    tiny_llama(len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def changed(folder: Path, place: Path, **change: Any) -> Path:
    """A copy whose config.json has other values."""
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    about = json.loads((place / "config.json").read_text("utf-8"))
    (place / "config.json").write_text(json.dumps({**about, **change}), "utf-8")
    return place


def test_a_folder_that_loads(folder):
    model, tokenizer = models.load(ModelConfig(path=str(folder)))
    assert (model.dtype, tokenizer.eos_token) == (torch.float32, "</s>")
    half, _ = models.load(ModelConfig(path=str(folder)), frozen_bf16=True)
    assert half.dtype == torch.bfloat16


def test_random_weights_are_those_of_the_seed(folder):
    some = ModelConfig(path=str(folder), config_only=True)
    first, again, other = (models.load(some, seed=seed)[0].lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def pickled(place: Path) -> None:
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()


def cut(place: Path) -> None:
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def incomplete(place: Path) -> None:
    weights = load_file(place / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


HARMS = {
    "pickled": pickled,
    "cut": cut,
    "incomplete": incomplete,
    "no configuration": lambda place: (place / "config.json").unlink(),
    "broken configuration": lambda place: (place / "config.json").write_text("{", "utf-8"),
    "broken tokenizer": lambda place: (place / "tokenizer.json").write_text("{", "utf-8"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_folder_that_does_not_load_is_named(folder, tmp_path, harm):
    HARMS[harm](changed(folder, tmp_path))
    words = "no causal model can be loaded|the weights cannot be read|these weights are pickled"
    with pytest.raises(InputError, match=words) as error:
        models.load(ModelConfig(path=str(tmp_path)))
    assert str(tmp_path)[:60] in str(error.value)


@pytest.mark.parametrize("path", ["no/such-model", "absent-folder", "/absent/folder"])
def test_a_model_that_is_not_there_is_named(path):
    with pytest.raises(InputError, match=path):
        models.load(ModelConfig(path=path))


def test_code_that_comes_with_a_model_is_not_run(folder, tmp_path):
    changed(
        folder,
        tmp_path,
        model_type="mine",
        auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    )
    (tmp_path / "mine.py").write_text("raise SystemExit('code was run')", "utf-8")
    with pytest.raises(InputError, match="no causal model can be loaded"):
        models.load(ModelConfig(path=str(tmp_path)))


def test_a_sizes_mismatch_is_named(folder, tmp_path):
    changed(folder, tmp_path, intermediate_size=48)
    with pytest.raises(InputError, match="no causal model can be loaded"):
        models.load(ModelConfig(path=str(tmp_path)))


def test_adapters_for_layers_that_are_not_there():
    with pytest.raises(InputError, match="adapters cannot be added") as error:
        trainer(lora=Lora(targets=("query_key_value",)))
    assert "q_proj" in str(error.value)


def test_a_layout_that_the_model_does_not_keep_apart(monkeypatch):
    causal = lambda self: torch.ones(  # noqa: E731
        1, 1, self.tokens.shape[1], self.tokens.shape[1], dtype=torch.bool
    ).tril()
    monkeypatch.setattr(Batch, "mask", causal)
    with pytest.raises(InputError, match="does not keep packed sequences apart") as error:
        trainer(layout="packed")
    assert "padded" in str(error.value)
    trainer(layout="padded")


@pytest.mark.parametrize(("device", "problem"), [("cpu", "needs a GPU"), ("cuda", "no fp32")])
def test_flash_attention_that_would_fail_is_refused(device, problem):
    model = tiny_llama(VOCABULARY)
    model.config._attn_implementation = "flash_attention_2"
    full = TrainConfig(precision="fp32")
    with pytest.raises(InputError, match=problem):
        setup.check_attention(model, full, torch.device(device))
    if device == "cuda":
        setup.check_attention(model, TrainConfig(precision="bf16"), torch.device(device))
        with pytest.raises(InputError, match=problem):  # Its weights will be cast.
            setup.check_attention(model.bfloat16(), full, torch.device(device))


def test_a_reference_that_is_not_there_is_told_before_rows_are_read(monkeypatch, tmp_path):
    monkeypatch.delattr(_corpora, "prepare")
    with pytest.raises(InputError, match="no causal model") as error:
        trainer(reference=str(tmp_path / "nowhere"))
    assert error.value.field == "reference"


def test_flex_attention_is_refused_on_the_cpu():
    model = tiny_llama(VOCABULARY, attn_implementation="flex_attention")
    with pytest.raises(InputError, match="no backward pass on the CPU") as error:
        trainer(model=model)
    assert error.value.field == "attention"


def test_shared_prompts_do_not_go_with_a_masked_first_token():
    with pytest.raises(InputError, match="cannot be shared"):
        trainer(layout="shared", defects=Defects(mask_first_token=True))


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"rows_per_forward": -1}, "rows_per_forward"),
        ({"max_length": 0}, "max_length"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"optima": (float("nan"), 0.0)}, "optima"),
        ({"clip": 0.0}, "clip"),
        ({"loss": "no_such_loss"}, "loss"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "label_smoothing"),
        ({"recent": 0.0}, "recent"),
        ({"holdout": 1.0}, "holdout"),
        ({"warmup": -1}, "warmup"),
        ({"seed": -1}, "seed"),
        ({"save_every": 0}, "save_every"),
        ({"keep": 0}, "keep"),
        ({"reference_mode": "adapter_off"}, "reference_mode"),
        ({"reference_mode": "second_model", "reference": "stage"}, "reference_mode"),
    ],
)
def test_settings_out_of_range_are_named(change, field):
    with pytest.raises(InputError) as error:
        TrainConfig(**change)
    assert error.value.field == field
    with pytest.raises(InputError) as from_file:
        build(Experiment, {"train": change}, file="run.toml")
    assert from_file.value.field == f"train.{field}"
    assert f"(found {change[field]!r})" in str(from_file.value)
    assert from_file.value.file == "run.toml"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_adapter_settings_out_of_range_are_named(change, field):
    with pytest.raises(InputError) as error:
        build(Experiment, {"train": {"lora": change}})
    assert error.value.field == f"train.lora.{field}"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"train": {"stepz": 1}}, "train.stepz"),
        ({"trian": {}}, "trian"),
        ({"train": {"steps": "many"}}, "train.steps"),
        ({"train": {"steps": 1.5}}, "train.steps"),
        ({"train": {"precision": "fp8"}}, "train.precision"),
        ({"model": {"attention": "magic"}}, "model.attention"),
        ({"data": {"limit": "few"}}, "data.limit"),
    ],
)
def test_settings_of_a_wrong_name_or_type_are_named(change, field):
    with pytest.raises(InputError) as error:
        build(Experiment, change)
    assert error.value.field is not None
    assert error.value.field.startswith(field)


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_the_unit_interval(lam):
    with pytest.raises(InputError, match="lam"):
        Experiment(schedule={"name": "mix", "lam": lam}).make_schedule()


@pytest.mark.parametrize("text", ["[train\nsteps = 1", "\xff"])
def test_a_file_that_is_not_toml_is_named(tmp_path, text):
    (tmp_path / "run.toml").write_text(text, "latin-1")
    with pytest.raises(InputError, match="cannot be read") as error:
        settings.read_experiment(tmp_path / "run.toml")
    assert "run.toml" in str(error.value)


@cache
def batch_trained(batch, at_once, layout):
    """A run of two updates on batches of this size."""
    given = {"steps": 2, "batch_size": batch, "schedule": "mix", "epsilon": 1e-3}
    return trainer(rows_per_forward=at_once, layout=layout, **given).train(progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "at_once"), [(1, 8), (3, 2), (40, 3), (7, 100)])
@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_any_batch_goes_with_any_pass(batch, at_once, layout):
    """More rows than the data has; passes that do not divide the batch, or are larger."""
    odd, whole = batch_trained(batch, at_once, layout), batch_trained(batch, batch, "padded")
    assert odd.summary["tokens"] == whole.summary["tokens"]
    for name in ("sft_loss", "preference_loss"):
        np.testing.assert_allclose(odd.table[name], whole.table[name], rtol=1e-4)


# ---------------------------------------------------------------------- the machine


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot write to the output folder"):
            trainer(output=place)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 3 bytes"),
    ],
)
@pytest.mark.parametrize("place", ["_update", "evaluate"])
def test_too_little_memory_says_what_to_lower(monkeypatch, error, place):
    def fail(self: JointTrainer) -> None:
        raise error

    monkeypatch.setattr(JointTrainer, place, fail)
    with pytest.raises(InputError, match="memory does not suffice") as told:
        trainer(rows_per_forward=2).train(progress=False)
    for word in ("rows_per_forward", "max_length", "gradient_checkpointing", "found 2"):
        assert word in str(told.value)


def test_other_failures_are_not_taken_for_lack_of_memory(monkeypatch):
    def fail(self: JointTrainer) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(JointTrainer, "_update", fail)
    with pytest.raises(RuntimeError, match="something else"):
        trainer().train(progress=False)


def test_a_device_without_bf16(monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(InputError, match="no bf16") as error:
        setup.accelerator(TrainConfig(precision="bf16"), None)
    assert error.value.field == "precision"
    setup.accelerator(TrainConfig(), None)


@pytest.mark.parametrize(
    ("way", "problem"),
    [
        ("DEEPSPEED", "DEEPSPEED is not supported"),
        ("MEGATRON_LM", "MEGATRON_LM is not supported"),
        ("FSDP", "FSDP 1 is not supported"),
        ("MULTI_CPU", "does not shard on the CPU"),
    ],
)
def test_ways_of_many_processes_that_are_not_supported(monkeypatch, way, problem):
    from accelerate import Accelerator, DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType[way])
    monkeypatch.setattr(Accelerator, "is_fsdp2", False)
    monkeypatch.setattr(setup, "parse_flag_from_env", lambda name: True)
    with pytest.raises(InputError, match=problem):
        setup.accelerator(TrainConfig(), None)


@pytest.mark.parametrize(
    ("trackers", "output", "word"),
    [
        (("tensorbored",), True, "no such tracker"),
        (("comet_ml",), True, "no such tracker"),  # Known to accelerate, but not installed.
        (("tensorboard",), False, "trackers write to a folder"),
    ],
)
def test_trackers_that_cannot_be_used(tmp_path, trackers, output, word):
    with pytest.raises(InputError, match=word) as error:
        trainer(trackers=trackers, output=tmp_path if output else None)
    assert error.value.field == "trackers"


def test_probes_that_cost_many_times_the_updates_are_warned_of():
    with pytest.warns(UserWarning, match=r"40 rows every 1 updates is 13 times .*samples=64"):
        trainer(Maxright(), batch_size=1, holdout=0.0)
    # Frozen weights have half a backward pass, so the forward pass is a larger part of an update.
    with pytest.warns(UserWarning, match="is 20 times the work"):
        trainer(Maxright(), batch_size=1, holdout=0.0, lora=Lora(rank=2))
    trainer(Maxright(refresh=10), batch_size=1, holdout=0.0)
    trainer(Maxright(samples=4), batch_size=1, holdout=0.0)
