"""The three references of preference learning, trained at a tiny scale."""

from pathlib import Path

import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows, trainer

from tradeoff.data import PreferenceRow, SftRow, chosen_as_sft
from tradeoff.errors import InputError
from tradeoff.llm import models
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.reference_policy import KINDS, ReferenceRows, train_reference

SETTINGS = TrainConfig(
    steps=8, batch_size=4, learning_rate=2e-2, max_length=64, evaluate_every=8, reference="nowhere"
)


def rows() -> ReferenceRows:
    """Pairs whose chosen responses share no word with the demonstrations."""
    pairs = [PreferenceRow(f"Ask {i} ", "kindly " * 3, "go away") for i in range(20)]
    return ReferenceRows(sft=sft_rows(), preference=pairs)


@pytest.fixture
def base(tmp_path: Path) -> str:
    tokenizer = bpe_tokenizer_hf()
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def losses(folder: str) -> tuple[float, float]:
    """Losses of a model on the demonstrations and on the chosen responses."""
    found = []
    for given in (sft_rows(), chosen_as_sft(rows().preference)):
        model = models.load(ModelConfig(path=folder))[0]
        run = trainer(model=model, sft=given, preference=preference_rows())
        found.append(run.scorer.mean_sft(run.data.sft)["sft_loss"])
    return found[0], found[1]


@pytest.mark.slow
def test_each_reference_is_good_at_what_it_was_trained_on(base: str, tmp_path: Path) -> None:
    model = ModelConfig(path=base)
    found = {
        kind: train_reference(kind, model, rows(), SETTINGS, tmp_path / kind, progress=False)
        for kind in KINDS
    }
    assert found["base"] == base
    assert not (tmp_path / "base" / "model").exists()
    of = {kind: losses(folder) for kind, folder in found.items()}
    assert of["sft"][0] < min(of["base"][0], of["chosen"][0])
    assert of["chosen"][1] < min(of["base"][1], of["sft"][1])
    # Any of them can be the reference of a run.
    run = trainer(reference=found["chosen"], model=models.load(model)[0], steps=2)
    assert run.train(progress=False).table["preference_loss"].notna().all()


def test_a_complete_reference_is_not_trained_again(base: str, tmp_path: Path) -> None:
    def once() -> dict[str, torch.Tensor]:
        folder = train_reference(
            "chosen", ModelConfig(path=base), rows(), SETTINGS, tmp_path / "out", progress=False
        )
        return dict(models.load(ModelConfig(path=folder))[0].state_dict())

    first, again = once(), once()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_an_unknown_reference_is_named(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kind.*best.*chosen"):
        train_reference("best", ModelConfig(path=base), rows(), SETTINGS, tmp_path)


def test_chosen_responses_become_demonstrations() -> None:
    pairs = [PreferenceRow("a", "b", "c")]
    assert chosen_as_sft(pairs) == (SftRow("a", "b"),)
    test = ReferenceRows(sft=sft_rows(), preference=pairs, preference_test=pairs).of_chosen()
    assert test.sft == test.sft_test == (SftRow("a", "b"),)
    assert test.preference is pairs
