"""A run finds all damage in the files that it continues from, and names files to use instead."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_models import tiny_llama
from llm_runs import LORA, trainer, weights
from test_llm_saved import in_memory, write
from test_seals import HARMS, flip

from tradeoff import _leftovers, _seals, records
from tradeoff.errors import InputError
from tradeoff.llm import _reference, _reference_cache, _saved, checkpoints, journal, models
from tradeoff.llm._fingerprints import model_fingerprint
from tradeoff.llm.config import ModelConfig, TrainConfig

# peft imports from transformers a name that will be removed in version 6.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
TRIES = 100
NEWEST, BEFORE = "step-00000004", "step-00000002"
SETTINGS: dict[str, Any] = {"steps": 4, "save_every": 2, "log_every": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run with two checkpoints; tests that change it do so in a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    trainer("maxright", output=folder, **SETTINGS).train(progress=False)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def go_on(folder: Path, **others: Any) -> Any:
    again = trainer("maxright", output=folder, **{**SETTINGS, **others})
    again.train(progress=False)
    return again


def error_of(folder: Path) -> InputError | None:
    """The error that reading the newest checkpoint of a run raises, if any."""
    newest = checkpoints.checkpoints(folder / "checkpoints")[-1]
    try:
        checkpoints.read(newest, folder / "metrics.jsonl")
    except InputError as error:
        return error
    return None


def sealed_log(folder: Path, name: str) -> int:
    """Bytes of the log that a checkpoint has sealed."""
    found = json.loads((folder / "checkpoints" / name / _seals.MANIFEST).read_text("utf-8"))
    return int(found["about"]["log"]["bytes"])


# ---------------------------------------------------------------------- damage


def test_no_damage_to_a_checkpoint_is_accepted(run: Path) -> None:
    rng, accepted = random.Random(0), 0
    whole = {p: p.read_bytes() for p in (run / "checkpoints" / NEWEST).iterdir()}
    assert {p.name for p in whole} == {
        "optimizer.safetensors", "policy.safetensors", "reference.safetensors", "seal.json",
        "state.json",
    }  # fmt: skip
    for _ in range(TRIES):
        path = rng.choice(sorted(whole))
        rng.choice(HARMS)(path, rng)
        error = error_of(run)
        accepted += error is None or error.file != path or BEFORE not in error.remedy
        path.write_bytes(whole[path])
    assert accepted == 0
    assert error_of(run) is None


def test_no_damage_to_the_log_before_a_checkpoint_is_accepted(run: Path) -> None:
    rng, accepted, log = random.Random(1), 0, run / "metrics.jsonl"
    whole, first, end = log.read_bytes(), sealed_log(run, BEFORE), sealed_log(run, NEWEST)
    assert 0 < first < end < len(whole)
    for _ in range(TRIES // 2):
        flip(log, rng, end)
        error = error_of(run)
        pairs = enumerate(zip(whole, log.read_bytes(), strict=True))
        damaged = next(i for i, (a, b) in pairs if a != b)
        way = BEFORE if damaged >= first else f"--model {run / 'checkpoints' / NEWEST}"
        accepted += error is None or error.file != log or way not in error.remedy
        log.write_bytes(whole)
    assert accepted == 0
    log.write_bytes(whole[: end - 1])
    assert "whole lines, and" in str(error_of(run))


def test_what_follows_the_checkpoint_in_the_log_is_written_again(run: Path) -> None:
    log = run / "metrics.jsonl"
    whole, end = log.read_bytes(), sealed_log(run, NEWEST)
    flip(log, random.Random(2), None)
    log.write_bytes(whole[:end] + b"rubbish\n\xff")
    go_on(run)
    again = log.read_bytes()
    assert again[:end] == whole[:end]
    expected, found = (json.loads(text[end:]) for text in (whole, again))
    assert {**expected, "seconds": 0} == {**found, "seconds": 0}


def test_the_way_on_that_is_offered_leads_on(run: Path) -> None:
    expected = weights(go_on(run))
    flip(run / "checkpoints" / NEWEST / "policy.safetensors", random.Random(3))
    with pytest.raises(InputError, match=r"policy\.safetensors.*not as it was written") as error:
        go_on(run)
    assert f"Remove {NEWEST} from {run / 'checkpoints'}" in error.value.remedy
    assert f"goes on from {BEFORE}" in error.value.remedy
    assert (run / "model" / "config.json").is_file()  # Nothing else was changed.
    shutil.rmtree(run / "checkpoints" / NEWEST)
    again = go_on(run)
    assert all(torch.equal(value, weights(again)[name]) for name, value in expected.items())


def test_without_an_intact_checkpoint_it_says_how_to_begin_anew(run: Path) -> None:
    for name in (NEWEST, BEFORE):
        flip(run / "checkpoints" / name / "state.json", random.Random(4))
    with pytest.raises(InputError, match=r"no older checkpoint that is intact.*--no-resume"):
        go_on(run)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all leaves of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in inner:
        if isinstance(part, dict | list) and part:
            yield from leaves(part, (*place, name))
        else:
            yield (*place, name)


def test_each_leaf_of_a_state_has_its_type(finished: Path) -> None:
    """A seal cannot find a state that was sealed, but is not a state."""
    text = (finished / "checkpoints" / BEFORE / "state.json").read_text("utf-8")
    _saved.check(text, 2)
    places = [place for place in leaves(json.loads(text)) if place[0] != "identity"]
    assert len(places) > 60
    for place in places:
        for wrong in (True, "8", -1, [], {}, float("inf")):
            state = json.loads(text)
            part = state
            for name in place[:-1]:
                part = part[name]
            before = part[place[-1]]
            if fits(before, wrong, place):
                continue
            part[place[-1]] = wrong
            with pytest.raises(ValueError, match=r"state\.json"):
                _saved.check(json.dumps(state), 2)


def fits(before: Any, wrong: Any, place: tuple[Any, ...]) -> bool:
    """Whether a value has the type to replace another one."""
    if type(before) is type(wrong) and before == wrong:
        return True
    optional = place[-1] in ("foreach", "fused", "date", "reference")
    if isinstance(wrong, bool):
        return isinstance(before, bool) or (optional and place[-1] in ("foreach", "fused"))
    if isinstance(wrong, str):
        return isinstance(before, str) or place[-1] in ("date", "reference")
    negative = ("sums", "norms", "numbers", "betas")
    return wrong == -1 and any(name in place for name in negative)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"step": 3}, "the folder is named for 4"),
        ({"tally": {"updates": [1, 1]}}, "do not make up 4"),
        ({"identity": {"steps": 3}}, "step is 4 in a run of 3 updates"),
        ({"identity": {"steps": True}}, "in a run of True updates"),
    ],
)
def test_the_step_fits_all_else(finished: Path, change: dict[str, Any], word: str) -> None:
    state = json.loads((finished / "checkpoints" / NEWEST / "state.json").read_text("utf-8"))
    for name, value in change.items():
        state[name] = {**state[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=word):
        _saved.check(json.dumps(state), 4)


def test_positions_fit_the_updates(finished: Path) -> None:
    state = json.loads((finished / "checkpoints" / NEWEST / "state.json").read_text("utf-8"))
    config = TrainConfig(batch_size=4)
    _saved.check_positions(finished, state, config)
    state["positions"][1] += 1
    with pytest.raises(InputError, match="do not read so many rows") as error:
        _saved.check_positions(finished, state, config)
    assert error.value.field == "positions.1"


def test_true_is_not_one_in_the_settings_of_a_run() -> None:
    for found, expected in ((True, 1), (0, False), ([1, True], [1, 1]), ({"a": 1}, {"a": True})):
        with pytest.raises(InputError, match="belongs to another run"):
            checkpoints.check_same_run(Path(), {"identity": {"x": found}}, {"x": expected})
    checkpoints.check_same_run(Path(), {"identity": {"x": [1, {"a": 2.0}]}}, {"x": [1.0, {"a": 2}]})


def test_no_damage_to_a_reference_cache_is_accepted(tmp_path: Path) -> None:
    rng, accepted = random.Random(5), 0
    about = {"weights": "a" * 64, "rows": "b" * 64, "precision": "fp32"}
    path = _reference_cache.cache_path(tmp_path, about)
    _reference_cache.write(path, torch.randn(9, 2), about)
    whole = path.read_bytes()
    for _ in range(TRIES):
        rng.choice(HARMS[:-1])(path, rng)
        try:
            _reference_cache.read(path, about, 9)
            accepted += 1
        except InputError:
            pass
        path.write_bytes(whole)
    assert accepted == 0
    assert _reference_cache.read(path, about, 9).shape == (9, 2)
    assert path.stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize(
    "other", [{"rows_per_forward": 3}, {"layout": "padded"}, {"precision": "bf16"}], ids=str
)
def test_a_cache_is_named_for_all_that_makes_it(tmp_path: Path, other: dict[str, Any]) -> None:
    settings = {"reference_cache": str(tmp_path), "layout": "packed", "steps": 9}
    for more in ({}, other):
        run = trainer(**{**settings, **more})
        _reference.cached(run.scorer, run._bare, run.data, run.needed, iter)
    assert len(list(tmp_path.iterdir())) == 4  # Two sets of pairs for each.


# ---------------------------------------------------------------------- whole models


def test_each_weight_of_a_model_counts() -> None:
    rng, model = random.Random(6), tiny_llama(50)
    found = {model_fingerprint(model)}
    for weight in model.parameters():
        with torch.no_grad():
            weight.flatten()[rng.randrange(weight.numel())] *= 1.5
        found.add(model_fingerprint(model))
    assert len(found) == 1 + len(list(model.parameters()))


def test_the_configuration_of_a_model_counts() -> None:
    model = tiny_llama(50)
    before = model_fingerprint(model)
    model.config.rope_parameters["rope_theta"] = 5.0
    assert model_fingerprint(model) != before


def changed(source: Path) -> Any:
    """A model in which one weight of many differs."""
    model = in_memory(source)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5, 7] *= 1.5
    return model


def test_a_run_does_not_go_on_upon_another_base(tmp_path: Path) -> None:
    base = write(tmp_path / "base")
    settings = {"output": tmp_path / "run", "lora": LORA, "steps": 2}
    trainer(model=in_memory(base), **settings).train(progress=False)
    with pytest.raises(InputError, match="its model differs"):
        trainer(model=changed(base), **settings).train(progress=False)


def test_a_run_does_not_go_on_with_another_reference(tmp_path: Path) -> None:
    place = write(tmp_path / "reference")
    settings = {"reference": str(place), "reference_mode": "second_model", "steps": 2}
    trainer(output=tmp_path / "run", **settings).train(progress=False)
    changed(place).save_pretrained(place)
    with pytest.raises(InputError, match="the reference has changed since the run began"):
        trainer(output=tmp_path / "run", **settings).train(progress=False)


def test_adapters_are_not_loaded_upon_a_base_that_has_changed(tmp_path: Path) -> None:
    base = write(tmp_path / "base")
    trainer(model=in_memory(base), output=tmp_path / "run", lora=LORA, steps=2).train(
        progress=False
    )
    places = [tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-00000002"]
    for place in places:
        models.load(ModelConfig(path=str(place)))
    changed(base).save_pretrained(base)
    for place in places:
        with pytest.raises(InputError, match=r"has changed since.*model\.safetensors"):
            models.load(ModelConfig(path=str(place)))


def test_a_damaged_model_is_not_loaded(run: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "run.toml"):
        path = run / "model" / name
        content = path.read_bytes()
        flip(path, random.Random(7))
        with pytest.raises(InputError, match="the model is damaged: it is not") as error:
            models.load(ModelConfig(path=str(run)))
        assert error.value.file == path
        path.write_bytes(content)
    # A deliberate change, so the seal is removed.
    (run / "model" / "generation_config.json").unlink()
    (run / "model" / _seals.MANIFEST).unlink()
    models.load(ModelConfig(path=str(run)))


def test_what_surrounds_checkpoints_is_sealed_and_written_anew(run: Path) -> None:
    place = run / "checkpoints" / NEWEST
    flip(run / "checkpoints" / "model" / "config.json", random.Random(8))
    with pytest.raises(InputError, match=r"config\.json: it is not.*once more"):
        models.load(ModelConfig(path=str(place)))
    with pytest.warns(UserWarning, match=r"config\.json.*it is written anew"):
        go_on(run)
    models.load(ModelConfig(path=str(place)))


def test_a_damaged_checkpoint_names_another_one_to_load(run: Path) -> None:
    flip(run / "checkpoints" / NEWEST / "policy.safetensors", random.Random(9))
    with pytest.raises(InputError, match=rf"policy\.safetensors.*{BEFORE} is intact"):
        models.load(ModelConfig(path=str(run / "checkpoints" / NEWEST)))


@pytest.mark.parametrize("fsync", [True, False])
def test_saves_reach_the_disk_unless_that_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool
) -> None:
    assert TrainConfig().fsync
    reached: list[str] = []
    for module in (records, journal):
        monkeypatch.setattr(module, "flush", lambda path: reached.append(path.name))
    settings = {"steps": 1, "reference_cache": str(tmp_path / "cache")}
    trainer(output=tmp_path / "run", fsync=fsync, **settings).train(progress=False)
    expected = {"metrics.jsonl", "policy.safetensors", "state.json", "seal.json", "about.json",
        "model.safetensors", "checkpoints", "run", "cache"}  # fmt: skip
    assert expected <= set(reached) if fsync else not reached


# ---------------------------------------------------------------------- after kills


def test_fewer_checkpoints_are_kept_from_the_start_on(run: Path) -> None:
    go_on(run, keep=1)
    assert [path.name for path in checkpoints.checkpoints(run / "checkpoints")] == [NEWEST]


def test_a_rerun_has_the_finished_model_all_along(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(Path, "replace", watched(Path.replace, run, seen))
    monkeypatch.setattr(shutil, "rmtree", watched(shutil.rmtree, run, seen))
    go_on(run)
    assert len(seen) > 4
    assert all(seen)


def watched(function: Any, run: Path, seen: list[bool]) -> Any:
    """The function, which also records before and after each call whether the model exists."""

    def call(*arguments: Any, **options: Any) -> Any:
        seen.append((run / "model" / "model.safetensors").is_file())
        found = function(*arguments, **options)
        seen.append((run / "model" / "model.safetensors").is_file())
        return found

    return call


def test_a_start_removes_what_killed_processes_left(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 2**22 + 1)  # Larger than any process number of Linux.
        places = [run / "model", run / "checkpoints" / NEWEST]
        left = [
            _leftovers.beside(place, kind)
            for place in places
            for kind in (_leftovers.PARTIAL, _leftovers.OLD, _leftovers.REMOVED)
        ]
    for path in left:
        path.mkdir()
        (path / "half").touch()
    go_on(run)
    assert not any(path.exists() for path in left)
    assert not list(run.rglob("half"))


def test_files_of_a_run_have_ordinary_modes(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) > 15
    modes = {path.stat().st_mode for path in files if path.name != ".lock"}
    assert modes == {(tmp_path / "ordinary").stat().st_mode}
