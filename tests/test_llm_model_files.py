"""Folders whose files are absent, damaged or of another kind: the error names the file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_tokenizers import CHATML, chat_tokenizer
from llm_models import tiny_llama
from transformers import LlamaConfig, LlamaForSequenceClassification

from tradeoff.data.rows import Message, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import inspection, models
from tradeoff.llm._data import tokenise_sft
from tradeoff.llm.config import Lora, ModelConfig

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("models") / "whole", chat_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(folder, max_shard_size="70KB")
    tokenizer.save_pretrained(folder)
    assert (folder / SHARD).is_file()
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(place: Path | str) -> Any:
    return models.load(ModelConfig(path=str(place)))[0]


def small(place: Path | str) -> Any:
    return models.without_weights(str(place))


def refused(place: Path | str, *words: str, readers: Any = (load, small)) -> None:
    """The readers, of which one reads no weights, refuse the model with these words."""
    for read in readers:
        with pytest.raises(InputError) as error:
            read(place)
        for word in words:
            assert word in str(error.value)


@pytest.mark.parametrize("name", [SHARD, "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_named(model, name):
    (model / name).write_text(POINTER, "utf-8")
    readers = (load,) if name == SHARD else (load, small)
    refused(model, f"{model / name}: this is a pointer", "git lfs pull", readers=readers)
    if name == SHARD:
        models.load(ModelConfig(path=str(model), config_only=True))


def test_a_shard_that_is_absent_or_cut_short_is_named(model):
    content = (model / SHARD).read_bytes()
    (model / SHARD).write_bytes(content[: len(content) // 2])
    refused(model, f"{model / SHARD}: the weights cannot be read", "Copy it again", readers=(load,))
    (model / SHARD).unlink()
    refused(model, f"{model / SHARD}: model.safetensors.index.json names", readers=(load,))
    models.load(ModelConfig(path=str(model), config_only=True))


def test_a_folder_without_a_tokenizer_says_so(model):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    refused(model, "tokenizer")


@pytest.mark.parametrize("place", ["./gone", "/nowhere/model", "a/b/c"])
def test_a_path_is_no_hub_name(place):
    refused(place, "there is no such folder", repr(place))


def test_a_file_is_no_model(model):
    refused(model / "config.json", "a model is a folder, and this is a file")


def test_weights_of_other_shapes_say_so(model):
    config = json.loads((model / "config.json").read_text("utf-8"))
    config["intermediate_size"] += 8
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(InputError, match=r"other shapes than config\.json says"):
        load(model)


def test_a_reward_model_as_a_policy_is_told(model):
    tokenizer, config = chat_tokenizer(), LlamaConfig.from_pretrained(model)
    config.tie_word_embeddings, config.num_labels, config.pad_token_id = True, 1, 0
    LlamaForSequenceClassification(config).save_pretrained(model.parent / "judge")
    tokenizer.save_pretrained(model.parent / "judge")
    with pytest.warns(UserWarning, match=r"judge: 1 weights of the files, such as score\.weight"):
        load(model.parent / "judge")


@pytest.fixture
def adapters(model: Path, tmp_path: Path) -> Path:
    models.with_adapters(load(model), Lora(rank=2)).save_pretrained(tmp_path / "adapters")
    return tmp_path / "adapters"


@pytest.mark.parametrize("base", ["/nowhere/base", "./gone"])
def test_a_base_that_is_gone_is_named(adapters, base):
    file = adapters / "adapter_config.json"
    settings = json.loads(file.read_text("utf-8")) | {"base_model_name_or_path": base}
    file.write_text(json.dumps(settings), "utf-8")
    refused(adapters, f"{file}, field 'base_model_name_or_path'", "no such folder", repr(base))


def test_a_broken_tokenizer_of_adapters_is_not_replaced_by_that_of_the_base(adapters, model):
    load(adapters)  # without a tokenizer of its own
    shutil.copy(model / "tokenizer_config.json", adapters)
    (adapters / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(InputError):
        load(adapters)


def test_an_error_that_announces_more_says_more():
    error = RuntimeError("Error(s) in loading state_dict:\n\tsize mismatch for q.weight: 2, 4.\n x")
    assert (
        models.reason(error) == "Error(s) in loading state_dict: size mismatch for q.weight: 2, 4."
    )


# ---------------------------------------------------------------------- templates and tokens

ROW = SftRow((Message("user", "hi"),), (Message("assistant", "yes"),))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"chat": CHATML, "rag": CHATML}, "named chat templates, but no default.*'chat', 'rag'"),
        ("  \n", "no chat template.*--chat-template"),
        ("{% for m in messages %}\n{{ m.x", r"not valid Jinja: line 2: .*--chat-template"),
    ],
)
def test_a_template_that_cannot_be_used_is_no_fault_of_a_row(template, words):
    with pytest.raises(InputError, match=re.compile(words, re.DOTALL)) as error:
        tokenise_sft([ROW], chat_tokenizer(template))
    assert error.value.row is None


def test_the_doctor_compares_the_tokenizer_with_the_model(model):
    tokenizer = chat_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(model)
    with pytest.raises(InputError, match=r"that of '<new>', beyond the embedding"):
        list(inspection.rows(str(model), {}))


def test_weights_that_are_not_finite_are_named(model):
    damaged = load(model)
    damaged.model.norm.weight.data[0] = float("nan")
    damaged.save_pretrained(model.parent / "damaged")
    chat_tokenizer().save_pretrained(model.parent / "damaged")
    refused(model.parent / "damaged", "model.norm.weight", "not finite", readers=(load,))
