"""Two ranks give the results of one: same choices, losses and weights, with DDP and FSDP2.

The ranks are processes on the CPU that communicate over gloo. accelerate shards on devices only, so
the tests of FSDP switch its path on by hand. The code of this path is accelerate's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from llm_runs import FSDP, LORA, on_ranks, trainer
from safetensors.torch import load_file

from tradeoff.llm import checkpoints
from tradeoff.llm._cuts import Extents, passes
from tradeoff.llm.config import Lora, TrainConfig
from tradeoff.llm.evaluation import load

pytestmark = pytest.mark.slow

ADAPTERS = Lora(rank=2, targets=("q_proj", "v_proj"))
WAYS = {"ddp": ({}, "DistributedDataParallel"), "fsdp": (FSDP, "FSDPPolicy")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs on one rank, each computed once."""
    known: dict[str, tuple[Path, Any]] = {}

    def run(**settings: Any) -> tuple[Path, Any]:
        key = repr(sorted(settings.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[key] = folder, on_ranks(1, folder, **settings)[0]
        return known[key]

    return run


def final(folder: Path) -> dict[str, Any]:
    """Weights of the model folder at the end of a run."""
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def assert_equal_runs(one: tuple[Path, Any], two: tuple[Path, Any], tolerance=1e-9) -> None:
    tables = [pd.DataFrame(rows).drop(columns="kind") for _, rows in (one, two)]
    pd.testing.assert_frame_equal(*tables, rtol=tolerance, atol=tolerance)
    first, second = final(one[0]), final(two[0])
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert (weight.double() - second[name].double()).abs().max() <= tolerance, name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("schedule", "lora"), [("maxright", None), ("constrained", None), ("mix", ADAPTERS)]
)
def test_two_ranks_are_as_one(tmp_path, alone, way, lora, schedule):
    settings = {"schedule": schedule, "lora": lora, "evaluate_every": 1, "clip": 0.1}
    environment, kind = WAYS[way]
    ranks = on_ranks(2, tmp_path, environment, **settings)
    assert ranks[0] == ranks[1]
    assert {row["kind"] for row in ranks[0]} == {kind}
    assert_equal_runs(alone(**settings), (tmp_path, ranks[0]))


def test_a_rank_may_be_left_without_rows(tmp_path, alone):
    """Three rows, two at a time: the second round has one row for two ranks."""
    settings = {"schedule": "alright", "batch_size": 3, "rows_per_forward": 1, "evaluate_every": 1}
    three = Extents(np.ones((3, 1), int), np.zeros(3, int))
    one_row = TrainConfig(rows_per_forward=1)
    assert [keep for _, keep in passes(np.arange(3), three, one_row, 1, 2)] == [1.0, 0.0]
    ranks = on_ranks(2, tmp_path, **settings)
    assert ranks[0] == ranks[1]
    assert_equal_runs(alone(**settings), (tmp_path, ranks[0]))


@pytest.mark.parametrize(
    ("way", "counts"), [("ddp", (2, 1)), ("ddp", (1, 2)), ("fsdp", (2, 1)), ("fsdp", (1, 2))]
)
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, alone, way, counts):
    """SIGTERM reaches the last rank only; all stop at the same update and save."""
    settings = {"schedule": "maxright", "evaluate_every": 1}
    first, second = ((n, tmp_path, WAYS[way][0] if n > 1 else {}) for n in counts)
    stopped = on_ranks(*first, **settings, stop_at=3)
    assert [row["step"] for row in stopped[0]] == [0, 1, 2, 3]
    (path,) = checkpoints.checkpoints(tmp_path / "checkpoints")
    assert path.name == "step-00000004"
    ranks = on_ranks(*second, **settings)
    assert len(ranks[0]) == 7
    assert_equal_runs(alone(**settings), (tmp_path, ranks[0]))


@pytest.mark.parametrize("way", WAYS)
def test_dropout_differs_between_ranks_and_repeats_on_resumption(tmp_path, way):
    settings = {"schedule": "sft-dpo", "lora": LORA, "evaluate_every": 1, "reference": "stage"}
    environment = WAYS[way][0]
    whole = on_ranks(2, tmp_path / "whole", environment, **settings)
    on_ranks(2, tmp_path / "parts", environment, **settings, stop_at=1)
    rest = on_ranks(2, tmp_path / "parts", environment, **settings)
    assert_equal_runs((tmp_path / "whole", whole[0]), (tmp_path / "parts", rest[0]), 1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"reference_mode": "adapter_off", "lora": ADAPTERS},
        {"reference_cache": "cache"},
        {"gradient_checkpointing": True},
        {"model": {"tie_word_embeddings": True}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_fsdp_must_bear(tmp_path, alone, settings):
    if "reference_cache" in settings:
        settings = {"reference_cache": str(tmp_path / "cache")}
    ranks = on_ranks(2, tmp_path, FSDP, schedule="mix", **settings)
    assert_equal_runs(alone(schedule="mix", **settings), (tmp_path, ranks[0]), 1e-6)


@pytest.mark.parametrize(("way", "lora"), [("ddp", None), ("fsdp", ADAPTERS)])
def test_checkpoints_of_two_ranks_are_models(tmp_path, way, lora):
    """Checkpoints are complete models, although each rank of FSDP holds a part of the weights."""
    settings = {"schedule": "mix", "lora": lora, "save_every": 2, "keep": 9, "evaluate_every": 2}
    ranks = on_ranks(2, tmp_path, WAYS[way][0], **settings)
    here = trainer(**settings)
    places = checkpoints.checkpoints(tmp_path / "checkpoints")
    assert [checkpoints.step_of(place) for place in places] == [2, 4, 6]
    for row, place in zip(ranks[0][1:], places, strict=True):
        found = load(place).scorer.mean_sft(here.data.sft_test)["sft_loss"]
        assert found == pytest.approx(row["sft_loss"], abs=1e-6), place.name
    frozen = tmp_path / "checkpoints" / "model" / "frozen.safetensors"
    assert frozen.is_file() == (lora is not None)
    again = load(tmp_path / "model").scorer.mean_sft(here.data.sft_test)["sft_loss"]
    assert again == pytest.approx(ranks[0][-1]["sft_loss"], abs=1e-6)


def test_a_sharded_policy_is_not_copied_for_a_second_model(tmp_path):
    with pytest.raises(AssertionError, match="a sharded policy cannot be copied"):
        on_ranks(2, tmp_path, FSDP, reference_mode="second_model")
