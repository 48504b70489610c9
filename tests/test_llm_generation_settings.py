"""A model's own settings of generation are saved as they are, and checked before a run."""

from __future__ import annotations

import json

import pytest
from chat_tokenizers import chat_tokenizer
from llm_models import tiny_llama
from transformers import GenerationConfig

from tradeoff import Alright
from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import JointTrainer, TrainConfig, models
from tradeoff.llm._generation_settings import FILE
from tradeoff.llm.config import Lora, ModelConfig

GREEDY_BUT_WARM = {"do_sample": False, "temperature": 0.7, "top_p": 0.6}
"""Settings that many published models have, and transformers refuses to save."""


def trainer(model, output, **settings):
    rows = [SftRow((Message("user", f"{i}"),), (Message("assistant", "a"),)) for i in range(4)]
    pairs = [PreferenceRow(r.prompt, r.completion, (Message("assistant", "no"),)) for r in rows]
    config = TrainConfig(steps=2, batch_size=2, save_every=1, **settings)
    return JointTrainer(
        *(model, chat_tokenizer()),
        sft=rows,
        preference=pairs,
        schedule=Alright(),
        config=config,
        output=output,
    )


@pytest.fixture
def folder(tmp_path):
    tokenizer = chat_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "given")
    tokenizer.save_pretrained(tmp_path / "given")
    return tmp_path / "given"


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_settings_that_transformers_refuses_are_saved_as_they_are(folder, tmp_path, lora):
    given = GREEDY_BUT_WARM | {"eos_token_id": [2, 3]}
    (folder / FILE).write_text(json.dumps(given), "utf-8")
    model, tokenizer = models.load(ModelConfig(path=str(folder)))
    model.generation_config.top_k = 7  # changed in memory, so that the model is not as its files
    model.lm_head.weight.data += 1.0
    run = trainer(model, tmp_path / "run", lora=lora)
    run.train(progress=False)
    place = tmp_path / "run" / "model" / ("base" if lora else "")
    saved = json.loads((place / FILE).read_text("utf-8"))
    checkpoints = tmp_path / "run" / "checkpoints" / "model" / FILE
    for found in (saved, json.loads(checkpoints.read_text("utf-8"))):
        assert {**found, **GREEDY_BUT_WARM, "top_k": 7} == found
    assert saved["eos_token_id"] == [2, 3, tokenizer.eos_token_id]
    again, _ = models.load(ModelConfig(path=str(tmp_path / "run")))
    assert models.below_adapters(again).generation_config.temperature == 0.7
    assert models.below_adapters(run.model).generation_config.eos_token_id == [2, 3]


@pytest.mark.parametrize("wrong", ["<|im_end|>", [None, 2], [2.5], True, -1])
def test_end_tokens_must_be_ids(folder, tmp_path, wrong):
    (folder / FILE).write_text(json.dumps({"eos_token_id": wrong}), "utf-8")
    for read in (models.load, lambda config: models.without_weights(config.path)):
        with pytest.raises(InputError, match=rf"{FILE}.*'eos_token_id'.*number of a token"):
            read(ModelConfig(path=str(folder)))
    # A model that is given in memory is looked at before training, not when it is saved.
    model = tiny_llama(len(chat_tokenizer()))
    model.generation_config = GenerationConfig()
    model.generation_config.eos_token_id = wrong
    with pytest.raises(InputError, match="number of a token"):
        trainer(model, None)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_settings_that_are_none_name_their_file(folder, text):
    (folder / FILE).write_text(text, "utf-8")
    with pytest.raises(InputError, match=FILE):
        models.load(ModelConfig(path=str(folder)))
