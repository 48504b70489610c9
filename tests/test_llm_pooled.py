"""Features of responses from a model, in place of hashed words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.normalizers import Lowercase

from tradeoff import cli, tiny, trust
from tradeoff.conflict import analyse
from tradeoff.convex.text import text_problem
from tradeoff.errors import InputError
from tradeoff.llm.pooled import PooledStates, responses
from tradeoff.records import read_json

SFT, PAIRS = tiny.rows(24)
TEXTS = responses(SFT, PAIRS)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.random_model(16, 1)


@pytest.fixture(scope="module")
def states(model: Any, tmp_path_factory: pytest.TempPathFactory) -> PooledStates:
    return PooledStates(*model, TEXTS, folder=tmp_path_factory.mktemp("states"))


def test_features_are_centred_and_scaled_means_of_hidden_states(
    model: Any, states: PooledStates
) -> None:
    found, some = states(TEXTS), list(dict.fromkeys(TEXTS))
    with torch.no_grad():
        alone = [
            model[0].base_model(torch.tensor([model[1](t)["input_ids"]])).last_hidden_state[0]
            for t in some
        ]
    raw = np.stack([h.mean(dim=0).numpy() for h in alone])
    scaled = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    expected = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    places = [some.index(text) for text in TEXTS]
    np.testing.assert_allclose(found, expected[places], atol=1e-4)


def test_a_response_without_tokens_has_zeros(states: PooledStates) -> None:
    found = states(["", TEXTS[0]])
    assert not found[0].any()
    assert np.linalg.norm(found[1]) == pytest.approx(1)


def test_known_responses_are_not_read_again_and_a_damaged_file_is_refused(
    model: Any, tmp_path: Path
) -> None:
    first = PooledStates(*model, TEXTS, folder=tmp_path)
    assert first.unread(TEXTS)[0] == len(set(TEXTS))
    found = first(TEXTS)
    again = PooledStates(*model, TEXTS, folder=tmp_path)
    assert again.unread(TEXTS) == (0, 0)
    assert again.seconds(TEXTS) == 0
    np.testing.assert_array_equal(again(TEXTS), found)
    (file,) = tmp_path.glob("states-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256"):
        PooledStates(*model, TEXTS, folder=tmp_path)


def test_another_tokenizer_reads_responses_again(model: Any, tmp_path: Path) -> None:
    PooledStates(*model, TEXTS, folder=tmp_path)(TEXTS)
    other = tiny.random_model(16, 1)[1]
    other.backend_tokenizer.normalizer = Lowercase()
    assert PooledStates(model[0], other, TEXTS, folder=tmp_path).unread(TEXTS)[0] > 0


def test_wide_states_are_projected(states: PooledStates, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = states(TEXTS)
    monkeypatch.setattr("tradeoff.llm.pooled.WIDTH", 8)
    narrow = states(TEXTS)
    assert narrow.shape == (len(TEXTS), 8)
    # Inner products are kept on average.
    assert np.corrcoef((wide @ wide.T).ravel(), (narrow @ narrow.T).ravel())[0, 1] > 0.5


def test_features_take_the_place_of_hashed_words(states: PooledStates) -> None:
    problem = text_problem(SFT, PAIRS, radius=5.0, features=states)
    assert problem.dimension == 2 * 16 + 3
    row = problem.features.rows(problem.demonstrations[:1]).toarray()[0]
    np.testing.assert_allclose(row[:16], states([TEXTS[0]])[0], atol=1e-6)


def test_an_analysis_says_what_its_features_are_and_how_far_to_trust_them(
    states: PooledStates,
) -> None:
    small: dict[str, Any] = {"radius": 10.0, "candidates": 3, "solves": 3, "steps": 4, "lams": []}
    with_states = analyse(SFT, PAIRS, features=states, **small)
    with_words = analyse(SFT, PAIRS, n_features=64, **small)
    own = analyse(SFT, PAIRS, features=lambda texts: states(texts), **small)
    assert with_states.trust == trust.sentence("pooled")
    assert with_words.trust == trust.sentence("words")
    assert "not tried" in own.trust
    assert with_states.summary["conflict"] != with_words.summary["conflict"]


@pytest.mark.parametrize("kind", list(trust.NAMES))
def test_what_is_said_of_trust_is_the_stored_evaluation(kind: trust.Kind) -> None:
    scores = read_json(trust.STORED)["scores"]
    said = trust.sentence(kind)
    if kind not in scores:
        assert "not tried" in said
        return
    assert f"by {100 * scores[kind]['median_error']:.0f} % of the front's range" in said
    assert f"a constant guess {100 * scores['constant']['median_error']:.0f} %" in said
    assert f"{scores[kind]['rank']:.2f}" in said


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--words"]])
def test_advise_reads_the_model_that_is_named(
    extra: list[str],
    model: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRADEOFF_CACHE", str(tmp_path / "cache"))
    for part in model:
        part.save_pretrained(tmp_path / "model")
    files = [tmp_path / "sft.jsonl", tmp_path / "pairs.jsonl"]
    lines = [json.dumps({"prompt": r.prompt, "completion": r.completion}) for r in SFT]
    files[0].write_text("\n".join(lines), "utf-8")
    lines = [
        json.dumps({"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected}) for r in PAIRS
    ]
    files[1].write_text("\n".join(lines), "utf-8")
    with pytest.raises(SystemExit) as end:
        cli.main(["advise", *map(str, files), "--model", str(tmp_path / "model"), "--repeats", "2",
                  "--out", str(tmp_path), *extra])  # fmt: skip
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    read = not extra
    assert ("responses once with" in shown) is read
    assert trust.sentence("pooled" if read else "words") in shown
    assert ("hashed words, not meaning" in shown) is not read
    record = read_json(tmp_path / "advise.json")
    assert str(tmp_path / "model") in record["command"]
    assert (tmp_path / "cache").exists() is read
