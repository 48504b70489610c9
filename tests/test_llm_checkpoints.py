"""A run that was interrupted, killed or damaged continues as if undisturbed, or gives a reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import (
    LORA,
    PICKED,
    SCHEDULES,
    preference_rows,
    sft_rows,
    start,
    steady,
    stop_at,
    train_here,
    trainer,
    weights,
)
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.optimization import Adafactor

from tradeoff import _seals
from tradeoff.errors import InputError
from tradeoff.llm import _reference_cache, batches, checkpoints
from tradeoff.llm._data import Pair
from tradeoff.llm._scorer import Scorer
from tradeoff.llm.config import Lora
from tradeoff.llm.logprobs import Policy
from tradeoff.schedules import Sequential

DECAYS: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"decay": "cosine", "warmup": 1},
    "linear": {"decay": "linear", "weight_decay": 0.1, "reference": "stage"},
}


def steps_saved(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoints.checkpoints(folder / "checkpoints")]


def log_of(folder: Path) -> pd.DataFrame:
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return steady(pd.DataFrame([json.loads(line) for line in lines]))


def assert_same_end(run: Any, other: Any) -> None:
    """Weights, optimiser, streams and log are equal bit for bit."""
    first, second = weights(run), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert run.feed.positions == other.feed.positions
    assert run.tally.updates == other.tally.updates
    np.testing.assert_array_equal(run.known.numbers(), other.known.numbers())
    pd.testing.assert_frame_equal(log_of(run.output), log_of(other.output), check_exact=True)


# Any two values of schedule, decay and full or LoRA training occur together in some run.
MEETINGS = [
    pytest.param(
        schedule,
        lora,
        decay,
        id=f"{schedule}-{'lora' if lora else 'full'}-{decay}",
        marks=[pytest.mark.slow] if j or schedule not in PICKED else [],
    )
    for i, schedule in enumerate(SCHEDULES)
    for j, decay in enumerate(DECAYS)
    for lora in [LORA if (i + j) % 2 else None]
]


@pytest.mark.parametrize(("schedule", "lora", "decay"), MEETINGS)
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, schedule, lora, decay):
    settings = {"lora": lora, **DECAYS[decay], "log_every": 2, "steps": 5}
    whole = trainer(schedule, output=tmp_path / "whole", **settings)
    whole.train(progress=False)
    # A line of the log spans the interruption and the border of two stages.
    stop = [stop_at(2, signal.SIGTERM)]
    parts = trainer(schedule, output=tmp_path / "parts", callbacks=stop, **settings)
    done = parts.train(progress=False)
    assert (done.interrupted, done.signal) == (True, signal.SIGTERM)
    assert steps_saved(tmp_path / "parts") == [3]
    parts = trainer(schedule, output=tmp_path / "parts", **settings)
    assert not parts.train(progress=False).interrupted
    assert_same_end(whole, parts)


def test_the_same_trainer_goes_on_after_a_signal(tmp_path, capfd):
    whole = trainer(output=tmp_path / "whole")
    whole.train(progress=False)
    parts = trainer(output=tmp_path / "parts", callbacks=[stop_at(2, signal.SIGINT)])
    assert parts.train(progress=False).signal == signal.SIGINT
    assert "interrupted: stopping after this update" in capfd.readouterr().err
    assert parts.train(progress=False).signal == 0
    assert_same_end(whole, parts)


def test_a_stage_that_begins_at_a_checkpoint_forgets_the_optimiser(tmp_path):
    settings = {"schedule": Sequential(share=0.5), "steps": 6, "save_every": 3, "keep": 9}
    whole = trainer(output=tmp_path / "whole", **settings)
    whole.train(progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000006")
    parts = trainer(output=tmp_path / "parts", **settings)
    parts.train(progress=False)
    assert_same_end(whole, parts)


def adafactor(groups: Any, config: Any, **settings: Any) -> Any:
    """Adafactor of transformers, which counts its updates in whole numbers of Python."""
    settings = {"lr": config.learning_rate, "relative_step": False, **settings}
    return Adafactor(groups, scale_parameter=False, **settings)


class Projected(torch.optim.SGD):
    """An optimiser that remembers an object of its own, as GaLore does."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["projector"] = object()


def test_an_optimiser_that_remembers_numbers_goes_on_bit_for_bit(tmp_path):
    own = {"optimizer": partial(adafactor, beta1=0.9), "schedule": "sft-dpo"}
    whole = trainer(output=tmp_path / "whole", **own)
    whole.train(progress=False)
    trainer(output=tmp_path / "parts", callbacks=[stop_at(4, signal.SIGTERM)], **own).train()
    parts = trainer(output=tmp_path / "parts", **own)
    parts.train(progress=False)
    assert_same_end(whole, parts)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (lambda groups, config: Projected(groups, lr=0.1), "cannot hold the 'projector'"),
        (lambda groups, config: torch.optim.SGD(groups[:1]), "leaves out 5 trained weights"),
        (lambda groups, config: None, "makes an optimiser"),
        (torch.optim.AdamW, "makes an optimiser"),
    ],
)
def test_an_optimiser_that_cannot_be_used_is_found_before_the_second_update(own, words, tmp_path):
    with pytest.raises(InputError, match=words):
        trainer(output=tmp_path, optimizer=own).train(progress=False)


def test_smaller_passes_and_another_layout_do_not_change_the_run(tmp_path):
    trainer(output=tmp_path, callbacks=[stop_at(2, signal.SIGTERM)]).train(progress=False)
    parts = trainer(output=tmp_path, rows_per_forward=1, layout="padded")
    parts.train(progress=False)
    whole = trainer()
    whole.train(progress=False)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weight, weights(parts)[name], rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------- killed

LONG = {"steps": 60, "save_every": 1, "evaluate_every": 20, "log_every": 7, "schedule": "maxright"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = trainer(output=tmp_path_factory.mktemp("whole"), **LONG)
    run.train(progress=False)
    return run


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_complete_checkpoint(tmp_path, uninterrupted):
    """SIGKILL at random times. With a checkpoint at each update, many kills hit a write."""
    rng, killed = np.random.default_rng(0), 0
    while True:
        before = steps_saved(tmp_path)
        process = start(train_here, tmp_path, LONG)
        until = time.monotonic() + 30
        while steps_saved(tmp_path) == before and process.is_alive():
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.15))
        # Unlike os.kill, this raises no error if the last process has already ended.
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        killed += process.exitcode == -signal.SIGKILL
        assert len(steps_saved(tmp_path)) <= 3
        if steps_saved(tmp_path)[-1] == 60:
            break
    last = trainer(output=tmp_path, **LONG)
    last.train(progress=False)
    assert killed >= 3
    assert_same_end(uninterrupted, last)


SAVED_OFTEN = {"save_every": 2, "steps": 6, "keep": 1}


@pytest.fixture(scope="module")
def saved_often(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = trainer(output=tmp_path_factory.mktemp("often"), **SAVED_OFTEN)
    run.train(progress=False)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("point", ["safetensors", "state.json", "seal", "rename", "removal"])
def test_a_kill_at_each_point_of_a_write_loses_nothing_before_it(
    tmp_path, monkeypatch, saved_often, point
):
    """Stop the write in the middle, as a kill would, and then read the disk."""

    class Killed(BaseException):
        pass

    def killed(*arguments: Any, **options: Any) -> Any:
        raise Killed

    def kill(run: Any, record: dict[str, Any]) -> None:
        if run.step == 2:  # The next write is that of update 4.
            if point == "safetensors":
                monkeypatch.setattr(checkpoints, "save_file", half)
            elif point == "state.json":
                monkeypatch.setattr(Path, "write_bytes", killed)
            elif point == "seal":
                monkeypatch.setattr(_seals, "seal_folder", killed)
            elif point == "rename":
                monkeypatch.setattr(Path, "replace", killed)
            else:
                monkeypatch.setattr(checkpoints, "remove_older", killed)

    def half(content: Any, path: Path) -> None:
        save_file(content, path)
        path.write_bytes(path.read_bytes()[:100])
        raise Killed

    with pytest.raises(Killed):
        trainer(output=tmp_path, callbacks=[kill], **SAVED_OFTEN).train(progress=False)
    monkeypatch.undo()
    assert steps_saved(tmp_path) == ([2, 4] if point == "removal" else [2])
    again = trainer(output=tmp_path, **SAVED_OFTEN)
    again.train(progress=False)
    assert_same_end(saved_often, again)
    assert steps_saved(tmp_path) == [6]
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_sigterm_of_another_process_saves_and_ends_it_cleanly(tmp_path):
    settings = {"steps": 100_000, "log_every": 1}
    process = start(train_here, tmp_path / "run", settings, tmp_path / "end.json")
    until = time.monotonic() + 30
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and '"train"' in log.read_text("utf-8")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.terminate()
    process.join(30)
    assert process.exitcode == 0
    end = json.loads((tmp_path / "end.json").read_text("utf-8"))
    assert end["signal"] == signal.SIGTERM
    assert steps_saved(tmp_path / "run") == [end["steps"]]


# ---------------------------------------------------------------------- what is kept and refused


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "expected"), [(1, [6]), (2, [4, 6]), (9, [2, 4, 6])])
def test_the_newest_checkpoints_stay(tmp_path, keep, expected):
    trainer(output=tmp_path, save_every=2, keep=keep).train(progress=False)
    assert steps_saved(tmp_path) == expected


def test_a_run_that_begins_anew_clears_the_old_one_away(tmp_path):
    trainer(output=tmp_path, steps=6).train(progress=False)
    stop = [stop_at(0, signal.SIGTERM)]
    run = trainer("mix", output=tmp_path, callbacks=stop)
    run.train(progress=False, resume=False)
    assert steps_saved(tmp_path) == [1]
    assert "train" not in set(log_of(tmp_path).kind)
    assert not (tmp_path / "model").exists()


def test_a_model_without_checkpoints_is_not_trained_again_unasked(tmp_path):
    trainer(output=tmp_path, steps=1).train(progress=False)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        trainer(output=tmp_path, steps=1).train(progress=False)
    assert (tmp_path / "model").is_dir()
    assert trainer(output=tmp_path, steps=1).train(progress=False, resume=False).signal == 0


def test_a_model_that_was_trained_in_memory_is_named(tmp_path):
    model = tiny_llama(400)
    first, second = (trainer(output=tmp_path, steps=1, model=model) for _ in range(2))
    first.train(progress=False)
    with pytest.raises(InputError, match="changed since this trainer was made"):
        second.train(progress=False)
    with pytest.raises(InputError, match="Load the model from which it began"):
        trainer(output=tmp_path, steps=1, model=model).train(progress=False)


def test_a_folder_that_is_no_run_loses_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    stop = [stop_at(0, signal.SIGTERM)]
    trainer("mix", output=tmp_path, callbacks=stop).train(progress=False)
    assert (tmp_path / "model" / "mine").exists()


def test_a_finished_run_that_is_asked_again_repeats_no_evaluation(tmp_path):
    run = trainer(output=tmp_path)
    before = run.train(progress=False).table
    pd.testing.assert_frame_equal(run.train(progress=False).table, before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with several checkpoints, for tests that damage a copy."""
    folder = tmp_path_factory.mktemp("finished")
    trainer(output=folder, save_every=2).train(progress=False)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("schedule", {"schedule": "mix"}),
        ("learning_rate", {"learning_rate": 1e-3}),
        ("seed", {"seed": 5}),
        ("lora", {"lora": Lora(rank=2)}),
        ("sft", {"sft": sft_rows(22)}),
        ("preference", {"preference": preference_rows(22)}),
        ("model", {"model": tiny_llama(400, hidden_size=16)}),
        ("model", {"model": tiny_llama(400, seed=1)}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(copied, name, other):
    run = trainer(output=copied, **other)
    with pytest.raises(InputError, match="belongs to another run") as error:
        run.train(progress=False)
    assert error.value.field == name
    assert "step-00000006" in str(error.value)


def test_adapters_are_not_put_on_another_model(tmp_path):
    """No checkpoint has the weights under the adapters, so a sample of them must be equal."""
    settings = {"lora": LORA, "steps": 2, "output": tmp_path}
    trainer(**settings).train(progress=False)
    run = trainer(model=tiny_llama(len(bpe_tokenizer_hf()), seed=1), **settings)
    with pytest.raises(InputError, match="belongs to another run") as error:
        run.train(progress=False)
    assert error.value.field == "model"


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_run_of_tied_weights_goes_on(tmp_path, lora):
    def model() -> Any:
        return tiny_llama(len(bpe_tokenizer_hf()), tie_word_embeddings=True)

    whole = trainer(model=model(), output=tmp_path / "a", lora=lora, save_every=4)
    expected = whole.train(progress=False).table
    shutil.rmtree(tmp_path / "a" / "checkpoints" / "step-00000006")
    again = trainer(model=model(), output=tmp_path / "a", lora=lora, save_every=4)
    found = again.train(progress=False).table
    assert again.step == 6
    measured = ["step", "sft_loss", "preference_loss"]
    pd.testing.assert_frame_equal(found[measured], expected[measured], check_exact=True)


def test_settings_that_change_nothing_may_change(tmp_path):
    first = trainer(output=tmp_path, callbacks=[stop_at(2, signal.SIGTERM)])
    first.train(progress=False)
    others = {"log_every": 1, "save_every": 1, "keep": 5, "reference_cache": str(tmp_path / "c")}
    assert trainer(output=tmp_path, **others).train(progress=False).summary["steps"] == 6


def test_a_reference_may_be_spelled_in_another_way(tmp_path):
    trainer(output=tmp_path / "sft", steps=1).train(progress=False)
    for name in ("sft", "sft/", "./sft"):
        place = os.path.join(tmp_path, name)
        done = trainer(output=tmp_path / "run", steps=1, reference=place).train(progress=False)
        assert done.summary["steps"] == 1


def falling(config: Any, clock: Any) -> Any:
    """Rates of a user's own, which depend on the number of updates."""
    return np.linspace(config.learning_rate, 0, len(clock))


def test_a_run_whose_own_rates_depend_on_its_length_is_not_made_longer(tmp_path):
    trainer("mix", output=tmp_path, steps=2, rates=falling).train(progress=False)
    with pytest.raises(InputError, match="a learning rate of one's own depends on"):
        trainer("mix", output=tmp_path, steps=4, rates=falling).train(progress=False)


def reseal(folder: Path) -> None:
    """Seal a checkpoint as it is now."""
    content = json.loads((folder / _seals.MANIFEST).read_text("utf-8"))
    _seals.seal_folder(folder, content["about"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("harm", [cut, Path.unlink], ids=["cut", "absent"])
@pytest.mark.parametrize(
    "file", ["state.json", "policy.safetensors", "optimizer.safetensors", "reference.safetensors"]
)
def test_a_damaged_checkpoint_is_named(copied, file, harm):
    harm(copied / "checkpoints" / "step-00000006" / file)
    with pytest.raises(InputError, match="cannot be read") as error:
        trainer(output=copied).train(progress=False)
    assert error.value.file == copied / "checkpoints" / "step-00000006" / file
    assert "Remove step-00000006 from" in error.value.remedy
    assert "goes on from step-00000004, which is intact" in error.value.remedy


@pytest.mark.parametrize("name", ["step", "tally", "identity"])
def test_a_checkpoint_without_all_of_its_state_is_named(copied, name):
    file = copied / "checkpoints" / "step-00000006" / "state.json"
    found = json.loads(file.read_text("utf-8"))
    del found[name]
    file.write_text(json.dumps(found), "utf-8")
    reseal(file.parent)
    with pytest.raises(InputError, match=f"cannot be read: .*{name}"):
        trainer(output=copied).train(progress=False)


@pytest.mark.parametrize("line", ["{", "[]", '{"step": 1}', '{"kind": "train", "step": "one"}'])
def test_a_broken_line_of_the_log_is_named(copied, line):
    log = copied / "metrics.jsonl"
    log.write_text(f"{line}\n{log.read_text('utf-8')}", "utf-8")
    with pytest.raises(InputError, match="the log cannot be read") as error:
        trainer(output=copied).train(progress=False)
    assert (error.value.file, error.value.row) == (log, 1 if line == "{" else None)
    assert "--no-resume" not in error.value.remedy


def test_a_checkpoint_without_all_weights_is_named(tmp_path):
    trainer(output=tmp_path).train(progress=False)
    file = tmp_path / "checkpoints" / "step-00000006" / "policy.safetensors"
    some = load_file(file)
    some.popitem()
    save_file(some, file)
    reseal(file.parent)
    with pytest.raises(InputError, match="does not hold the trained weights"):
        trainer(output=tmp_path).train(progress=False)


def test_half_a_line_of_the_log_is_left_out(tmp_path):
    trainer(output=tmp_path).train(progress=False)
    before = log_of(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    trainer(output=tmp_path).train(progress=False)
    pd.testing.assert_frame_equal(log_of(tmp_path), before)


# ---------------------------------------------------------------------- the model at the end


def log_probs(model: Any) -> torch.Tensor:
    """Log-probabilities of some pairs."""
    pair = Pair(torch.arange(3, 12).numpy(), torch.arange(3, 9).numpy(), 3)
    batch = batches.pairs([pair], "padded", 0)
    with torch.no_grad():
        return Policy(model.eval()).responses(batch)


# peft imports from transformers a name that will be removed in version 6.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    "lora", [None, LORA, Lora(rank=2, dora=True)], ids=["full", "lora", "dora"]
)
def test_transformers_and_peft_load_what_is_left(tmp_path, lora):
    run = trainer(output=tmp_path, lora=lora)
    run.train(progress=False)
    if lora is None:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert model.config.use_cache
    else:
        base = tiny_llama(len(bpe_tokenizer_hf()))
        model = PeftModel.from_pretrained(base, tmp_path / "model")
    torch.testing.assert_close(log_probs(model), log_probs(run.model), rtol=0, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("the fox").input_ids == bpe_tokenizer_hf()("the fox").input_ids


# ---------------------------------------------------------------------- the cached reference


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of computations of the log-probabilities of all pairs."""
    calls: list[int] = []
    whole = Scorer.log_probs

    def count(self: Any, items: Any, *rest: Any) -> Any:
        calls.append(len(items))
        return whole(self, items, *rest)

    monkeypatch.setattr(Scorer, "log_probs", count)
    return calls


def test_the_reference_is_computed_once_and_kept(tmp_path, counted):
    cache = str(tmp_path / "cache")
    first = trainer(reference_cache=cache).train(progress=False)
    assert counted == [16, 4]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    again = trainer(reference_cache=cache, seed=0).train(progress=False)
    assert counted == [16, 4]
    pd.testing.assert_frame_equal(steady(first.table), steady(again.table))


def test_other_weights_or_rows_get_a_cache_of_their_own(tmp_path, counted):
    settings = {"reference_cache": str(tmp_path), "steps": 1}
    trainer(**settings).train(progress=False)
    trainer(**settings, model=tiny_llama(len(bpe_tokenizer_hf()), seed=1)).train(progress=False)
    trainer(**settings, preference=preference_rows(25)).train(progress=False)
    assert counted == [16, 4, 16, 4, 20, 5]


def test_another_collator_gets_a_cache_of_its_own(tmp_path, counted):
    def own(*given):
        return batches.collate(*given)

    settings = {"reference_cache": str(tmp_path), "steps": 1}
    for more in ({}, {"collator": own}, {"collator": own}):
        trainer(**settings, **more).train(progress=False)
    assert counted == [16, 4, 16, 4]


def test_adapters_that_change_nothing_yet_share_the_cache_of_their_model(tmp_path, counted):
    settings = {"reference_cache": str(tmp_path), "steps": 1}
    trainer(**settings).train(progress=False)
    trainer(**settings, lora=LORA).train(progress=False)
    assert counted == [16, 4]


def test_a_cache_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/x")):
        with pytest.raises(InputError, match="cannot write to the reference cache") as error:
            trainer(reference_cache=str(place))
        assert error.value.field == "reference_cache"


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (cut, "cannot be read"),
        ({"weights": "0" * 64}, "belong to other weights"),
        ({"rows": "0" * 64}, "belong to other rows"),
        (torch.full((16, 2), torch.inf), "does not hold 16 pairs"),
        (torch.tensor([[torch.nan, -1.0]] * 16), "does not hold 16 pairs"),
        (torch.zeros(3, 2), "does not hold 16 pairs"),
    ],
)
def test_a_foreign_or_damaged_cache_is_refused(tmp_path, harm, word):
    settings = {"reference_cache": str(tmp_path), "steps": 1}
    trainer(**settings).train(progress=False)
    for file in tmp_path.iterdir():
        with safe_open(file, framework="pt") as opened:
            about, table = opened.metadata(), opened.get_tensor("log_probs")
        if len(table) != 16:
            continue
        if callable(harm):
            harm(file)
            continue
        about.pop("seal")
        other = (table, {**about, **harm}) if isinstance(harm, dict) else (harm, about)
        _reference_cache.write(file, *other)
    with pytest.raises(InputError, match=word) as error:
        trainer(**settings).train(progress=False)
    assert "Remove the file" in str(error.value)
    assert "reference-" in str(error.value)
