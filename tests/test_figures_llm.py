"""Costs of joint post-training: time and memory of updates, ours and TRL's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from llm_trl import IGNORED
from matplotlib.figure import Figure

from analysis.dossier.cells import MISSING
from analysis.fernando2024 import tables
from analysis.fernando2024.costs import llm_costs, llm_memory, llm_resources
from analysis.fernando2024.costs.live_tensors import LiveTensors
from analysis.fernando2024.costs.shapes_only import shapes_only
from analysis.fernando2024.dossier import DOSSIER
from tradeoff.errors import InputError
from tradeoff.llm import logprobs
from tradeoff.progress import tqdm
from tradeoff.records import read_json, write_json
from tradeoff.study.sources import reached

pytestmark = pytest.mark.slow

FIGURES = ("llm_resources", "llm_memory")


@pytest.fixture(scope="module", autouse=True)
def _two_layers() -> Iterator[None]:
    """Halve the smallest model, whose operators are counted one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(llm_costs.SHAPES["llama-tiny"], "num_hidden_layers", 2)
        yield


@pytest.mark.parametrize("name", FIGURES)
def test_captions_say_what_varies_and_how_to_redraw(name: str) -> None:
    caption = DOSSIER.module(name).CAPTION
    for part in ("hat varies is the", f"python -m analysis {name}"):
        assert part in " ".join(caption.split()), part
    assert len(caption.split()) <= 80


@pytest.mark.parametrize("name", FIGURES)
def test_the_fast_form_runs(name: str, numbers: Callable[[str], dict[str, Any]]) -> None:
    assert numbers(name)


def steps_of(kinds: list[int], probed: list[int], seconds: list[float]) -> pd.DataFrame:
    """Result of :func:`per_update`: 1 is an SFT update, 2 a preference update, 3 both."""
    return pd.DataFrame(
        {
            "seconds": seconds,
            "tokens": 1.0,
            "probed": probed,
            "sft_updates": [kind % 2 for kind in kinds],
            "preference_updates": [kind // 2 for kind in kinds],
            "kind": kinds,
        }
    )


def test_the_time_of_an_update_does_not_depend_on_the_luck_of_a_draw() -> None:
    kinds = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    table = pd.DataFrame(
        {
            "seconds": np.concatenate([[0], np.cumsum(np.where(kinds, 1.0, 3.0))]),
            "tokens": np.arange(11),
            "probe_rows": 0,
            "sft_updates": np.concatenate([[0], np.cumsum(kinds)]),
            "preference_updates": np.concatenate([[0], np.cumsum(1 - kinds)]),
        }
    )
    steps = llm_costs.per_update(table)
    assert len(steps) == 1 + 5
    assert llm_costs.seconds_per_update(steps) == 2.0


def test_a_probe_counts_once_in_ten_updates_however_many_were_seen() -> None:
    plain = steps_of([1, 2, 2], [0, 0, 0], [1.0, 3.0, 3.0])
    probed = steps_of([2], [16], [3.0 + 5.0])
    both = pd.concat([plain, probed])
    assert llm_costs.seconds_per_update(both) == 2.0 + 5.0 / llm_costs.REFRESH


def test_work_of_an_update_by_hand() -> None:
    extents = ([4, 4], 6), ([5, 7], 8)
    costs = SimpleNamespace(passes=2.0, update=lambda lengths, scored: sum(lengths) * 1.0)
    data = SimpleNamespace(
        training=lambda objective: [0, 0], extent=lambda objective, rows: extents[objective]
    )
    trainer: Any = SimpleNamespace(costs=costs, data=data)

    def work(*given: Any) -> tuple[float, float]:
        return llm_costs.work(trainer, steps_of(*given))

    assert work([1, 1], [0, 0], [1, 1]) == (1, 8)
    assert work([3, 3], [0, 0], [1, 1]) == (2, 20)
    assert work([1, 2, 2], [0, 0, 0], [1, 1, 1]) == (1, 10)
    # A forward pass of both batches every tenth update, half a gradient each.
    assert work([1, 2, 2], [0, 2, 0], [1, 1, 1]) == pytest.approx((1.1, 11))


@pytest.fixture(scope="module")
def setting() -> Any:
    return replace(llm_resources.FORMS["fast"].setting, updates=12)


def test_every_update_of_a_kind_is_the_same_work(setting: Any) -> None:
    trainer, done = llm_costs.by_us(replace(setting, method="alright"))
    tokens = llm_costs.per_update(done.table).groupby("kind")["tokens"]
    assert len(tokens) == 2
    assert (tokens.nunique() == 1).all()
    by_kind = [sum(trainer.data.extent(o, np.arange(setting.batch_size))[0]) for o in (0, 1)]
    assert tokens.first().tolist() == by_kind


def test_maxright_follows_both_objectives_and_compares_a_batch_of_each(setting: Any) -> None:
    trainer, done = llm_costs.by_us(replace(setting, method="maxright"))
    assert min(done.summary["updates"].values()) > 0
    assert trainer.known.probed == 2 * 2 * setting.batch_size


@pytest.mark.filterwarnings(IGNORED)
def test_the_speed_of_trl_counts_the_tokens_of_the_rows_it_is_given(setting: Any) -> None:
    found = llm_costs.measure(replace(setting, method="trl-sft"))
    sft, _ = llm_costs.rows(setting)
    tokens = sum(llm_costs._tokens(row) for row in sft)
    assert found.seconds * found.tokens_per_second == pytest.approx(tokens)
    assert found.utilisation is None


def test_what_does_not_fit_is_told_of(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(llm_costs, "by_trl", full)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    on_gpu = replace(setting, device="cuda", method="trl-dpo")
    assert llm_costs.memory(on_gpu) is None
    assert llm_costs.measure(on_gpu) is None

    class Process:
        """Run the given function at once, in this process."""

        def submit(self, call: Any, given: Any) -> Any:
            if call is llm_costs.memory:
                value: Any = None if given.method in missing else 7
            else:
                late = given.method in missing_later
                value = None if late else llm_costs.Measured(1.0, 1.0, 5.0, None)
            return SimpleNamespace(result=lambda: value)

    monkeypatch.setattr(llm_resources, "apart", lambda: nullcontext(Process()))
    form = replace(llm_resources.FORMS["cpu"], rounds=2)
    missing, missing_later = {"trl-dpo"}, {"trl-sft"}
    found = llm_resources.measure_shape(form, "llama-tiny", tqdm(disable=True))
    assert list(found) == list(llm_resources.METHODS)
    assert found["trl-dpo"] is found["trl-sft"] is None
    assert found["mix"]["memory_ratio"] == [1.0]
    fig = Figure()
    ax = fig.subplots()
    llm_resources.draw(ax, found, "memory", {})
    assert [text.get_text().strip() for text in ax.texts] == 2 * ["out of memory"]
    table = tables.costs({"llm_resources": {"devices": {"x": {"shapes": {"y": found}}}}})
    assert table["ms per gradient"].iloc[-1] == "out of memory"
    assert table["tokens per second"].iloc[-1] == MISSING
    missing = {"sft-dpo"}
    with pytest.raises(InputError, match="memory does not suffice for sequential"):
        llm_resources.measure_shape(form, "llama-tiny", tqdm(disable=True))


def test_costs_are_drawn_by_the_update_as_the_paper_counts(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("llm_resources")["devices"]["cpu"]["shapes"]["llama-tiny"]
    update, gradient = (
        {method: np.median(run[f"{name}_ratio"]) for method, run in found.items()}
        for name in ("seconds_per_update", "seconds")
    )
    assert update["mix"] == pytest.approx(2 * gradient["mix"], rel=1e-4)
    assert update["alright"] == pytest.approx(gradient["alright"], rel=1e-4)
    assert update["maxright"] == pytest.approx(1.1 * gradient["maxright"], rel=1e-4)
    fig = Figure()
    for ax, shape in zip(fig.subplots(1, 2), ("pythia-tiny", "llama-tiny"), strict=True):
        paper = llm_resources.published(shape, "seconds_per_update")
        llm_resources.draw(ax, found, "seconds_per_update", paper)
        squares = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "s"]
        assert bool(squares) == (shape == "pythia-tiny")
        if squares:
            assert [1.37, list(found).index("mix")] in np.round(squares, 9).tolist()
        diamonds = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"]
        assert diamonds[-1] == pytest.approx(update["mix"])
    assert f"n = {llm_resources.FORMS['cpu'].rounds} " in llm_resources.CAPTION


def test_joint_training_holds_hardly_more_tensors_than_one_stage_after_the_other(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("llm_resources")["devices"]["cpu"]["shapes"]["llama-tiny"]
    assert found["alright"]["memory_ratio"][0] <= 1.01
    assert found["mix"]["memory_ratio"][0] <= 1.05


# MAXRIGHT needs most updates, and differs from the others in no way that bf16 would touch.
@pytest.mark.parametrize(
    ("method", "precision"),
    [
        (m, p)
        for m in llm_memory.METHODS
        for p in ("fp32", "bf16")
        if (m, p) != ("maxright", "bf16")
    ],
)
def test_on_shapes_alone_as_many_bytes_are_held_as_in_a_training(
    method: str, precision: Any
) -> None:
    # As few updates as follow both objectives.
    updates = {"alright": 4, "maxright": 6, "sft-dpo": 2}.get(method, 1)
    few = replace(llm_memory.FAST, precision=precision, length=64, updates=updates)
    setting = llm_memory.settings(few, method)
    with LiveTensors() as real:
        llm_costs.by_us(setting)
    # Tensors made outside count too, if they are used without their content.
    assert real.peak <= llm_memory.count(setting) <= 1.001 * real.peak


def test_on_shapes_alone_layer_norms_and_logits_are_those_of_a_gpu() -> None:
    norm, given = torch.nn.LayerNorm(4), torch.ones(3, 4, dtype=torch.bfloat16)
    with shapes_only():
        with torch.autocast("cpu", torch.bfloat16):
            assert norm(given).dtype == torch.float32
        assert logprobs._CHUNK["cpu"] == logprobs._CHUNK["cuda"]
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(given).dtype == torch.bfloat16
    assert logprobs._CHUNK["cpu"] < logprobs._CHUNK["cuda"]


def test_a_count_of_one_objective_only_is_refused() -> None:
    setting = replace(llm_memory.FAST, method="alright", updates=1)
    with pytest.raises(RuntimeError, match="followed one objective only"):
        llm_memory.count(setting)


def test_on_shapes_alone_nothing_is_left_behind() -> None:
    before = (torch.Tensor.numpy, torch.Tensor.tolist, torch.utils.swap_tensors)
    with shapes_only() as seen:
        huge = torch.zeros(10**6, 10**6)
        assert (huge + 1).shape == huge.shape
        assert 0 < float(huge.sum()) < 1
        assert len(huge[0, :3].tolist()) == 3
    assert seen.peak >= 8 * 10**12
    assert (torch.Tensor.numpy, torch.Tensor.tolist, torch.utils.swap_tensors) == before
    assert torch.ones(2).tolist() == torch.ones(2).numpy().tolist() == [1, 1]


def test_memory_of_the_true_shapes(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("llm_memory")["shapes"]["llama-tiny"]
    assert list(found["bytes"]) == list(llm_memory.METHODS)
    assert found["ratio"]["mix"] < 1.05 < found["ratio"][llm_memory.BOTH]
    assert all(peak > found["weights"] for peak in found["bytes"].values())
    # Sixteen layers of 12 d^2, and an embedding and output layer of 50304 d: the model card's 1B.
    pythia = llm_memory.weights(llm_costs.Workload(shape="pythia-1b", precision="bf16"))
    assert pythia == pytest.approx(2 * (16 * 12 * 2048**2 + 2 * 50304 * 2048), rel=1e-3)


def test_what_fails_in_the_other_process_is_raised_here(setting: Any) -> None:
    with llm_resources.apart() as process, pytest.raises(KeyError, match="no-such-shape"):
        process.submit(llm_costs.measure, replace(setting, shape="no-such-shape")).result()


def test_each_shape_is_written_beside_those_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[llm_resources.Form] = []

    def measure(form: llm_resources.Form) -> dict[str, Any]:
        measured.append(form)
        return {"rounds": form.rounds, "shapes": {name: {} for name in form.shapes}}

    monkeypatch.setattr(llm_resources, "measure", measure)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    llm_resources.command(shape="llama-3-8b", out=tmp_path)
    llm_resources.command(shape="pythia-1b", out=tmp_path)
    path = tmp_path / "results" / "llm_resources-h100-80gb-hbm3.json"
    assert set(read_json(path)["shapes"]) == {"llama-3-8b", "pythia-1b"}
    record = read_json(path)
    write_json(path, record | {"torch": "another"})
    llm_resources.command(shape="pythia-1b", out=tmp_path)
    assert set(read_json(path)["shapes"]) == {"pythia-1b"}
    llm_resources.command(compiled=True, out=tmp_path)
    assert measured[-1].setting.compile
    assert (tmp_path / "results" / "llm_resources-h100-80gb-hbm3-compiled.json").exists()


@pytest.mark.filterwarnings(IGNORED)
def test_trl_leaves_its_precision_to_no_one(setting: Any) -> None:
    few = replace(setting, updates=4, precision="bf16")
    llm_costs.by_trl(replace(few, method="trl-sft"))
    assert llm_costs.by_us(replace(few, method="alright"))[1].diverged_at is None


def test_what_other_processes_measure_is_a_source_of_the_figure() -> None:
    found = reached(["analysis.fernando2024.costs.llm_resources:main"])
    assert {
        ("analysis.fernando2024.costs.llm_costs", name) for name in ("by_us", "by_trl", "build")
    } <= found
    assert "tradeoff.llm.trainer" in {module for module, _ in found}
