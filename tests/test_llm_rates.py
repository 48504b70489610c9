"""Learning rates follow transformers' schedulers, restarted at each stage; costs are counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llm_models import tiny_llama, tiny_neox
from llm_runs import trainer
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma2Config, Gemma2ForCausalLM, get_scheduler

from tradeoff.llm import batches, meter, models
from tradeoff.llm._data import Example
from tradeoff.llm._rates import learning_rates
from tradeoff.llm.config import Lora, TrainConfig
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.meter import Costs, Meter
from tradeoff.schedules import Alright, Maxright, Mix, Sequential, stage_lengths

NAMES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}


def theirs(name: str, warmup: int, steps: int, rate: float) -> list[float]:
    """The rate that transformers' scheduler gives for each update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(NAMES[name], optimizer, warmup, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@given(st.sampled_from(sorted(NAMES)), st.integers(0, 30), st.integers(1, 40))
def test_rates_are_those_of_transformers(decay: Any, warmup: int, steps: int) -> None:
    config = TrainConfig(steps=steps, decay=decay, warmup=warmup, learning_rate=3e-4)
    found = learning_rates(config, np.arange(1, steps + 1))
    np.testing.assert_allclose(found, theirs(decay, warmup, steps, 3e-4), rtol=1e-12, atol=1e-18)


@given(st.integers(2, 60), st.floats(0, 1))
def test_a_stage_begins_anew(steps: int, share: float) -> None:
    config = TrainConfig(steps=steps, decay="cosine", warmup=2)
    clock = Sequential(share=share).plan(steps).clock
    border = round(share * steps)
    expected = [
        *theirs("cosine", 2, border, config.learning_rate),
        *theirs("cosine", 2, steps - border, config.learning_rate),
    ]
    np.testing.assert_allclose(learning_rates(config, clock), expected, rtol=1e-12, atol=1e-18)
    assert stage_lengths(clock).tolist() == [border] * border + [steps - border] * (steps - border)


def test_the_optimiser_runs_at_these_rates() -> None:
    run = trainer(steps=4, decay="linear", warmup=1, log_every=1)
    used = run.train(progress=False).log["learning_rate"]
    np.testing.assert_allclose(used, theirs("linear", 1, 4, 1e-2))


@pytest.mark.parametrize("schedule", [Sequential(), Alright(), Mix()])
def test_updates_of_the_preference_objective_alone_have_their_own_rate(schedule: Any) -> None:
    run = trainer(schedule, steps=6, log_every=1, evaluate_every=1, preference_learning_rate=3e-3)
    done = run.train(progress=False)
    followed = done.table[["sft_updates", "preference_updates"]].diff().iloc[1:].to_numpy()
    expected = np.where(followed[:, 0] == 1, 1e-2, 3e-3)
    np.testing.assert_allclose(done.log["learning_rate"], expected)
    assert len(set(expected)) == (1 if isinstance(schedule, Mix) else 2)


# ---------------------------------------------------------------------- operations


def counted(model: Any, tokens: int, scored: int, backward: bool) -> int:
    """Operations that torch counts for one sequence. Eager attention computes the whole square."""
    item = Example(np.arange(1, tokens + 1), tokens - scored)
    batch = batches.demonstrations([item], "padded", 0)
    policy = Policy(model)
    with FlopCounterMode(display=False) as counter:
        found = policy(batch)
        if backward:
            found.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("make", [tiny_llama, tiny_neox])
@pytest.mark.parametrize("tied", [False, True])
def test_forward_operations_are_those_that_torch_counts(make: Any, tied: bool) -> None:
    model = make(50, tie_word_embeddings=tied, attn_implementation="eager")
    costs = Costs.of(model)
    tokens, scored = 20, 6
    square = 2.0 * costs.layers * costs.width * tokens**2
    # Half of the square of the attention is masked, but torch counts it. It also counts the angles
    # of the positions.
    expected = costs.forward([tokens], scored) + square
    assert counted(model, tokens, scored, False) == pytest.approx(expected, rel=1e-3)


def test_operations_of_an_update_are_three_forward_passes() -> None:
    model = tiny_llama(50, attn_implementation="eager")
    costs = Costs.of(model)
    square = 2.0 * costs.layers * costs.width * 20**2
    # The backward pass computes the logits again, which the convention does not count.
    again = 2 * costs.head * 6
    expected = costs.update([20], 6) + 3 * square + again
    assert counted(model, 20, 6, True) == pytest.approx(expected, rel=1e-3)


def test_operations_by_hand() -> None:
    model = tiny_llama(50)
    # Two layers of width 32: queries, keys of half the width, values, output; three of 64.
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
    costs = Costs.of(model)
    assert (costs.weights, costs.head) == (2 * layer + 50 * 32, 50 * 32)
    assert costs.forward([3, 5], 4) == (2 * 2 * layer * 8 + 2 * 50 * 32 * 4 + 2 * 2 * 32 * (9 + 25))


def test_frozen_weights_cost_two_forward_passes_and_adapters_nothing() -> None:
    plain = Costs.of(tiny_llama(50))
    adapted = Costs.of(models.with_adapters(tiny_llama(50), Lora(rank=2)))
    assert (adapted.weights, adapted.head) == (plain.weights, plain.head)
    assert plain.update([9], 3) == 3 * plain.forward([9], 3)
    assert adapted.update([9], 3) == 2 * adapted.forward([9], 3)


def test_attention_is_as_wide_as_its_heads() -> None:
    config = Gemma2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        tie_word_embeddings=True,
    )
    assert Costs.of(Gemma2ForCausalLM(config)).width == 64


# ---------------------------------------------------------------------- time


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        patch.setattr(meter.time, "perf_counter", lambda: self.now)


def test_the_time_of_every_update_counts_between_two_readings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    found = Meter(torch.device("cpu"))
    for _ in range(3):
        found.start()
        clock.now += 1.0
    found.stop()
    assert found.seconds == 3.0
    clock.now += 10.0  # An evaluation.
    found.start()
    clock.now += 0.5
    found.stop()
    found.stop()
    assert found.seconds == 3.5


def test_time_is_read_after_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def wait(device: Any) -> None:
        clock.now += 2.0

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    found = Meter(torch.device("cuda"))
    found.start()
    clock.now += 1.0
    found.stop()
    assert found.seconds == 3.0


def test_utilisation_is_work_over_the_peak_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Meter(torch.device("cpu"))
    found.seconds, found.flops = 2.0, 989e12
    assert found.utilisation() is None
    found.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert found.utilisation() == pytest.approx(0.5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "something else")
    assert found.utilisation() is None


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_run_counts_all_its_updates_whatever_it_logs(
    log_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    run = trainer(steps=4, log_every=log_every, evaluate_every=4)
    step = run.optimizer.step
    run.optimizer = SimpleNamespace(
        step=lambda: (step(), setattr(clock, "now", clock.now + 1.0)),
        zero_grad=run.optimizer.zero_grad,
        param_groups=run.optimizer.param_groups,
        optimizer=run.optimizer.optimizer,
    )
    assert run.train(progress=False).summary["seconds"] == pytest.approx(4.0)


def test_the_probe_is_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    run = trainer(Maxright(refresh=2, samples=3), steps=4, evaluate_every=4)
    measured = run._mean_training_loss

    def slow(objective: int, rows: np.ndarray) -> float:
        clock.now += 1.0
        return measured(objective, rows)

    monkeypatch.setattr(run, "_mean_training_loss", slow)
    done = run.train(progress=False)
    assert done.summary["seconds"] == pytest.approx(4.0)  # Two objectives at updates 0 and 2.
    assert done.table["probe_rows"].iloc[-1] == 12


def test_the_probe_is_part_of_the_operations_and_not_of_the_tokens() -> None:
    never, often = (
        trainer(Maxright(lam=0.0, refresh=refresh, samples=3), steps=4) for refresh in (None, 2)
    )
    less, more = (run.train(progress=False).summary for run in (never, often))
    assert less["tokens"] == more["tokens"]
    # Both objectives at update 2; those at update 0 are in both runs.
    probed = [often.data.extent(objective, often.known.rows(objective)) for objective in (0, 1)]
    again = sum(often.costs.forward(*extent) for extent in probed)
    assert more["flops"] - less["flops"] == pytest.approx(again)
