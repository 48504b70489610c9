"""Any checkpoint is a model; a run may become longer if that changes none of its past updates."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows, stop_at, trainer, weights
from test_llm_saved import KINDS, assert_loads_as_trained, in_memory, losses, write
from typer.testing import CliRunner

from tradeoff import experiment
from tradeoff.cli import app
from tradeoff.errors import InputError
from tradeoff.llm import checkpoints, models
from tradeoff.llm.config import Experiment, Lora, ModelConfig, TrainConfig
from tradeoff.llm.evaluation import load
from tradeoff.llm.evaluation.policy import outline
from tradeoff.llm.export import export
from tradeoff.schedules import Sequential

# peft imports from transformers a name that will be removed in version 6.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
RANK_2 = Lora(rank=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model with tied weights."""
    return write(tmp_path_factory.mktemp("base"), tie_word_embeddings=True)


@pytest.fixture(scope="module")
def stopped(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that a signal has stopped, with a checkpoint for each update."""
    folder = tmp_path_factory.mktemp("stopped")
    return stop(in_memory(base), folder, save_every=1, keep=9)


def stop(model: Any, folder: Path, **settings: Any) -> Any:
    run = trainer(model=model, output=folder, callbacks=[stop_at(2, signal.SIGTERM)], **settings)
    assert run.train(progress=False).interrupted
    return run


def frozen_below(folder: Path) -> Any:
    """A model whose first layers are not trained, and differ from those in its files."""
    model = in_memory(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(0.01)
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[0].requires_grad_(False)
    return model


STOPPED = {
    **{k: KINDS[k][:2] for k in ("full", "lora", "dora", "lora after a merge", "two trainers")},
    **{k: KINDS[k][:2] for k in ("lora and an unfrozen weight", "lora of another name")},
    "full, resized": KINDS["full, resized"][:2],
    "frozen layers": (frozen_below, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STOPPED)
def test_a_stopped_run_loads_as_its_newest_checkpoint(base, tmp_path, kind):
    make, lora = STOPPED[kind]
    run = stop(make(base), tmp_path / "run", lora=lora, learning_rate=0.1)
    assert not (tmp_path / "run" / "model").exists()
    assert_loads_as_trained(run, tmp_path / "run")
    # The part that is stored once omits weights that checkpoints or other files hold.
    stored = tmp_path / "run" / "checkpoints" / "model" / "frozen.safetensors"
    apart = ("lora after a merge", "two trainers", "frozen layers")
    assert stored.exists() == (kind in apart)
    assert_loads_as_trained(run, export(tmp_path / "run", tmp_path / "exported"))


def test_a_checkpoint_can_be_named(stopped, tmp_path):
    places = checkpoints.checkpoints(stopped.output / "checkpoints")
    assert [checkpoints.step_of(place) for place in places] == [1, 2, 3]
    found = [losses(stopped, load(place).scorer)[0] for place in places]
    assert found[2] == pytest.approx(losses(stopped, stopped.scorer)[0], abs=1e-6)
    assert len(set(found)) == 3
    every = load(stopped.output / "checkpoints")  # their folder stands for the newest
    assert losses(stopped, every.scorer)[0] == found[2]
    exported = export(stopped.output, tmp_path / "first", checkpoint=1)
    assert losses(stopped, load(exported).scorer)[0] == pytest.approx(found[0], abs=1e-6)
    assert outline(str(places[0]), TrainConfig()).max_length == 512
    assert not models.has_adapter_files(str(places[0]))


def test_what_cannot_be_exported_is_told(stopped, tmp_path):
    with pytest.raises(InputError, match=r"no such checkpoint.*Use one of 1, 2, 3"):
        export(stopped.output, tmp_path / "out", checkpoint=7)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        export(stopped.output, tmp_path / "taken")
    with pytest.raises(InputError, match="there is no such folder"):
        export(tmp_path / "absent", tmp_path / "out")


def cut(checkpoint: Path) -> None:
    file = checkpoint / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def test_damaged_checkpoints_are_left_out_with_a_warning(stopped, tmp_path):
    run = shutil.copytree(stopped.output, tmp_path / "run")
    first, second, third = checkpoints.checkpoints(run / "checkpoints")
    expected = losses(stopped, load(second).scorer)
    cut(third)
    with pytest.warns(UserWarning, match=r"step-00000003 is damaged"):
        assert losses(stopped, load(run).scorer) == pytest.approx(expected)
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        load(third)
    for place in (first, second):
        cut(place)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(InputError, match="nor an intact checkpoint"),
    ):
        load(run)


def test_checkpoints_of_an_older_version_say_what_they_lack(stopped, base, tmp_path):
    run = shutil.copytree(stopped.output, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "model")
    with pytest.raises(InputError, match="start the command of the run once more"):
        load(run)
    again = trainer(model=in_memory(base), output=run, save_every=1, keep=9)
    again.train(progress=False)
    assert_loads_as_trained(again, run / "checkpoints" / "step-00000006")


def test_a_checkpoint_of_another_model_is_refused(stopped, tmp_path):
    run = shutil.copytree(stopped.output, tmp_path / "run")
    trainer(output=tmp_path / "other", lora=RANK_2, steps=1).train(progress=False)
    shutil.rmtree(run / "checkpoints" / "model")
    other = tmp_path / "other" / "checkpoints" / "model"
    shutil.copytree(other, run / "checkpoints" / "model")
    with pytest.raises(InputError, match="of another model"):
        load(run)


def test_a_diverged_run_has_the_model_of_its_last_good_checkpoint(base, tmp_path):
    def poison(run: Any, record: dict[str, Any]) -> None:
        if run.step == 2:
            next(run.model.parameters()).data.fill_(float("nan"))

    settings = {"log_every": 1, "save_every": 1, "callbacks": [poison]}
    run = trainer(model=in_memory(base), output=tmp_path, **settings)
    assert run.train(progress=False).diverged_at == 3
    good = checkpoints.checkpoints(tmp_path / "checkpoints")[-1]
    assert good.name == "step-00000002"
    assert losses(run, load(tmp_path).scorer) == losses(run, load(good).scorer)


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_elsewhere_only(base, tmp_path):
    stop(in_memory(base), tmp_path / "run", lora=RANK_2)
    (place,) = checkpoints.checkpoints(tmp_path / "run" / "checkpoints")
    rows = {"sft": sft_rows(), "preference": preference_rows()}
    few = TrainConfig(steps=1, batch_size=4, max_length=64, holdout=0.2)
    for path in (tmp_path / "run", place):
        settings = Experiment(model=ModelConfig(path=str(path)), train=few)
        run = experiment.prepare(settings, rows, tmp_path / f"next-{path.name}")
        assert run.train(progress=False).summary["adapters"] == "those of the model"
        with pytest.raises(InputError, match="over this one"):
            experiment.prepare(settings, rows, tmp_path / "run")


# ---------------------------------------------------------------------- longer runs


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["mix", "alright", "maxright", "constrained"])
def test_a_finished_run_becomes_longer_bit_for_bit(tmp_path, schedule):
    whole = trainer(schedule, steps=6, log_every=1, warmup=2)
    whole.train(progress=False)
    settings = {"output": tmp_path, "log_every": 1, "warmup": 2}
    trainer(schedule, steps=4, **settings).train(progress=False)
    longer = trainer(schedule, steps=6, **settings, callbacks=[stop_at(4, signal.SIGTERM)])
    assert longer.train(progress=False).interrupted
    # The model of the first end is no longer the model of the run.
    assert not (tmp_path / "model").exists()
    longer.callbacks = ()
    done = longer.train(progress=False)
    assert done.table.step.tolist() == [0, 2, 4, 6]
    assert all(torch.equal(value, weights(longer)[name]) for name, value in weights(whole).items())
    assert_loads_as_trained(longer, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "settings", "cause"),
    [
        ("sft-dpo", {}, "plans its stages"),
        ("rounds", {}, "plans its stages"),
        ("mix", {"decay": "linear"}, "decay = 'linear' depends"),
        ("alright", {"decay": "cosine"}, "decay = 'cosine' depends"),
    ],
)
def test_a_run_that_would_have_been_another_is_not_extended(tmp_path, schedule, settings, cause):
    settings = {"output": tmp_path, **settings}
    trainer(schedule, steps=4, **settings).train(progress=False)
    with pytest.raises(InputError, match=cause) as error:
        trainer(schedule, steps=6, **settings).train(progress=False)
    assert error.value.field == "steps"
    assert (tmp_path / "model").exists()


def test_a_first_stage_that_is_not_over_may_become_longer(tmp_path):
    stop(None, tmp_path, schedule=Sequential(share=0.5), steps=6)  # At the end of the stage.
    longer = trainer(Sequential(share=0.5), steps=8, output=tmp_path)
    longer.train(progress=False)
    whole = trainer(Sequential(share=0.5), steps=8)
    whole.train(progress=False)
    assert all(torch.equal(value, weights(longer)[name]) for name, value in weights(whole).items())


def test_a_run_cannot_become_shorter_than_it_is(tmp_path):
    trainer("mix", steps=4, output=tmp_path).train(progress=False)
    with pytest.raises(InputError, match="done 4 updates already"):
        trainer("mix", steps=3, output=tmp_path).train(progress=False)


# ---------------------------------------------------------------------- epochs


def test_epochs_become_steps_once_the_rows_are_known():
    run = trainer(steps=None, epochs=1.5, preference_batch_size=8)
    largest = max(-(-len(run.data.sft) // 4), -(-len(run.data.preference) // 8))
    assert run.config.steps == run.steps == len(run.plan) == -(-3 * largest // 2) == 6
    assert run.config.epochs is None
    assert run.train(progress=False).summary["steps"] == 6


def test_steps_and_epochs_exclude_each_other():
    assert (TrainConfig().steps, TrainConfig(epochs=2).steps) == (1000, None)
    with pytest.raises(InputError, match="steps = 3 is given, too") as error:
        TrainConfig(steps=3, epochs=1)
    assert error.value.field == "epochs"
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="out of range"):
            TrainConfig(epochs=wrong)


# ---------------------------------------------------------------------- the command line


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_the_command_line_exports_and_evaluates_checkpoints(stopped, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(vars(row))}\n" for row in sft_rows(4)), "utf-8")
    done = command("export", stopped.output, "--checkpoint", 2, "--out", tmp_path / "out", "--json")
    assert json.loads(done.output) == {"written": [str(tmp_path / "out")]}
    place = stopped.output / "checkpoints" / "step-00000002"
    scores = [
        json.loads(command("evaluate", model, "--sft", rows, "--json").output)["parts"][0]
        for model in (place, tmp_path / "out", stopped.output)
    ]
    values = [score["scores"][0]["value"] for score in scores]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert values[0] != pytest.approx(values[2], abs=1e-4)


def test_the_tokenizer_of_a_checkpoint_is_that_of_the_run(stopped):
    _, tokenizer = models.load(ModelConfig(path=str(stopped.output)))
    assert tokenizer.get_vocab() == bpe_tokenizer_hf().get_vocab()
    assert tokenizer.chat_template == bpe_tokenizer_hf().chat_template
    assert len(tokenizer) == tiny_llama(len(tokenizer)).config.vocab_size
