"""Optima that a run measures itself: short runs on each objective, then the policy as it was."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_runs import LORA, steady, stop_at, trainer, weights

from tradeoff import experiment
from tradeoff.errors import InputError
from tradeoff.llm import optima
from tradeoff.llm.defects import Defects
from tradeoff.methods import Method
from tradeoff.methods.gradients import Famo, PcGrad, SmoothTchebycheff
from tradeoff.schedules import Alright, Mix

AUTO: dict[str, Any] = {"optima": "auto", "steps": 12, "log_every": 3, "evaluate_every": 6}


def test_short_runs_measure_the_optima_and_restore_the_policy() -> None:
    run = trainer("maxright", **AUTO)
    before = weights(run)
    run.begin()
    for name, weight in weights(run).items():
        assert torch.equal(weight, before[name]), name
    assert run.feed.positions == [0, 0]
    assert run.tally.updates == [0, 0]
    assert not run.optimizer.optimizer.state
    assert run.meter.tokens > 0, "the cost of the short runs counts"
    start = [run._mean_training_loss(i, run.known.rows(i)) for i in (0, 1)]
    assert (run.known.optima < np.array(start)).all()
    done = run.train(progress=False)
    assert min(done.summary["updates"].values()) > 0, "gaps count alike, so both are followed"
    assert list(done.summary["optima"]) == ["sft", "preference"]


def test_an_optimum_falls_with_the_least_loss_of_the_run() -> None:
    run = trainer("maxright", **AUTO)
    run.known.set_optima(np.array([2.0, 0.5]))
    run.known.observe(0, 3.0)
    assert run.known.gaps()[0] == pytest.approx(1.0)
    run.known.observe(0, -8.0)  # The running average falls below the measured optimum.
    assert run.known.gaps()[0] == 0.0


def test_only_what_the_method_uses_is_measured() -> None:
    run = trainer("constrained", **AUTO)
    run.begin()
    assert np.isnan(run.known.optima[1])
    assert (
        run.train(progress=False).summary["limit"]["optimum_source"] == "a short run on SFT alone"
    )
    plain = trainer(Alright(lam=0.5), **AUTO)
    assert optima.needed(plain) == []
    assert trainer("alright", **AUTO).train(progress=False).summary["optima"] == {}


def test_a_gradient_rule_that_looks_at_losses_counts_from_them() -> None:
    run = trainer(Method(Mix(), gradient=SmoothTchebycheff()), **AUTO)
    assert optima.needed(run) == [0, 1]
    run.begin()
    assert (run.known.optima > 0).all()
    for rule in (PcGrad(), Famo()):  # One looks at no losses, the other at the losses themselves.
        assert optima.needed(trainer(Method(Mix(), gradient=rule), **AUTO)) == []


@pytest.mark.slow
def test_a_run_that_was_interrupted_keeps_them(tmp_path: Path) -> None:
    settings = {**AUTO, "evaluate_every": 2, "lora": LORA}
    whole = trainer("maxright", output=tmp_path / "whole", **settings).train(progress=False)
    stop = [stop_at(4, signal.SIGTERM)]
    parts = trainer("maxright", output=tmp_path / "parts", callbacks=stop, **settings)
    first = parts.train(progress=False)
    assert first.interrupted
    again = trainer("maxright", output=tmp_path / "parts", **settings)
    done = again.train(progress=False)
    assert done.summary["optima"] == first.summary["optima"] == whole.summary["optima"]
    assert steady(done.table).equals(steady(whole.table))
    longer = trainer("maxright", output=tmp_path / "parts", **settings | {"steps": 80})
    with pytest.raises(InputError, match='short runs of optima = "auto"'):
        longer.train(progress=False)


def test_a_short_run_that_diverges_is_an_error() -> None:
    with pytest.raises(InputError, match=r"on the sft objective alone diverges.*learning_rate"):
        trainer("maxright", **AUTO | {"learning_rate": 1e30, "steps": 40}).begin()


def as_before(run: Any, before: dict[str, torch.Tensor]) -> bool:
    """Whether a run has these weights, no gradient, and nothing from an update."""
    same = all(torch.equal(weight, before[name]) for name, weight in weights(run).items())
    clear = all(p.grad is None or not p.grad.any() for p in run.policy.parameters())
    return same and clear and not run.optimizer.optimizer.state and run.tally.updates == [0, 0]


def test_after_a_short_run_that_diverges_the_policy_is_as_before() -> None:
    run = trainer("maxright", **AUTO | {"learning_rate": 1e30, "steps": 40})
    before = weights(run)
    for _ in range(2):  # The second call may not train without optima.
        with pytest.raises(InputError, match="alone diverges"):
            run.begin()
        assert as_before(run, before)


def test_a_short_run_that_was_interrupted_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer("maxright", **AUTO)
    before = weights(run)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_descend", interrupted)  # Gradients are there, and the step is not.
        with pytest.raises(KeyboardInterrupt):
            run.begin()
    assert as_before(run, before)
    assert not run.known.measured
    run.begin()
    assert run.known.measured


def test_a_defect_that_compares_losses_with_optima_has_them_measured() -> None:
    run = trainer(Alright(), **AUTO, defects=Defects(stop_at_either_optimum=True))
    assert optima.needed(run) == [0, 1]
    run.begin()
    assert np.isfinite(run.known.optima).all()


def test_a_warm_up_takes_no_larger_part_of_a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer("maxright", **AUTO | {"steps": 40, "warmup": 20})
    rates: list[float] = []
    descend = run._descend

    def watched(*given: Any) -> None:
        descend(*given)
        rates.append(run.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(run, "_descend", watched)
    run.begin()
    assert rates == pytest.approx([0.0025, 0.0075, 0.01, 0.01] * 2)
    assert optima.places(4).tolist() == [0, 1, 2, 3]


def test_the_setting_is_read_from_the_command_line_and_written_back() -> None:
    found = experiment.settings(None, {}, ["train.optima=auto"])
    assert found.train.optima == "auto"
    with pytest.raises(InputError, match="optima"):
        experiment.settings(None, {}, ["train.optima=best"])
