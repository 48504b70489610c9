"""Methods in the trainer: their losses, gradient rules, and their state in checkpoints."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_runs import begin, stop_at, trainer, weights

from tradeoff import experiment
from tradeoff.convex import random_log_linear, simulate
from tradeoff.errors import InputError
from tradeoff.llm import _losses
from tradeoff.llm.config import Experiment, TrainConfig, read_experiment
from tradeoff.llm.toml import write_experiment
from tradeoff.methods import Method, find, restored
from tradeoff.methods.gradients import CaGrad, GradDrop, Seen
from tradeoff.methods.losses import Dft, Dpo, Pairs, Responses, SimPo
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import grid, train
from tradeoff.schedules import Alright, Maxright, Mix, Stages


def gradients(method: Any, **settings: Any) -> list[torch.Tensor]:
    """Gradients of the first update; zero where there is none."""
    run = begin(trainer(method, rows_per_forward=4, **settings))
    run._backward(run.feed.passes(0, run.plan.rule, run._follow), joins=run.joining.wanted(0))
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in run.model.parameters()]


def test_a_rule_joins_the_gradients_of_an_update() -> None:
    one, other = gradients(Mix(lam=0.0)), gradients(Mix(lam=1.0))
    flat = np.stack(
        [torch.cat([g.flatten() for g in part]).double().numpy() for part in (one, other)]
    )
    methods = [find("mix+cagrad", 0.3), find("mix+nash_mtl", 0.3), find("mix+agem", 0.3)]
    for method in methods:
        rule = method.gradient
        factors, _ = rule.factors(Seen(flat @ flat.T, np.array([0.7, 0.3]), np.zeros(2)), {})
        found = gradients(method)
        for a, b, both in zip(one, other, found, strict=True):
            expected = factors[0] * a + factors[1] * b
            torch.testing.assert_close(both, expected.to(both.dtype), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_rule_sees_both_gradients_where_a_weight_is_zero(lam: float) -> None:
    run = begin(trainer(find("mix+agem", lam), steps=1, evaluate_every=1))
    middle = begin(trainer(find("mix+agem", 0.5), steps=1, evaluate_every=1))
    for each in (run, middle):
        each.train(progress=False)
    assert run.tally.updates == [1, 1]
    for name, weight in weights(run).items():  # A-GEM has no weights.
        torch.testing.assert_close(weight, weights(middle)[name], rtol=0, atol=0)


def test_coordinates_are_joined_tensor_by_tensor() -> None:
    one, other = gradients(Mix(lam=0.0)), gradients(Mix(lam=1.0))
    whole = gradients(Method(Mix(lam=0.3), gradient=GradDrop(leak=1.0)))
    found, again = (gradients(find("mix+graddrop", 0.3)) for _ in range(2))
    for a, b, both, drawn, same in zip(one, other, whole, found, again, strict=True):
        first, second = 0.7 * a, 0.3 * b
        torch.testing.assert_close(both, first + second, rtol=1e-4, atol=1e-6)
        # Each coordinate has either its positive or its negative parts.
        parts = (
            first.clamp(min=0) + second.clamp(min=0),
            first.clamp(max=0) + second.clamp(max=0),
        )
        nearest = torch.minimum((drawn - parts[0]).abs(), (drawn - parts[1]).abs())
        assert float(nearest.max()) < 1e-4
        torch.testing.assert_close(drawn, same, rtol=0, atol=0)


def test_a_rule_without_effect_trains_as_the_schedule_alone() -> None:
    plain, ruled = trainer(Mix(lam=0.3)), trainer(Method(Mix(lam=0.3), gradient=CaGrad(c=0.0)))
    tables = [run.train(progress=False).table for run in (plain, ruled)]
    np.testing.assert_allclose(tables[0].sft_loss, tables[1].sft_loss, rtol=1e-4)
    np.testing.assert_allclose(tables[0].preference_loss, tables[1].preference_loss, rtol=1e-4)
    assert ruled.joining.wanted(0)
    assert not plain.joining.wanted(0)
    # In stages the rule acts only where both objectives are followed.
    stages = Stages(schedules=(Alright(lam=0.0), Mix()), shares=(0.5, 0.5))
    warm = trainer(Method(stages, gradient=CaGrad()))
    assert [warm.joining.wanted(t) for t in range(6)] == [False] * 3 + [True] * 3


@pytest.mark.slow
def test_what_a_rule_remembers_goes_on_after_an_interruption(tmp_path: Path) -> None:
    method = find("mix+stch", 0.4)
    whole = trainer(method, output=tmp_path / "whole")
    whole.train(progress=False)
    stop = stop_at(4, signal.SIGTERM)
    done = trainer(method, output=tmp_path / "cut", callbacks=[stop]).train(progress=False)
    assert done.interrupted
    again = trainer(method, output=tmp_path / "cut")
    again.train(progress=False)
    assert whole.joining.state() == again.joining.state()
    assert np.isfinite(whole.joining.memory["mean"]).all()
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], value, rtol=0, atol=0)
    with pytest.raises(InputError, match="another run"):
        trainer(Mix(lam=0.4), output=tmp_path / "cut").train(progress=False)


def test_losses_of_a_method_are_trained_and_those_of_the_settings_scored() -> None:
    same = trainer(Method(Mix(), preference=Dpo(beta=0.1)))
    plain = trainer(Mix())
    tables = [run.train(progress=False).table for run in (same, plain)]
    for name in ("sft_loss", "preference_loss", "preference_accuracy"):
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-5)
    other = trainer(find("mix+simpo+dft"), learning_rate=1e-6, steps=2)
    done = other.train(progress=False)
    assert done.table.preference_loss[0] == pytest.approx(np.log(2))
    assert done.log["preference/loss"][0] > 0.72  # SimPO has a target margin beyond the reference.
    assert done.log["sft/loss"][0] < done.table.sft_loss[0]  # Less than one nat each, times p.
    assert done.summary["method"].keys() == {"sft", "preference"}
    assert done.summary["schedule"]["name"] == "mix"


def test_records_are_made_of_what_the_policy_gives() -> None:
    rng = np.random.default_rng(0)
    policy, fixed = (torch.from_numpy(-rng.gamma(2.0, 2.0, 8)) for _ in range(2))
    lengths = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    found = _losses.preference(policy, fixed, lengths, TrainConfig(), SimPo())
    sides = (
        Responses(*(x[part] for x in (policy, fixed, lengths))) for part in (slice(4), slice(4, 8))
    )
    torch.testing.assert_close(found.loss, SimPo().losses(Pairs(*sides)))
    torch.testing.assert_close(found.chosen, 0.1 * (policy - fixed)[:4])
    expected = -(policy.exp() * policy).sum()
    torch.testing.assert_close(_losses.sft_sum(policy, Dft()), expected)


def test_runs_of_different_losses_have_one_yardstick() -> None:
    plain, other = trainer(Mix(), steps=1), trainer(Mix(), steps=1, loss="hinge")
    tables = [run.train(progress=False).table for run in (plain, other)]
    assert "dpo_loss" not in tables[0]
    assert tables[1].dpo_loss[0] == pytest.approx(tables[0].preference_loss[0]) == np.log(2)
    assert tables[1].preference_loss[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (find("alright+pcgrad"), {}, "never follows both"),
        (find("mix+iw_sft"), {}, "no reference log-probabilities of demonstrations"),
        (find("mix+aot"), {}, "pairs of a whole batch"),
        (find("mix+kto"), {}, "only be estimated"),
        (find("mix+asft"), {}, "no reference log-probabilities of demonstrations"),
        (Method(Maxright(), preference=SimPo()), {}, "not those trained"),
        (Mix(), {"loss": "aot"}, "pairs of a whole batch"),
        (find("mix+pcgrad"), {"defects": {"joint_graph": True}}, "defects"),
    ],
)
def test_what_cannot_be_trained_says_why(method: Any, settings: Any, words: str) -> None:
    from tradeoff.llm.defects import Defects

    if "defects" in settings:
        settings = {"defects": Defects(**settings["defects"])}
    with pytest.raises(InputError, match=words):
        trainer(method, **settings)


def test_a_loss_of_a_whole_batch_needs_one_pass() -> None:
    done = trainer(find("mix+aot"), rows_per_forward=4, steps=2).train(progress=False)
    assert np.isfinite(done.log["preference/loss"]).all()


# ---------------------------------------------------------------------- settings


def test_methods_are_named_in_the_settings(tmp_path: Path) -> None:
    flags = {"method": "mix+pcgrad+simpo", "schedule.lam": 0.25}
    found = experiment.settings(None, flags)
    assert found.make_method() == find("mix+pcgrad+simpo", 0.25)
    written = write_experiment(tmp_path / "run.toml", found)
    assert read_experiment(written).make_method() == find("mix+pcgrad+simpo", 0.25)
    # A schedule by its name has the defaults of language models.
    assert experiment.settings(None, {"method": "maxright"}).make_method().schedule.samples == 64
    # Other parts replace those of the file, and a schedule keeps its weight.
    again = experiment.settings(written, {"method": "alright+mgda"}, ["train.steps=3"])
    assert again.schedule == {"name": "alright", "lam": 0.25}
    assert again.method.keys() == {"gradient"}


def test_a_table_of_parts_is_checked() -> None:
    table = {"gradient": {"name": "cagrad", "c": -1.0}}
    with pytest.raises(InputError) as caught:
        Experiment(schedule={"name": "mix"}, method=table).make_method()
    assert caught.value.field == "method.gradient.c"


def test_settings_name_every_loss() -> None:
    assert TrainConfig(loss="simpo", beta=2.0).preference_loss() == SimPo(beta=2.0)
    assert TrainConfig(loss="orpo").preference_loss().weight == 0.1
    assert TrainConfig(label_smoothing=0.1).preference_loss() == Dpo(label_smoothing=0.1)
    for name in ("nominal", "kto"):
        with pytest.raises(InputError, match="loss"):
            TrainConfig(loss=name)


# ---------------------------------------------------------------------- the user's own

OWN = """
from dataclasses import dataclass
from typing import ClassVar

from tradeoff.methods import Method
from tradeoff.methods.gradients import GradientRule
from tradeoff.methods.losses import MarginLoss
from tradeoff.schedules import Mix


@dataclass(frozen=True, kw_only=True)
class Halves(GradientRule):
    name: ClassVar[str] = "halves"

    def factors(self, seen, state):
        return seen.weights * 0.5, state


@dataclass(frozen=True, kw_only=True)
class Squared(MarginLoss):
    name: ClassVar[str] = "squared"

    def of_margin(self, margins):
        return (margins - 1.0) ** 2 / 2


Name = Method(Mix(lam=0.3), gradient=Halves(), preference=Squared())
"""


@pytest.mark.slow
def test_a_method_of_the_users_own_runs_at_every_scale(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_module.py").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    method, label = find("my_package.my_module:Name", 0.4), "Mix, squared, halves"
    table = simulate(random_log_linear(0), method, steps=3, step_size=0.1, replicas=2)
    assert set(table["schedule"]) == {label}
    task = PolicyTask(policy_data(0), PolicyConfig(width=4, depth=1))
    trained = train(task, grid([method], [0]), steps=2, learning_rate=0.1).table
    assert set(trained["schedule"]) == {label}
    done = trainer(method, steps=2, evaluate_every=2).train(progress=False)
    stored = json.loads(json.dumps(done.summary["method"]))
    assert stored["gradient"] == {"name": "my_package.my_module:Halves"}
    assert restored({"schedule": done.summary["schedule"], **stored}) == method
    for found in (table, trained, done.table):
        assert np.isfinite(found[["sft_loss", "preference_loss"]]).all(axis=None)
