"""Early stopping: when a run ends, which weights are saved, and that resuming changes nothing."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import on_ranks, steady, stop_at, trainer, weights
from safetensors.torch import load_file
from test_llm_saved import assert_loads_as_trained

from tradeoff.errors import InputError
from tradeoff.llm import checkpoints
from tradeoff.llm._stopping import Best, best, last_stage, weighted_loss
from tradeoff.llm.config import Lora, TrainConfig
from tradeoff.schedules import Mix, Sequential

WILD: dict[str, Any] = {"steps": 12, "evaluate_every": 1, "learning_rate": 0.1, "log_every": 1}
"""Updates so large that losses soon rise."""


def lines(*values: float | None, first: int = 0) -> list[dict[str, Any]]:
    found = [{"kind": "train", "step": 0, "weighted_loss": -1.0}]
    return found + [
        {"kind": "evaluation", "step": first + step, "weighted_loss": value}
        for step, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "first", "expected"),
    [
        ((3.0, 2.0, 2.5), 0, Best(1, 2.0, 1)),
        ((3.0, 2.0, 2.0, 1.0), 0, Best(3, 1.0, 0)),
        ((2.0, 2.0, 2.0), 0, Best(0, 2.0, 2)),  # A tie is no improvement.
        ((1.0, 3.0, 2.0, 4.0), 1, Best(2, 2.0, 1)),
        ((None, float("nan"), 3.0), 0, Best(2, 3.0, 0)),
        ((3.0, None, float("nan")), 0, Best(0, 3.0, 2)),
        ((), 0, None),
        ((None,), 0, None),
    ],
)
def test_the_best_evaluation_is_the_first_of_the_least(values, first, expected):
    assert best(lines(*values), first) == expected


def test_the_loss_is_weighted_as_the_schedule_weighs():
    record = {"sft_loss": 2.0, "preference_loss": 0.5}
    assert weighted_loss(record, 0.25) == pytest.approx(0.75 * 2.0 + 0.25 * 0.5)
    assert weighted_loss({"preference_loss": 0.5}, 1.0) == 0.5
    assert weighted_loss({"sft_loss": 2.0}, 0.0) == 2.0


def test_stages_count_from_the_last():
    assert last_stage(Mix().plan(10)) == 0
    assert last_stage(Sequential(share=0.5).plan(10)) == 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    run = trainer(Mix(lam=0.3), output=tmp_path_factory.mktemp("whole"), patience=2, **WILD)
    return run, run.train(progress=False)


def test_a_run_stops_early_and_saves_its_best_policy(whole):
    run, done = whole
    table, found = done.table, done.summary["best"]
    assert found["step"] > 0
    weighted = 0.7 * table.sft_loss + 0.3 * table.preference_loss
    assert table.weighted_loss.tolist() == pytest.approx(weighted.tolist())
    assert found == {"step": int(weighted.idxmin()), "weighted_loss": table.weighted_loss.min()}
    assert done.summary["stopped_early"]
    assert done.summary["steps"] == run.step == found["step"] + 2 < run.steps
    assert weights(run)  # Those of the best evaluation, in memory and on disk.
    expected = table.loc[found["step"], ["sft_loss", "preference_loss"]].tolist()
    again = run.evaluate()
    assert [again["sft_loss"], again["preference_loss"]] == pytest.approx(expected, abs=1e-6)
    assert_loads_as_trained(run, run.output)
    log = list(map(json.loads, (run.output / "metrics.jsonl").read_text("utf-8").splitlines()))
    assert (log[-1]["kind"], log[-1]["best_step"]) == ("best", found["step"])
    stored = json.loads((run.output / "summary.json").read_text("utf-8"))
    assert stored["best"]["step"] == found["step"]


def test_without_a_folder_the_same_policy_is_kept_in_memory(whole):
    run, done = whole
    other = trainer(Mix(lam=0.3), patience=2, **WILD)
    assert other.train(progress=False).summary["best"] == done.summary["best"]
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(other).items())
    assert other.train(progress=False).summary["best"] == done.summary["best"]


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [0, 2])
def test_an_interrupted_run_stops_where_the_whole_one_did(whole, tmp_path, stopped_at):
    run, done = whole
    settings = {"output": tmp_path, "patience": 2, "keep": 1, **WILD}
    calls = [stop_at(stopped_at, signal.SIGTERM)]
    assert trainer(Mix(lam=0.3), callbacks=calls, **settings).train(progress=False).interrupted
    for _ in range(2):  # A run that has ended ends again at once.
        rest = trainer(Mix(lam=0.3), **settings)
        found = rest.train(progress=False)
        assert found.summary["best"] == done.summary["best"]
        assert steady(found.table).equals(steady(done.table))
        assert all(torch.equal(value, weights(run)[name]) for name, value in weights(rest).items())
        kept = [checkpoints.step_of(p) for p in checkpoints.checkpoints(tmp_path / "checkpoints")]
        assert kept == [done.summary["best"]["step"], rest.step]


def test_a_removed_best_checkpoint_is_an_error_that_says_so(whole, tmp_path):
    run, done = whole
    folder = shutil.copytree(run.output, tmp_path / "run")
    shutil.rmtree(checkpoints.named(folder / "checkpoints", done.summary["best"]["step"]))
    with pytest.raises(InputError, match=r"lowest weighted held-out loss is gone.*export"):
        trainer(Mix(lam=0.3), output=folder, patience=2, **WILD).train(progress=False)


def test_a_run_that_comes_to_its_end_saves_its_best_policy_too(tmp_path):
    settings = {**WILD, "steps": 4, "patience": 9}
    run = trainer(Mix(lam=0.3), output=tmp_path, lora=Lora(rank=2), **settings)
    done = run.train(progress=False)
    assert not done.summary["stopped_early"]
    assert done.summary["steps"] == 4
    assert_loads_as_trained(run, tmp_path)
    lowest = done.table.weighted_loss.min()
    again = weighted_loss(run.evaluate(), 0.3)
    assert again == pytest.approx(lowest, abs=1e-6)


def test_the_first_stage_is_not_cut_short():
    settings = {**WILD, "learning_rate": 0.3, "patience": 1}
    done = trainer(Sequential(share=0.5), **settings).train(progress=False)
    assert done.summary["best"]["step"] >= 6
    assert done.summary["updates"]["sft"] == 6


def test_all_evaluations_that_count_have_the_reference_of_the_stage() -> None:
    settings = {"steps": 8, "evaluate_every": 2, "reference": "stage", "patience": 9}
    table = trainer(Sequential(share=0.5), **settings).train(progress=False).table
    losses = table.set_index("step").preference_loss
    assert losses[4] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[2] != pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize(("lam", "name"), [(0.5, "sft"), (1.0, "preference"), (0.0, "sft")])
def test_patience_needs_held_out_rows(lam, name):
    with pytest.raises(InputError, match=f"no held-out {name} rows") as error:
        trainer(Mix(lam=lam), holdout=0.0, patience=1)
    assert error.value.field == "patience"
    with pytest.raises(InputError, match="out of range"):
        TrainConfig(patience=0)


@pytest.mark.slow
def test_two_processes_stop_as_one_does(tmp_path: Path) -> None:
    settings = {"schedule": "mix", "patience": 2, **WILD}
    ranks = on_ranks(2, tmp_path, **settings)
    assert ranks[0] == ranks[1]
    # Rounding would grow in Adam's steps, so all values are in float64.
    alone = trainer(model=tiny_llama(len(bpe_tokenizer_hf())).double(), **settings)
    done = alone.train(progress=False)
    assert [row["step"] for row in ranks[0]] == done.table.step.tolist()
    assert done.summary["stopped_early"]
    (file,) = (tmp_path / "model").glob("*.safetensors")
    expected = dict(alone.model.named_parameters())
    for name, value in load_file(file).items():
        assert (value.double() - expected[name].double()).abs().max() < 1e-6, name
