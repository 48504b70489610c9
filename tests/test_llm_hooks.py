"""Averages, anchors, masks and merges in the trainer, and their state in its checkpoints."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runs import begin, steady, stop_at, trainer, weights

from tradeoff.errors import InputError
from tradeoff.methods import Method, find
from tradeoff.methods.after import Ema
from tradeoff.methods.anchors import Ewc, L2Sp
from tradeoff.methods.merges import WiseFt
from tradeoff.methods.method import IDENTITY, KNOWN
from tradeoff.methods.parameters import GradientMemory, HalfFineTuning, Ogd, Subset, TopGradient
from tradeoff.schedules import Alright, Mix, Sequential

HOOKS = [
    (slot, name)
    for slot in ("anchor", "parameters", "after", "merge")
    for name in KNOWN[slot]
    if name != IDENTITY[slot].name and KNOWN[slot][name]().unsupported("llm") is None
]
FEW = {"ewc": {"count": 3}, "ogd": {"count": 3}, "top_gradient": {"count": 3}}
EVERY = Method(
    Sequential(),
    anchor=Ewc(count=2),
    parameters=HalfFineTuning(),
    after=Ema(decay=0.5),
)


def train(method: Any, **settings: Any) -> Any:
    run = trainer(method, **settings)
    return run, run.train(progress=False)


def test_the_policy_that_is_saved_is_the_average(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    kept: list[dict[str, torch.Tensor]] = []
    run = begin(trainer(Mix(), steps=3))
    for _ in range(3):
        run.update()
        kept.append(weights(run))
    done, result = train(Method(Mix(), after=Ema(decay=1.0)), steps=3, output=tmp_path)
    for name, value in weights(done).items():
        mean = sum(part[name] for part in kept) / 3
        torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-7)
    stored = load_file(next((tmp_path / "model").glob("*.safetensors")))
    own = dict(done.model.named_parameters())
    for name, value in stored.items():
        torch.testing.assert_close(own[name].detach(), value, rtol=0, atol=0)
    # The last evaluation also uses that policy.
    again = done.evaluate()
    assert again["sft_loss"] == pytest.approx(result.table.sft_loss.iloc[-1], rel=1e-6)
    with pytest.raises(InputError, match="cannot be resumed"):
        done.save()


@pytest.mark.slow
@pytest.mark.parametrize("method", [EVERY, find("wise_ft+si+bema", 0.4)], ids=["one", "other"])
def test_what_hooks_remember_goes_on_after_an_interruption(tmp_path: Path, method: Any) -> None:
    whole, result = train(method, output=tmp_path / "whole")
    stop = stop_at(4, signal.SIGTERM)
    _, cut = train(method, output=tmp_path / "cut", callbacks=[stop])
    assert cut.interrupted
    again, resumed = train(method, output=tmp_path / "cut")
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], value, rtol=0, atol=0)
    tables = whole.hooks.tables()
    assert tables.keys() == again.hooks.tables().keys()
    for name, value in again.hooks.tables().items():
        torch.testing.assert_close(tables[name], value, rtol=0, atol=0)
    assert steady(result.table).equals(steady(resumed.table))
    if method is EVERY:  # Once more: at its end, it gives the same policy.
        once_more, _ = train(method, output=tmp_path / "cut")
        for name, value in weights(whole).items():
            torch.testing.assert_close(weights(once_more)[name], value, rtol=0, atol=0)
    with pytest.raises(InputError, match="another run"):
        train(method, output=tmp_path / "cut", steps=8)


def test_parts_whose_memory_begins_with_one_array_are_saved(tmp_path: Path) -> None:
    method = Method(Alright(), parameters=GradientMemory())
    whole, _ = train(method, output=tmp_path / "whole")
    train(method, output=tmp_path / "cut", callbacks=[stop_at(0, signal.SIGTERM)])
    again, _ = train(method, output=tmp_path / "cut")
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], value, rtol=0, atol=0)


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    """Weights of a run of the schedule alone."""
    return weights(train(Sequential(), evaluate_every=6)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("slot", "name"), HOOKS)
def test_every_hook_trains(slot: str, name: str, plain: dict[str, torch.Tensor]) -> None:
    part = KNOWN[slot][name](**FEW.get(name, {}))
    run, done = train(Method(Sequential(), **{slot: part}), evaluate_every=6)
    found = weights(run)
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    assert any(not torch.equal(found[name], plain[name]) for name in found)
    assert done.diverged_at is None


def test_masks_hold_weights_bit_for_bit() -> None:
    for part in (HalfFineTuning(), Subset(pattern=r"q_proj"), TopGradient(count=2, share=0.01)):
        run = trainer(Method(Mix(), parameters=part), steps=2, weight_decay=0.1)
        first = weights(run)
        run.train(progress=False)
        moved = [float((weights(run)[n] != v).float().mean()) for n, v in first.items()]
        assert sum(moved) > 0
        assert min(moved) < 0.1
    held = [n for n, v in weights(run).items() if not torch.equal(v, first[n])]
    assert held


@pytest.mark.slow
def test_anchors_pull_back_and_passes_are_counted() -> None:
    free, _ = train(Mix())
    first = weights(trainer(Mix()))
    held, _ = train(Method(Mix(), anchor=L2Sp(weight=100.0)))

    def moved(run: Any) -> float:
        return float(sum((weights(run)[n] - v).square().sum() for n, v in first.items()))

    assert moved(held) < 0.7 * moved(free)
    plain, asked = trainer(Sequential()), trainer(Method(Sequential(), parameters=Ogd(count=5)))
    tokens = [run.train(progress=False).table.tokens.iloc[-1] for run in (plain, asked)]
    assert tokens[1] > tokens[0]


def test_a_merge_has_both_branches() -> None:
    alone, _ = train(Sequential(lam=0.5), steps=4)
    merged, _ = train(Method(Sequential(lam=0.5), merge=WiseFt(lam=1.0)), steps=4)
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(merged)[name], value, rtol=0, atol=0)


def test_what_cannot_be_trained_says_why() -> None:
    with pytest.raises(InputError, match="not those that are trained"):
        trainer(find("mix+ema"), patience=2)
